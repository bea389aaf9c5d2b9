package main

import (
	"context"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
)

func TestSend(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, stdin, body, want, content string
	}{
		{"json", "", `{"a" : 1}`, `{"a" : 1}`, "application/json"},
		{"text", "", "hello", "hello", "text/plain"},
		{"stdin", "[1,\n2]\n", "-", "[1,\n2]\n", "application/json"},
		{"bytes", "\xff\x00", "-", "\xff\x00", "application/octet-stream"},
		{"empty", "", "", "", "text/plain"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			declare(t, client(t, b), "orders", nil)
			r := execute(t, test.stdin, "send", "-url", url, "-type", "Place", "-header", "tenant=a=b", "-reply-to", "answers", "orders", test.body)
			r.check(t, exitOK, "")
			got := b.Messages("orders")
			if len(got) != 1 {
				t.Fatalf("%d messages", len(got))
			}
			m := got[0]
			if string(m.Body) != test.want || m.ContentType != test.content {
				t.Errorf("body %q as %q, want %q as %q", m.Body, m.ContentType, test.want, test.content)
			}
			if r.out != m.MessageId+"\n" || m.MessageId == "" {
				t.Errorf("printed %q, the id is %q", r.out, m.MessageId)
			}
			if m.Type != "Place" || m.Headers["tenant"] != "a=b" || m.ReplyTo != "answers" {
				t.Errorf("type %q, headers %v, reply to %q", m.Type, m.Headers, m.ReplyTo)
			}
		})
	}
}

func TestSendFails(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "orders", nil)
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"unroutable", "no queue takes the message", []string{"send", "-url", url, "nowhere", "{}"}},
		{"nobody-subscribed", "no queue takes the message", []string{"publish", "-url", url, "nobody.cares", "{}"}},
		{"deferred-unroutable", "no queue takes the message", []string{"send", "-url", url, "-defer", "1s", "nowhere", "{}"}},
		{"standard-header", "refused", []string{"send", "-url", url, "-header", "PikaBus.Intent=x", "orders", "{}"}},
		{"key-too-long", "refused", []string{"send", "-url", url, strings.Repeat("q", 256), "{}"}},
		{"vhost", "vhost none not found", []string{"send", "-url", url + "none", "orders", "{}"}},
		{"nobody-there", "gave up after 200ms", []string{"send", "-timeout", "200ms", "-url", "amqp://127.0.0.1:1/", "orders", "{}"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := execute(t, "", test.args...)
			r.check(t, exitFailed, test.want)
			if r.out != "" {
				t.Errorf("stdout %q", r.out)
			}
		})
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	execute(t, "", "publish", "-url", url, "a.b", "{}").check(t, exitFailed, "no queue takes") // declares the exchanges
	for _, queue := range []string{"one", "two"} {
		declare(t, ch, queue, nil)
		if err := ch.QueueBind(queue, "a.*", "PikaBusTopic", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	r := execute(t, "", "publish", "-url", url, "-type", "Placed", "a.b", "{}")
	r.check(t, exitOK, "")
	for _, queue := range []string{"one", "two"} {
		got := b.Messages(queue)
		if len(got) != 1 || got[0].MessageId+"\n" != r.out || got[0].RoutingKey != "a.b" || got[0].Headers["PikaBus.Intent"] != "event" {
			t.Errorf("queue %s has %+v, printed %q", queue, got, r.out)
		}
	}
}

func TestDefer(t *testing.T) {
	t.Parallel()
	for command, to := range map[string]string{"send": "orders", "publish": "order.late"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			ch := client(t, b)
			declare(t, ch, "orders", nil)
			execute(t, "", "publish", "-url", url, "x", "{}").check(t, exitFailed, "no queue takes")
			if err := ch.QueueBind("orders", "order.*", "PikaBusTopic", false, nil); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			execute(t, "", command, "-url", url, "-defer", "300ms", to, "{}").check(t, exitOK, "")
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := b.WaitQueue(ctx, "orders", func(q brokertest.Queue) bool { return q.Ready == 1 }); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < 300*time.Millisecond {
				t.Errorf("delivered after %v", took)
			}
		})
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "orders", nil)
	const n = 3000
	var input strings.Builder
	for i := range n {
		input.WriteString(strconv.Itoa(i) + "\n")
	}
	r := execute(t, input.String()+"\r\n{oops", "send", "-lines", "-url", url, "orders")
	r.check(t, exitOK, "3002 of 3002 messages confirmed")
	r.check(t, exitOK, "1 of the bodies begin like JSON")
	ids := strings.Fields(r.out)
	got := b.Messages("orders")
	if len(got) != n+2 || len(ids) != n+2 {
		t.Fatalf("%d messages, %d ids", len(got), len(ids))
	}
	for i, m := range got[:n] {
		if string(m.Body) != strconv.Itoa(i) || m.MessageId != ids[i] {
			t.Fatalf("message %d is %q with id %s, printed %s", i, m.Body, m.MessageId, ids[i])
		}
	}
	if string(got[n].Body) != "" || string(got[n+1].Body) != "{oops" {
		t.Errorf("the last two are %q and %q", got[n].Body, got[n+1].Body)
	}
}

