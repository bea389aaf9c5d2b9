package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// eventLog is a broker with a stream "events" of n messages, of which every second one has another topic, and a queue "billing".
func eventLog(t *testing.T, n int, args amqp.Table) (*brokertest.Broker, string) {
	t.Helper()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "events", amqp.Table{"x-queue-type": "stream"})
	declare(t, ch, "billing", args)
	if err := ch.QueueBind("events", "#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		topic := "order.placed"
		if i%2 == 1 {
			topic = "payment.received"
		}
		m := amqp.Publishing{
			MessageId: fmt.Sprint("m", i), Type: "T", Expiration: "50", Body: fmt.Append(nil, i), Headers: amqp.Table{"PikaBus.MessageId": fmt.Sprint("m", i), "own": "x"},
		}
		if err := ch.PublishWithContext(t.Context(), "amq.topic", topic, false, false, m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ch.QueueDeclarePassive("events", true, false, false, false, nil); err != nil { // all have come
		t.Fatal(err)
	}
	return b, url
}

func numbers(b *brokertest.Broker) string {
	var all []string
	for _, m := range b.Messages("billing") {
		all = append(all, string(m.Body))
	}
	return strings.Join(all, " ")
}

// TestReplay: what matches is in the queue, marked, with ids that depend on the run, and the stream is as it was.
func TestReplay(t *testing.T) {
	t.Parallel()
	b, url := eventLog(t, 6, nil)
	r := execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-topic", "order.*", "-run", "one", "-dry-run")
	r.check(t, exitOK, "")
	if r.out != "would replay 3, passed over 3 of other topics, run one\n" || numbers(b) != "" {
		t.Errorf("printed %q, in the queue: %s", r.out, numbers(b))
	}
	r = execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-topic", "order.*", "-run", "one")
	r.check(t, exitOK, "")
	if r.out != "replayed 3, passed over 3 of other topics, run one\n" || numbers(b) != "0 2 4" {
		t.Errorf("printed %q, in the queue: %s", r.out, numbers(b))
	}
	first := b.Messages("billing")[1]
	h := first.Headers
	if h["PikaBus.Replayed"] != "one" || h["PikaBus.StreamOffset"] != int64(2) || h["PikaBus.OriginalMessageId"] != "m2" || h["own"] != "x" || h["x-stream-offset"] != nil ||
		first.MessageId == "m2" || h["PikaBus.MessageId"] != first.MessageId || first.Expiration != "" || first.DeliveryMode != 2 || first.Type != "T" {
		t.Errorf("%+v", first)
	}
	<-time.After(1100 * time.Millisecond) // the broker's times are whole seconds, and -to is now
	for _, run := range []string{"one", "two"} {
		execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-from", "@2", "-to", "0s", "-run", run, "-topic", "order.#").check(t, exitOK, "")
	}
	all := b.Messages("billing")
	if len(all) != 7 || all[3].MessageId != first.MessageId || all[5].MessageId == first.MessageId {
		t.Errorf("ids of other runs: %v", all)
	}
	execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-from", "@5", "-keep-ids").check(t, exitOK, "")
	if last := b.Messages("billing")[7]; last.MessageId != "m5" || last.Headers["PikaBus.OriginalMessageId"] != nil || last.Headers["PikaBus.Replayed"] == nil {
		t.Errorf("%+v", last)
	}
	if kept := b.Messages("events"); len(kept) != 6 {
		t.Errorf("%d in the stream", len(kept))
	}
}

// TestReplayOfTimes: -from and -to are times at which events came.
func TestReplayOfTimes(t *testing.T) {
	t.Parallel()
	b, url := eventLog(t, 2, nil)
	<-time.After(2100 * time.Millisecond) // the broker's times are whole seconds
	middle := time.Now().UTC().Format(time.RFC3339)
	put(t, client(t, b), "events", amqp.Publishing{Body: []byte("2")})
	execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-to", middle).check(t, exitOK, "")
	if got := numbers(b); got != "0 1" {
		t.Errorf("before: %s", got)
	}
	execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-from", middle).check(t, exitOK, "")
	if got := numbers(b); got != "0 1 2" {
		t.Errorf("then: %s", got)
	}
	execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-from", "30m", "-to", "20m").check(t, exitOK, "")
	if got := numbers(b); got != "0 1 2" {
		t.Errorf("in a time with nothing: %s", got)
	}
}

// TestReplayStopped: what the queue does not take, or an interruption, ends a replay, which says where to go on; going on replays
// the rest.
func TestReplayStopped(t *testing.T) {
	t.Parallel()
	b, url := eventLog(t, 2500, amqp.Table{"x-max-length": 1200, "x-overflow": "reject-publish"})
	args := []string{"replay", "-url", url, "-stream", "events", "-queue", "billing", "-run", "r"}
	r := execute(t, "", args...)
	r.check(t, exitFailed, "everything before offset 1200 is done; go on with: -from @1200 -run r")
	if !strings.Contains(r.err, "is that full?") || !strings.Contains(r.out, "replayed 1200") {
		t.Errorf("printed %q, %q", r.out, r.err)
	}
	if _, err := client(t, b).QueuePurge("billing", false); err != nil {
		t.Fatal(err)
	}
	r = execute(t, "", append(args, "-from", "@1200", "-topic", "order.*")...)
	r.check(t, exitOK, "")
	if got := len(b.Messages("billing")); got != 650 {
		t.Errorf("%d in the queue, want 650", got)
	}
}

// TestReplayInterrupted: an interruption ends a replay cleanly.
func TestReplayInterrupted(t *testing.T) {
	t.Parallel()
	b, url := eventLog(t, 3000, nil)
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	b.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Drop, Match: func(brokertest.Frame) bool {
		if seen++; seen == 500 {
			cancel()
		}
		return false
	}})
	var out, errs buffer
	code := run(ctx, []string{"replay", "-url", url, "-stream", "events", "-queue", "billing", "-run", "r"}, strings.NewReader(""), &out, &errs)
	done := len(b.Messages("billing"))
	want := fmt.Sprintf("go on with: -from @%d -run r", done)
	if code != exitFailed || !strings.Contains(errs.String(), want) || done == 0 || done == 3000 {
		t.Errorf("exit %d with %d replayed: %s", code, done, errs.String())
	}
}

