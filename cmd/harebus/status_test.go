package main

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/pulse"
)

// serving starts an instance of a service that answers, and has it handle a message and park another.
func serving(t *testing.T, b *brokertest.Broker, c pulse.Config, queue string) *harebus.Setup {
	t.Helper()
	p, err := pulse.New(c)
	if err != nil {
		t.Fatal(err)
	}
	cfg := harebus.Config{URL: b.URL(), Dial: b.Dial, Queue: queue}
	p.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	setup.HandleMessage("Place", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		if m.Body[0] != '{' {
			return harebus.NoRetry(errors.New("no"))
		}
		return nil
	})
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, setup) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-served, setup.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, body := range []any{map[string]int{"ID": 7}, "text"} {
		if err := setup.Bus().Send(t.Context(), queue, body, harebus.WithType("Place")); err != nil {
			t.Fatal(err)
		}
	}
	parked := b.WaitQueue(t.Context(), "error", func(q brokertest.Queue) bool { return q.Ready > 0 })
	handled := b.WaitQueue(t.Context(), queue, func(q brokertest.Queue) bool { return q.Ready+q.Unacked == 0 })
	if err := errors.Join(parked, handled); err != nil {
		t.Fatal(err)
	}
	listens(t, b, "instance."+p.Instance())
	return setup
}

// listens waits until somebody can be asked under a key.
func listens(t *testing.T, b *brokertest.Broker, key string) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); ; {
		for _, binding := range b.Bindings() {
			if binding.Source == pulse.Exchange && binding.RoutingKey == key {
				return
			}
		}
		if time.Now().After(late) {
			t.Fatal("nobody can be asked")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pretend is a stranger who answers every question with a text.
func pretend(t *testing.T, b *brokertest.Broker, body string) {
	t.Helper()
	ch := client(t, b)
	if err := ch.ExchangeDeclare(pulse.Exchange, "direct", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclare("", false, false, true, false, nil)
	if err == nil {
		err = ch.QueueBind(q.Name, "all", pulse.Exchange, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	questions, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for d := range questions {
			_ = ch.PublishWithContext(context.Background(), "", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, Body: []byte(body)})
		}
	}()
}

// TestStatus: a line for each queue of each instance, and what is known of a queue of which no instance answers.
func TestStatus(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "stock", nil)
	r := execute(t, "", "status", "-url", url)
	r.check(t, exitOK, "")
	if r.out != "no instance has answered; services answer if they use package pulse\n" {
		t.Errorf("printed %s", r.out)
	}
	serving(t, b, pulse.Config{Version: "1.8.2"}, "orders")
	serving(t, b, pulse.Config{Service: "pay"}, "payments")
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"all", `(?s)^INSTANCE .*\n\S+  orders   1\.8\.2    \S+ +orders +consumes  10 +0 +- +1 +1 +0 +1 +\S+/\S+ +\S+/\S+\n\S+  pay .*payments .*\n$`, nil},
		{"types", `(?s)orders .*\n +Place +1 +1 +0 +1 .*payments`, []string{"-types"}},
		{"one", `(?s)^INSTANCE[^\n]*\n[^\n]*payments [^\n]*\n$`, []string{"payments"}},
		{"silent", `(?s)^INSTANCE[^\n]*\n[^\n]*orders [^\n]*\n\? absent: no answer; there is no such queue\n\? stock: no answer; 0 messages are ready, and it has 0 consumers\n$`, []string{"orders", "stock", "absent"}},
	} {
		r := execute(t, "", append([]string{"status", "-url", url}, test.args...)...)
		r.check(t, exitOK, "")
		if !regexp.MustCompile(test.want).MatchString(r.out) {
			t.Errorf("%s: printed\n%swanted %s", test.name, r.out, test.want)
		}
	}
	r = execute(t, "", "status", "-json", "-url", url)
	r.check(t, exitOK, "")
	if got := objects(t, r.out); len(got) != 2 || got[0]["service"] != "orders" || got[0]["version"] != "1.8.2" {
		t.Errorf("printed %s", r.out)
	}
}

// TestStatusInAlarm: an alarm is said, and the exit code is 1, also by the first question, which the broker still takes.
func TestStatusInAlarm(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"text": nil, "json": {"-json"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			serving(t, b, pulse.Config{}, "orders")
			b.Block("low on disk")
			for n := range 2 {
				r := execute(t, "", append([]string{"status", "-wait", "500ms", "-url", url}, flags...)...)
				r.check(t, exitFailed, "")
				if answered := strings.Contains(r.out, "orders"); !strings.Contains(r.out+r.err, "the broker takes no messages now: low on disk") || answered != (n == 0) {
					t.Errorf("question %d: %s%s", n+1, r.out, r.err)
				}
			}
			b.Unblock()
		})
	}
}

