package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
)

// ids are those of the messages in a queue, in their order.
func ids(b *brokertest.Broker, queue string) (list []string) {
	for _, m := range b.Messages(queue) {
		list = append(list, m.MessageId)
	}
	return list
}

// TestNoQueueHasThisName: a name that no queue can have is refused at once; the client would lose the connection at it, again and again.
func TestNoQueueHasThisName(t *testing.T) {
	t.Parallel()
	_, url := newBroker(t)
	long := strings.Repeat("x", 256)
	execute(t, "", "peek", "-url", url, "").check(t, exitFailed, "has 1 to 255 bytes")
	execute(t, "", "peek", "-url", url, long).check(t, exitFailed, "has 1 to 255 bytes")
	execute(t, "", "redrive", "-url", url, "-error-queue", long).check(t, exitFailed, "has 1 to 255 bytes")
	execute(t, "", "control", "pause", "-url", url, long).check(t, exitFailed, "no instance answers")
	if r := execute(t, "", "status", "-url", url, long); r.code != exitOK || !strings.Contains(r.out, "no queue has a name of 256 bytes") {
		t.Errorf("status: %d, %s%s", r.code, r.out, r.err)
	}
}

// TestPeek: the first messages are shown, and all stay in their order; queues in which a look matters are not looked at.
func TestPeek(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	quorum := func(more amqp.Table) amqp.Table {
		more["x-queue-type"] = "quorum"
		return more
	}
	for queue, args := range map[string]amqp.Table{
		"classic": nil, "error": quorum(amqp.Table{"x-delivery-limit": 1_000_000}), "few": quorum(amqp.Table{"x-delivery-limit": 20}), "none": quorum(amqp.Table{}),
		"service": quorum(amqp.Table{"x-delivery-limit": 1_000_000, "x-dead-letter-exchange": ""}), "busy": nil, "empty": nil,
	} {
		declare(t, ch, queue, args)
		if queue == "empty" {
			continue
		}
		for i := range 5 {
			put(t, ch, queue, amqp.Publishing{MessageId: fmt.Sprint("m", i), Type: "T\x1b[2J", Body: []byte("\x1b]0;title\x07"), DeliveryMode: amqp.Persistent, Headers: amqp.Table{"h\x1b": "\u009b"}})
		}
	}
	if _, err := ch.Consume("busy", "", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		queue     string
		args      []string
		code      int
		out, fail string
		lines     int
	}{
		{"classic", nil, exitOK, "classic: classic, 5 messages ready, 0 consumers\n", "", 7},
		{"error", []string{"-n", "3"}, exitOK, "error: quorum with delivery limit 1000000, 5 messages ready, 0 consumers\n", "", 5},
		{"error", []string{"-n", "2", "-json"}, exitOK, `"message_id":"m0"`, "", 2},
		{"empty", nil, exitOK, "empty: classic, 0 messages ready, 0 consumers\n", "", 1},
		{"few", nil, exitFailed, "few: quorum with delivery limit 20, 5 messages", "no message was looked at: its delivery limit is 20", 1},
		{"none", nil, exitFailed, "none: quorum, 5 messages", "without a delivery limit of its own", 1},
		{"none", []string{"-n", "0"}, exitOK, "none: quorum, 5 messages", "", 1},
		{"service", nil, exitFailed, "service: quorum", "it dead-letters messages", 1},
		{"busy", nil, exitFailed, "busy: classic, 0 messages ready, 1 consumers\n", "it has 1 consumers", 1},
		{"absent", nil, exitFailed, "", "404", 0},
	} {
		before := b.Messages(test.queue)
		r := execute(t, "", append(append([]string{"peek", "-url", url}, test.args...), test.queue)...)
		r.check(t, test.code, test.fail)
		if !strings.Contains(r.out, test.out) || strings.Count(r.out, "\n") != test.lines {
			t.Errorf("%s %v: printed\n%s", test.queue, test.args, r.out)
		}
		if strings.ContainsFunc(r.out+r.err, func(c rune) bool { return c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 }) {
			t.Errorf("printed %q", r.out)
		}
		if test.code == exitFailed && slices.ContainsFunc(b.Messages(test.queue), func(m brokertest.Message) bool { return m.Redelivered || m.DeliveryCount > 0 }) {
			t.Errorf("%s was looked at", test.queue)
		}
		if len(b.Messages(test.queue)) != len(before) {
			t.Errorf("%s has %d messages, had %d", test.queue, len(b.Messages(test.queue)), len(before))
		}
	}
	execute(t, "", "peek", "-url", url, "-n", "2", "classic").check(t, exitOK, "")
	for _, queue := range []string{"classic", "error"} {
		if got := ids(b, queue); !slices.Equal(got, []string{"m0", "m1", "m2", "m3", "m4"}) {
			t.Errorf("%s has %v", queue, got)
		}
	}
	execute(t, "", "peek", "-n", "1001", "q").check(t, exitUsage, "out of range")
	execute(t, "", "peek").check(t, exitUsage, "want one queue")
}

// TestPeekTakesFew: of a classic queue nothing leaves but what is shown; of a quorum queue all do, and only that is kept.
func TestPeekTakesFew(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	for queue, args := range map[string]amqp.Table{"classic": nil, "quorum": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}} {
		declare(t, ch, queue, args)
		for i := range 9 {
			put(t, ch, queue, amqp.Publishing{MessageId: fmt.Sprint("m", i), DeliveryMode: amqp.Persistent})
		}
		r := execute(t, "", "peek", "-n", "2", "-url", url, queue)
		r.check(t, exitOK, "")
		if strings.Count(r.out, "\n") != 4 {
			t.Errorf("printed\n%s", r.out)
		}
		if err := b.WaitQueue(t.Context(), queue, func(q brokertest.Queue) bool { return q.Ready == 9 }); err != nil {
			t.Fatal(err)
		}
		touched := 0
		for _, m := range b.Messages(queue) {
			if m.Redelivered {
				touched++
			}
		}
		if want := map[string]int{"classic": 2, "quorum": 9}[queue]; touched != want {
			t.Errorf("%s: %d messages were taken, want %d", queue, touched, want)
		}
	}
}

// TestPeekInterrupted: who interrupts a look does not get a part of it as if it were all.
func TestPeekInterrupted(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "classic", nil)
	put(t, ch, "classic", amqp.Publishing{MessageId: "a"})
	b.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.Delay, For: time.Minute})
	var out strings.Builder
	p := &peek{std: stdio{out: &out}, broker: access.Broker{URLs: []string{url}, Log: zap.NewNop()}, queue: "classic", n: 1, timeout: 20 * time.Second}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- p.run(ctx) }()
	if err := b.WaitQueue(t.Context(), "classic", func(q brokertest.Queue) bool { return q.Unacked > 0 }); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("interrupted")
	cancel(stopped)
	if err := <-ended; !errors.Is(err, stopped) || strings.Contains(out.String(), "ID") {
		t.Errorf("error %v, printed\n%s", err, out.String())
	}
}