// TestReplayMisused: what cannot be is said, with the remedy.
func TestReplayMisused(t *testing.T) {
	t.Parallel()
	_, url := eventLog(t, 3, nil)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"-queue billing", exitUsage, "queue name"},
		{"-stream events -queue events", exitUsage, "are the same"},
		{"-stream events -queue billing -from yesterday", exitUsage, "neither a time such as"},
		{"-stream events -queue billing -from @x", exitUsage, "no offset"},
		{"-stream events -queue billing -from @-1", exitUsage, "no offset"},
		{"-stream events -queue billing -from 1h -to 2h", exitUsage, "-from is not before -to"},
		{"-stream events -queue billing -topic a*", exitUsage, "topic"},
		{"-stream events -queue billing more", exitUsage, "unexpected argument"},
		{"-stream events -queue none", exitFailed, "none"},
		{"-stream none -queue billing", exitFailed, `the stream "none" does not exist`},
		{"-stream billing -queue billing2", exitFailed, "billing2"},
		{"-stream events -queue billing -from @9", exitFailed, "ends at offset 2, before 9"},
	} {
		args := append([]string{"replay"}, strings.Fields(c.args)...)
		if c.code == exitFailed {
			args = append(args, "-url", url)
		}
		execute(t, "", args...).check(t, c.code, c.says)
	}
	if r := execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-from", "@3"); r.code != exitOK || !strings.HasPrefix(r.out, "replayed 0,") {
		t.Errorf("from what comes next: %+v", r)
	}
}

