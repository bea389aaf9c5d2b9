package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// objects reads what listen has printed.
func objects(t *testing.T, out string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(out) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, o)
	}
	return all
}

// listenerQueue declares the queue as PikaBus does, which listen -type classic
// takes over.
func listenerQueue(t *testing.T, b *brokertest.Broker) *amqp.Channel {
	t.Helper()
	ch := client(t, b)
	declare(t, ch, "orders", nil)
	return ch
}

func TestListenPrints(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	stamp := time.Unix(1_795_250_857, 0)
	put(t, ch, "orders", amqp.Publishing{
		Headers: amqp.Table{
			"text": "é", "bad": "\xff", "raw": []byte{0, 255}, "yes": true, "none": nil,
			"i8": int8(-8), "u8": uint8(8), "i16": int16(-16), "u16": uint16(16), "i32": int32(-32), "u32": uint32(32), "i64": int64(1)<<62 + 1,
			"f32": float32(1.5), "f64": 0.1, "price": amqp.Decimal{Scale: 2, Value: -150}, "at": stamp,
			"list": []any{int32(1), "two", amqp.Table{"three": []byte("3")}}, "table": amqp.Table{"deep": stamp},
		},
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 2, Priority: 4, CorrelationId: "c", ReplyTo: "r",
		Expiration: "600000", MessageId: "m", Timestamp: stamp, Type: "T", UserId: "guest", AppId: "a",
		Body: []byte(`{"n" : 12345678901234567890, "s" : "<&>"}`),
	})
	r := execute(t, "", "listen", "-take", "-type", "classic", "-count", "1", "-url", url, "orders")
	r.check(t, exitOK, "")
	want := `{"queue":"orders","exchange":"","routing_key":"orders","redelivered":false,"attempt":1,` +
		`"properties":{"content_type":"application/json","content_encoding":"utf-8","delivery_mode":2,"priority":4,"correlation_id":"c",` +
		`"reply_to":"r","expiration":"600000","message_id":"m","timestamp":"2026-11-21T08:47:37Z","type":"T","user_id":"guest","app_id":"a"},` +
		`"headers":{"at":{"$timestamp":"2026-11-21T08:47:37Z"},"bad":{"$text":"/w=="},"f32":1.5,"f64":0.1,"i16":-16,"i32":-32,"i64":4611686018427387905,"i8":-8,` +
		`"list":[1,"two",{"three":{"$bytes":"Mw=="}}],"none":null,"price":{"$decimal":"-1.50"},"raw":{"$bytes":"AP8="},` +
		`"table":{"deep":{"$timestamp":"2026-11-21T08:47:37Z"}},"text":"é","u16":16,"u32":32,"u8":8,"yes":true},` +
		`"body":{"n":12345678901234567890,"s":"<&>"}}` + "\n"
	if r.out != want {
		t.Errorf("printed\n%swanted\n%s", r.out, want)
	}
	if q, _ := b.Queue("orders"); q.Ready+q.Unacked != 0 {
		t.Errorf("the message was not acknowledged: %+v", q)
	}
}

func TestListenPrintsBodies(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	bodies := map[string]string{
		"": `""`, "null": "null", " [1 ,2] ": "[1,2]", `"x"`: `"x"`,
		"hello": `"aGVsbG8="`, "\"\xff\"": `"Iv8i"`, "{} {}": `"e30ge30="`, "NaN": `"TmFO"`, "\xef\xbb\xbf{}": `"77u/e30="`,
	}
	for body := range bodies {
		put(t, ch, "orders", amqp.Publishing{MessageId: fmt.Sprintf("%q", body), Body: []byte(body)})
	}
	r := execute(t, "", "listen", "-take", "-type", "classic", "-count", fmt.Sprint(len(bodies)), "-concurrency", "1", "-url", url, "orders")
	r.check(t, exitOK, "")
	for body, want := range bodies {
		found := false
		for line := range strings.Lines(r.out) {
			if !strings.Contains(line, `"message_id":`+string(must(json.Marshal(fmt.Sprintf("%q", body))))) {
				continue
			}
			found = true
			flagged := strings.HasSuffix(line, `,"body_base64":true}`+"\n")
			if !strings.Contains(line, `"body":`+want) || flagged == isJSON([]byte(body)) {
				t.Errorf("body %q: %s", body, line)
			}
		}
		if !found {
			t.Errorf("body %q was not printed", body)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestListenCount: no message beyond the count is handled, and all of the others
// are back in the queue.
func TestListenCount(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	for i := range 50 {
		put(t, ch, "orders", amqp.Publishing{MessageId: fmt.Sprint(i), Body: []byte("1")})
	}
	r := execute(t, "", "listen", "-take", "-type", "classic", "-count", "12", "-url", url, "orders")
	r.check(t, exitOK, "")
	printed := objects(t, r.out)
	if q, _ := b.Queue("orders"); len(printed) != 12 || q.Ready != 38 || q.Unacked != 0 {
		t.Errorf("%d were printed, the queue is %+v", len(printed), q)
	}
}

// TestListenDeclares: a quorum queue by default, and the topics are bound.
func TestListenDeclares(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs buffer
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{"listen", "-subscribe", "a.*", "-subscribe", "b.#", "-count", "2", "-url", url, "events"}, strings.NewReader(""), &out, &errs)
	}()
	errs.await(t, "consuming")
	execute(t, "", "publish", "-url", url, "a.1", "1").check(t, exitOK, "")
	execute(t, "", "publish", "-url", url, "b.2.3", "2").check(t, exitOK, "")
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d, stderr:\n%s", c, errs.String())
	}
	cancel()
	var keys []string
	for _, o := range objects(t, out.String()) {
		keys = append(keys, fmt.Sprint(o["exchange"], " ", o["routing_key"]))
	}
	slices.Sort(keys)
	if !slices.Equal(keys, []string{"PikaBusTopic a.1", "PikaBusTopic b.2.3"}) {
		t.Errorf("printed %v", keys)
	}
	if q, _ := b.Queue("events"); q.Type != "quorum" {
		t.Errorf("the queue is %+v", q)
	}
}