// TestLinesAreOneTransaction: nothing is sent before the end of the input, and
// nothing at all if it does not come or one of the lines is refused.
func TestLinesAreOneTransaction(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "orders", nil)
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, feed := io.Pipe()
		defer func() { _ = feed.Close() }()
		var out, errs buffer
		code := make(chan int)
		go func() { code <- run(ctx, []string{"send", "-lines", "-url", url, "orders"}, in, &out, &errs) }()
		if _, err := io.WriteString(feed, "1\n2\n"); err != nil {
			t.Fatal(err)
		}
		cancel()
		result{<-code, out.String(), errs.String()}.check(t, exitFailed, "nothing was sent")
	})
	t.Run("refused", func(t *testing.T) {
		r := execute(t, "1\n2\n", "send", "-lines", "-header", "x-death=1", "-url", url, "orders")
		r.check(t, exitFailed, "line 1, nothing was sent")
	})
	t.Run("too-long", func(t *testing.T) {
		r := execute(t, "1\n"+strings.Repeat("x", maxInput+1)+"\n", "send", "-lines", "-url", url, "orders")
		r.check(t, exitFailed, "nothing was sent")
	})
	if q, _ := b.Queue("orders"); q.Ready != 0 {
		t.Errorf("%d messages were sent", q.Ready)
	}
}

// TestLinesReportEachOutcome: of a commit that fails in part, stdout has what
// was confirmed and stderr the rest.
func TestLinesReportEachOutcome(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "small", map[string]any{"x-max-length": int32(2), "x-overflow": "reject-publish"})
	r := execute(t, "1\n2\n3\n", "send", "-lines", "-url", url, "small")
	r.check(t, exitFailed, "2 confirmed, 1 nacked")
	got := b.Messages("small")
	if len(got) != 2 || r.out != got[0].MessageId+"\n"+got[1].MessageId+"\n" {
		t.Errorf("printed %q for %+v", r.out, got)
	}
	if !strings.Contains(r.err, "nacked: harebus: publish message") {
		t.Errorf("stderr:\n%s", r.err)
	}
}

// TestOutage: a broker that goes away in the middle of a transaction costs
// nothing but time.
func TestOutage(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "orders", nil)
	b.Inject(brokertest.Fault{On: "basic.publish", Nth: 500, Do: brokertest.CutAfter})
	r := execute(t, strings.Repeat("1\n", 1000), "send", "-lines", "-url", url, "orders")
	r.check(t, exitOK, "1000 of 1000")
	there := map[string]bool{}
	for _, m := range b.Messages("orders") {
		there[m.MessageId] = true
	}
	for id := range strings.FieldsSeq(r.out) {
		if !there[id] {
			t.Fatalf("message %s is confirmed and not there", id)
		}
	}
	if len(there) != 1000 {
		t.Errorf("%d different messages", len(there))
	}
}