// TestReplayKilled: a replay that is killed has lost nothing. The first line says how to begin again; what is there twice then has the
// same id, and a time that was said as "so long ago" is the one that it was.
func TestReplayKilled(t *testing.T) {
	t.Parallel()
	const n = 3000
	b, url := eventLog(t, n, nil)
	var errs buffer
	var seen atomic.Int64
	half := make(chan struct{})
	b.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Drop, Match: func(brokertest.Frame) bool {
		if seen.Add(1) == n/2 {
			close(half)
		}
		return false
	}})
	out := must(os.CreateTemp(t.TempDir(), "out"))
	cmd := process(t, &errs, out, "replay", "-url", url, "-stream", "events", "-queue", "billing", "-from", "2h")
	select {
	case <-half:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not publish", errs.String())
	}
	signalTo(t, cmd, syscall.SIGKILL)
	_ = cmd.Wait() // killed
	there := len(b.Messages("billing"))
	if there == 0 || there == n {
		t.Fatalf("%d were replayed when it was killed", there)
	}
	_, again, found := strings.Cut(strings.TrimSpace(errs.String()), "begin again with: ")
	if !found || strings.Contains(again, "2h") {
		t.Fatalf("it does not say how to begin again: %s", errs.String())
	}
	execute(t, "", append([]string{"replay", "-url", url, "-stream", "events", "-queue", "billing"}, strings.Fields(again)...)...).check(t, exitOK, "")
	ids := map[any]string{}
	for _, m := range b.Messages("billing") {
		offset := m.Headers["PikaBus.StreamOffset"]
		if id, twice := ids[offset]; twice && id != m.MessageId {
			t.Fatalf("offset %v has the ids %s and %s", offset, id, m.MessageId)
		}
		ids[offset] = m.MessageId
	}
	if len(ids) != n {
		t.Errorf("%d of %d are in the queue", len(ids), n)
	}
}

// TestReplayUnreadable: a message whose headers nobody can read ends a replay behind what is before it, with its offset and the way past it. One of another
// topic does not.
func TestReplayUnreadable(t *testing.T) {
	t.Parallel()
	b, url := eventLog(t, 2, nil)
	many := amqp.Table{}
	for i := range 8193 {
		many[fmt.Sprint("h", i)] = int8(1)
	}
	ch := client(t, b)
	put(t, ch, "events", amqp.Publishing{Body: []byte("poison"), Headers: many})
	put(t, ch, "events", amqp.Publishing{Body: []byte("behind")})
	args := []string{"replay", "-url", url, "-stream", "events", "-queue", "billing", "-run", "r"}
	execute(t, "", append(args, "-topic", "order.*")...).check(t, exitOK, "")
	r := execute(t, "", args...)
	r.check(t, exitFailed, "the message at offset 2 has headers that cannot be read")
	if !strings.Contains(r.err, "everything else before offset 3 is done; go on behind that with: -from @3 -run r") || strings.Contains(r.err, "@2") || numbers(b) != "0 0 1" {
		t.Errorf("printed %q, in the queue: %s", r.err, numbers(b))
	}
	execute(t, "", append(args, "-from", "@3")...).check(t, exitOK, "")
	if numbers(b) != "0 0 1 behind" {
		t.Errorf("in the queue: %s", numbers(b))
	}

	b, url = eventLog(t, 2, amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"}) // what is before it is not all stored
	put(t, client(t, b), "events", amqp.Publishing{Body: []byte("poison"), Headers: many})
	r = execute(t, "", "replay", "-url", url, "-stream", "events", "-queue", "billing", "-run", "r")
	r.check(t, exitFailed, "the message at offset 2 has headers that cannot be read")
	if !strings.Contains(r.err, "go on with: -from @1 -run r") || strings.Contains(r.err, "@3") {
		t.Errorf("printed %q", r.err)
	}
}