// TestTop: a line for each queue of each service, with rates, the error queue, and instances that do not answer any more.
func TestTop(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	setup := serving(t, b, pulse.Config{Version: "1"}, "orders")
	serving(t, b, pulse.Config{Version: "2"}, "orders")
	ch := client(t, b)
	if _, err := ch.Consume("orders", "stranger", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	r := execute(t, "", "top", "-every", "400ms", "-url", url, "orders", "absent")
	r.check(t, exitOK, "")
	want := `(?s)^SERVICE  QUEUE   INST  READY  IN HAND  HANDLED/s  FAILED/s  RETRIED  PARKED  CRITICAL  VERSION\n` +
		`orders   orders  2     0      0        0\.0        0\.0       0        2       -         [12], [12]\n` +
		`\? orders has 1 consumers more than the instances that have answered\n\? absent: no answer; there is no such queue\nerror 2\n$`
	if !regexp.MustCompile(want).MatchString(r.out) {
		t.Errorf("printed\n%swanted\n%s", r.out, want)
	}
	r = execute(t, "", "status", "-url", url)
	r.check(t, exitOK, "")
	if !strings.Contains(r.out, "? orders has 1 consumers more than the instances that have answered\n") {
		t.Errorf("printed\n%s", r.out)
	}
	if err := setup.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = execute(t, "", "top", "-every", "300ms", "-json", "-rounds", "2", "-url", url)
	r.check(t, exitOK, "")
	if got := objects(t, r.out); len(got) != 2 || got[1]["instances"] != 2.0 || got[1]["paused"] != 1.0 {
		t.Errorf("printed %s", r.out)
	}
}

// TestNotAsked: when no instance can be asked, the commands say why and still look at queues.
func TestNotAsked(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "stock", nil)
	declare(t, ch, "error", nil)
	put(t, ch, "stock", amqp.Publishing{})
	if err := ch.ExchangeDeclare(pulse.Exchange, "direct", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	b.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Match: func(f brokertest.Frame) bool { return f.Exchange == pulse.Exchange }})
	b.Inject(brokertest.Fault{On: "queue.declare", Times: -1, Do: brokertest.Raise, Code: 404, Text: "queue 'down' is down or inaccessible", Match: func(f brokertest.Frame) bool { return f.Queue == "down" }})
	for _, test := range []struct{ args, want []string }{
		{[]string{"status", "stock", "down"}, []string{"? no instance could be asked: ", "may not write", "? stock: no answer; 1 messages are ready", "? down: no answer; it cannot be reached"}},
		{[]string{"top", "-every", "100ms", "stock"}, []string{"? no instance could be asked: ", "? stock: no answer; 1 messages are ready", "\nerror 0\n"}},
		{[]string{"top", "-every", "100ms", "-error-queue", "down"}, []string{"\ndown -: it cannot be reached"}},
	} {
		r := execute(t, "", append([]string{test.args[0], "-url", url}, test.args[1:]...)...)
		r.check(t, exitFailed, "no instance could be asked\n")
		for _, want := range test.want {
			if !strings.Contains(r.out, want) {
				t.Errorf("%v: want %q, printed\n%s", test.args, want, r.out)
			}
		}
	}
	execute(t, "", "status", "-json", "-url", url).check(t, exitFailed, "may not write")
}

// written calls a function with each table.
type written func(table string)

func (w written) Write(p []byte) (int, error) { w(string(p)); return len(p), nil }

// TestTopCountsDeferred: the last line says how many messages wait for their time, and how many have lost their way.
func TestTopCountsDeferred(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	deferring(t, b, time.Hour, time.Hour)
	lose(t, b, "", "harebus.delay.lost", func(*amqp.Publishing) {})
	r := execute(t, "", "top", "-every", "100ms", "-wait", "200ms", "-url", url)
	r.check(t, exitOK, "")
	if !strings.HasSuffix(r.out, "\ndeferred 2, 1 lost (harebus deferred restore -lost)\n") {
		t.Errorf("printed\n%s", r.out)
	}
}

// TestTopLive: on a terminal a look that fails is shown, and top goes on looking.
func TestTopLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		declare(t, client(t, b), "error", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var tables []string
		x := &top{
			asking: asking{wait: time.Second, timeout: 10 * time.Second}, failed: -1, live: true, every: 2 * time.Second, errorQueue: "error",
			delays: delays{options: deferred.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Timeout: 10 * time.Second}},
		}
		x.std.out = written(func(table string) {
			switch tables = append(tables, table); {
			case len(tables) == 1:
				b.Refuse(time.Minute)
				b.CutConnections()
			case strings.Contains(table, "\nerror 0\n"):
				cancel()
			}
		})
		x.quiet = 250 * time.Millisecond
		if err := x.open(access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}); err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		if err := x.run(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		if len(tables) < 3 || !strings.Contains(tables[1], "? no instance could be asked: ") || !strings.Contains(tables[len(tables)-1], "error 0") {
			t.Errorf("tables %q", tables)
		}
	})
}

// TestTopGrowth: the error queue grows by so many a minute.
func TestTopGrowth(t *testing.T) {
	t.Parallel()
	x := &top{failed: 10, at: time.Now().Add(-time.Minute)}
	if got := x.grown(pulse.Waiting{Exists: true, Ready: 48}); got != " (+38/min)" {
		t.Errorf("grown %q", got)
	}
}

// TestStatusAndTerminals: nothing that an instance says reaches a terminal as a control character.
func TestStatusAndTerminals(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	evil := `\u001b[2J\u202e\u009b1m\n`
	pretend(t, b, `{"instance":"`+evil+`","service":"`+evil+`","version":"`+evil+`","not_ready":"`+evil+`","clock":"2001-01-01T00:00:00Z","cut":true,"queues":[{"name":"`+evil+
		`","in_hand":-9223372036854775808,"rate":1e308,"concurrency":-1,"all":{"Handled":18446744073709551615},"types":{"`+evil+`":{}}}]}`)
	pretend(t, b, "{")
	for _, args := range [][]string{{"status", "-types"}, {"status", "-json"}, {"top", "-every", "300ms"}, {"top", "-every", "300ms", "-json"}} {
		r := execute(t, "", append(args, "-url", url)...)
		r.check(t, exitOK, "1 answers could not be read")
		if strings.ContainsFunc(r.out+r.err, func(c rune) bool { return c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 || c == 0x202e }) {
			t.Errorf("%v printed %q%q", args, r.out, r.err)
		}
		if !strings.Contains(r.out, "u001b") && !strings.Contains(r.out, "x1b") {
			t.Errorf("%v printed %s", args, r.out)
		}
	}
}