// TestListenInequivalent: the queue of a PikaBus service is not a quorum queue.
func TestListenInequivalent(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	listenerQueue(t, b)
	execute(t, "", "listen", "-take", "-url", url, "orders").check(t, exitFailed, "taken over with -type classic")
}

func TestListenFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, fail string
		attempts   int
		parked     int
	}{
		{"twice", "2", 3, 0},
		{"always", "-1", 6, 1},
		{"longer-than-retries", "7", 6, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			ch := listenerQueue(t, b)
			put(t, ch, "orders", amqp.Publishing{MessageId: "m", Body: []byte("1")})
			r := execute(t, "", "listen", "-take", "-type", "classic", "-fail", test.fail, "-retry-base", "5ms", "-count", "1", "-url", url, "orders")
			r.check(t, exitOK, "attempt 1 fails")
			printed := objects(t, r.out)
			for i, o := range printed {
				if o["attempt"] != float64(i+1) {
					t.Errorf("line %d is attempt %v", i+1, o["attempt"])
				}
			}
			if len(printed) != test.attempts || len(b.Messages("error")) != test.parked {
				t.Errorf("%d attempts and %d parked, want %d and %d", len(printed), len(b.Messages("error")), test.attempts, test.parked)
			}
			if q, _ := b.Queue("orders"); q.Ready+q.Unacked != 0 {
				t.Errorf("the queue is %+v", q)
			}
		})
	}
}

func TestListenReplies(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	declare(t, ch, "answers", nil)
	put(t, ch, "orders", amqp.Publishing{MessageId: "silent", Body: []byte("1")})
	put(t, ch, "orders", amqp.Publishing{MessageId: "asks", CorrelationId: "c", ReplyTo: "answers", Body: []byte("2")})
	r := execute(t, "", "listen", "-take", "-type", "classic", "-reply", `{"ok" : true}`, "-count", "2", "-url", url, "orders")
	r.check(t, exitOK, "names no address")
	got := b.Messages("answers")
	if len(got) != 1 || string(got[0].Body) != `{"ok" : true}` || got[0].CorrelationId != "c" || got[0].ContentType != "application/json" {
		t.Errorf("replies %+v", got)
	}
}

// brokenWriter fails after some lines.
type brokenWriter struct{ left int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errors.New("no space left on device")
	}
	return len(p), nil
}

// TestListenCannotPrint: what nobody has seen is neither handled nor parked.
func TestListenCannotPrint(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	for i := range 5 {
		put(t, ch, "orders", amqp.Publishing{MessageId: fmt.Sprint(i), Body: []byte("1")})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var errs buffer
	code := run(ctx, []string{"listen", "-take", "-type", "classic", "-url", url, "orders"}, strings.NewReader(""), &brokenWriter{left: 2}, &errs)
	result{code, "", errs.String()}.check(t, exitFailed, "no space left on device")
	result{code, "", errs.String()}.check(t, exitFailed, "abandoned")
	if q, _ := b.Queue("orders"); q.Ready != 3 || q.Unacked != 0 || len(b.Messages("error")) != 0 {
		t.Errorf("the queue is %+v, parked are %v", q, b.Messages("error"))
	}
}

// process runs the command in a process of its own; nobody reads its stdout
// unless read is set.
func process(t *testing.T, errs *buffer, out *os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	cmd.Stderr, cmd.Stdout = errs, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error says that it has ended
	return cmd
}

func signalTo(t *testing.T, cmd *exec.Cmd, sig os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// TestListenDrains: after SIGTERM the messages in hand are done and acknowledged.
func TestListenDrains(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	put(t, ch, "orders", amqp.Publishing{MessageId: "m", Body: []byte("1")})
	var errs buffer
	out := must(os.CreateTemp(t.TempDir(), "out"))
	cmd := process(t, &errs, out, "listen", "-take", "-type", "classic", "-url", url, "orders")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.WaitQueue(ctx, "orders", func(q brokertest.Queue) bool { return len(q.Consumers) == 1 && q.Ready+q.Unacked == 0 }); err != nil {
		t.Fatal(err, errs.String())
	}
	signalTo(t, cmd, syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v, stderr:\n%s", err, errs.String())
	}
	if printed := objects(t, string(must(os.ReadFile(out.Name())))); len(printed) != 1 {
		t.Errorf("printed %v", printed)
	}
}

// TestListenSecondSignal: a message that cannot be printed because nobody reads
// keeps the command from ending in order.
func TestListenSecondSignal(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	put(t, ch, "orders", amqp.Publishing{MessageId: "stuck", Body: []byte(`"` + strings.Repeat("x", 1<<20) + `"`)})
	reader, writer, err := os.Pipe() // holds less than the message
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = reader.Close(), writer.Close() }()
	var errs buffer
	cmd := process(t, &errs, writer, "listen", "-take", "-type", "classic", "-url", url, "orders")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.WaitQueue(ctx, "orders", func(q brokertest.Queue) bool { return q.Unacked == 1 }); err != nil {
		t.Fatal(err, errs.String())
	}
	if _, err := reader.Read(make([]byte, 1)); err != nil { // it is printing
		t.Fatal(err)
	}
	signalTo(t, cmd, os.Interrupt)
	errs.await(t, "a second signal ends at once")
	started := time.Now()
	signalTo(t, cmd, os.Interrupt)
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != exitFailed || time.Since(started) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(started))
	}
	if !strings.Contains(errs.String(), `abandoned 1 messages, which will be delivered again: "stuck"`) {
		t.Errorf("stderr:\n%s", errs.String())
	}
	if err := b.WaitQueue(ctx, "orders", func(q brokertest.Queue) bool { return q.Ready == 1 && q.Unacked == 0 }); err != nil {
		t.Error(err)
	}
}

// TestListenClaims: nothing is taken out of a queue that is there already, and none
// springs into existence, unless that is said.
func TestListenClaims(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		there bool
		args  []string
		code  int
		words string
	}{
		{"there", true, nil, exitFailed, `queue "orders" is there already, with 1 messages and 0 consumers`},
		{"there-subscribe", true, []string{"-subscribe", "a.*"}, exitFailed, "-take allows that"},
		{"there-create", true, []string{"-create"}, exitFailed, "redrive -dry-run -json -error-queue orders"},
		{"there-take", true, []string{"-take"}, exitOK, ""},
		{"mistyped", false, nil, exitFailed, `there is no queue "orders"; correct the name`},
		{"mistyped-take", false, []string{"-take"}, exitFailed, `there is no queue "orders" to take from`},
		{"create", false, []string{"-create"}, exitOK, `making queue "orders"; it stays`},
		{"subscribe", false, []string{"-subscribe", "a.*"}, exitOK, `making queue "orders"; it stays`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			ch := client(t, b)
			if test.there {
				listenerQueue(t, b)
				put(t, ch, "orders", amqp.Publishing{Body: []byte("1")})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var out, errs buffer
			code := make(chan int, 1)
			args := append([]string{"listen", "-type", "classic", "-error-queue", "x", "-count", "1", "-url", url}, test.args...)
			go func() { code <- run(ctx, append(args, "orders"), strings.NewReader(""), &out, &errs) }()
			if test.code == exitOK && !test.there {
				errs.await(t, "consuming")
				put(t, ch, "orders", amqp.Publishing{Body: []byte("1")})
			}
			result{<-code, out.String(), errs.String()}.check(t, test.code, test.words)
			q, exists := b.Queue("orders")
			if want := test.there || test.code == exitOK; exists != want {
				t.Errorf("the queue exists: %v, want %v", exists, want)
			}
			if test.there && test.code != exitOK && (q.Ready != 1 || out.String() != "") {
				t.Errorf("%d messages are left, printed %q", q.Ready, out.String())
			}
			if _, made := b.Queue("x"); made && test.code != exitOK {
				t.Error("the error queue was made")
			}
		})
	}
}
