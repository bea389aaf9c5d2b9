package stream_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/replay"
	"github.com/harebus/harebus/stream"
)

// bulk publishes n events in one transaction of AMQP, which is a piece of the stream.
func (r *rig) bulk(n int) { r.bulkWith(n, nil) }

func (r *rig) bulkWith(n int, headers amqp.Table) {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	ch, err := conn.Channel()
	r.try(err)
	r.try(ch.Tx())
	for range n {
		r.sent++
		r.try(ch.PublishWithContext(r.ctx, "PikaBusTopic", "order.placed", false, false, amqp.Publishing{
			ContentType: "application/json", Type: "Happened", DeliveryMode: amqp.Persistent, Headers: headers, Body: fmt.Appendf(nil, `{"N":%d}`, r.sent),
		}))
	}
	r.try(ch.TxCommit())
	r.try(conn.Close())
}

// slow is a connection that stalls for three seconds after each 100 KB.
type slow struct {
	net.Conn
	left int
}

func (s *slow) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.left -= n; s.left < 0 {
		s.left = 100_000
		time.Sleep(3 * time.Second)
	}
	return n, err
}

// TestSlowBroker: the end of a stream is where the broker says, and not where its deliveries pause, or are late.
func TestSlowBroker(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.bulk(2000)
		dial := r.cfg.Dial
		r.cfg.Dial = func(network, address string) (net.Conn, error) {
			conn, err := dial(network, address)
			return &slow{conn, 100_000}, err
		}
		r.read("a", stream.Config{From: stream.FromEnd()}, done)
		r.cfg.Dial = dial
		r.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.Delay, For: 10 * time.Second})
		r.publish(1)
		r.rest(time.Minute)
		r.wants("a2001@2000")
		r.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.Delay, For: 10 * time.Second})
		r.read("b", stream.Config{From: stream.FromEnd()}, done)
		r.publish(1)
		r.rest(time.Minute)
		r.wants("a2002@2001 b2002@2001")
	})
}

// TestEndWhileLost: what was on its way when the connection is lost does not make the end of a stream another one: a reader that begins there gets nothing from before.
func TestEndWhileLost(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.bulk(2000)
		r.broker.Inject(brokertest.Fault{On: "basic.cancel-ok", From: brokertest.FromBroker, Do: brokertest.CutAfter, Times: 10})
		r.read("a", stream.Config{From: stream.FromEnd()}, done)
		r.publish(1)
		r.rest(time.Minute)
		r.wants("a2001@2000")
	})
}

// TestReplayedTimes: what came at -to or later is not replayed, however slowly the broker delivers, and a replay from a time after the last message has
// nothing to do.
func TestReplayedTimes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		r.publish(3)
		r.rest(time.Hour)
		r.publish(2)
		r.rest(time.Hour)
		for _, c := range []struct {
			from, until time.Duration
			slow        bool
			want        int
		}{
			{0, 30 * time.Minute, false, 3}, {0, 30 * time.Minute, true, 3}, {30 * time.Minute, 0, true, 2}, {30 * time.Minute, 40 * time.Minute, true, 0},
			{90 * time.Minute, 0, false, 0}, {90 * time.Minute, 100 * time.Minute, true, 0}, {0, 90 * time.Minute, true, 5},
		} {
			o := replay.Options{
				Broker: access.Broker{URLs: []string{r.broker.URL()}, Dial: r.broker.Dial}, Stream: "events", Queue: "events", // a dry run only looks at the queue
				Run: "r", DryRun: true, HeaderPrefix: "PikaBus.", Timeout: 30 * time.Second,
			}
			if c.from > 0 {
				o.From = stream.FromTime(began.Add(c.from))
			}
			if c.until > 0 {
				o.Until = began.Add(c.until)
			}
			remove := func() {}
			if c.slow {
				remove = r.slowBehindTheEnd()
			}
			report, err := replay.Run(r.ctx, o)
			if err != nil || report.Replayed != c.want || !report.Done {
				t.Errorf("%+v: %+v, %v", c, report, err)
			}
			remove()
		}
	})
}

// TestReplayGap: what was deleted before it was replayed is not passed over without a word; offsets that the broker has used itself are nothing.
func TestReplayGap(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		run := func(from int64) (replay.Report, error) {
			return replay.Run(r.ctx, replay.Options{
				Broker: access.Broker{URLs: []string{r.broker.URL()}, Dial: r.broker.Dial}, Stream: "events", Queue: "events", // a dry run only looks at the queue
				From: stream.FromOffset(from), Run: "r", DryRun: true, HeaderPrefix: "PikaBus.", Timeout: 30 * time.Second,
			})
		}
		r.publish(6)
		r.try(r.broker.SkipOffsets("events", 100))
		r.publish(2)
		r.rest(time.Second)
		if report, err := run(1); err != nil || report.Replayed != 7 || !report.Done {
			t.Errorf("%+v, %v", report, err)
		}
		r.try(r.broker.TruncateStream("events", 4))
		if report, err := run(4); err != nil || report.Replayed != 4 || !report.Done {
			t.Errorf("%+v, %v", report, err)
		}
		report, err := run(1)
		if err == nil || !strings.Contains(err.Error(), "the offsets 1 to 3") || report.Past != 4 || report.Done || report.Replayed != 0 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// slowBehindTheEnd has the broker deliver five seconds late, but for the first reader, who looks where the end is.
func (r *rig) slowBehindTheEnd() (remove func()) {
	readers := 0
	counted := r.broker.Inject(brokertest.Fault{On: "basic.consume", Times: -1, Match: func(brokertest.Frame) bool {
		readers++
		return false
	}})
	slow := r.broker.Inject(brokertest.Fault{
		On: "basic.deliver", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: 5 * time.Second,
		Match: func(brokertest.Frame) bool { return readers > 1 },
	})
	return func() {
		counted.Remove()
		slow.Remove()
	}
}

// TestBehind: a node that was behind at the first look, and is not at the second, makes no gap.
func TestBehind(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.publish(3)
		s := r.reader("a", stream.Config{Store: &store{offset: 5, known: true}, OnGap: stream.GapSkips}, done)
		started := make(chan error, 1)
		go func() { started <- s.Start(r.ctx) }()
		r.rest(time.Second)
		r.publish(4)
		r.try(r.broker.TruncateStream("events", 5))
		r.try(<-started)
		r.rest(time.Minute)
		r.wants("a7@6")
		if r.said("deleted") {
			t.Error("a gap was logged")
		}
	})
}

// TestHungHandler: while a handler hangs, thousands of messages behind its own are handled by the others, and then no more is read, which the log
// and Ready say; afterwards reading goes on.
func TestHungHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const messages, ahead, chunk = 8000, 5000, 1000
		var mu sync.Mutex // guards handled
		handled := 0
		hung := make(chan struct{})
		r.cfg.Consume.Concurrency = 4
		s := r.read("a", stream.Config{}, func(ctx context.Context, e happened) error {
			if e.N == 1 {
				select {
				case <-hung:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			handled++
			return nil
		})
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return handled
		}
		for range messages / chunk {
			r.bulk(chunk)
		}
		r.rest(10 * time.Second)
		if n := count(); n < ahead || n > ahead+stream.Prefetch+chunk {
			t.Errorf("%d are handled beside one that hangs", n)
		}
		err := s.Ready()
		for _, says := range []string{`the stream "events" is not read on`, "the message at offset 0 is still being handled"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("ready: %v; want %q", err, says)
			}
		}
		if !r.said("the stream is not read on until an old message is handled") {
			t.Error("it is not logged")
		}
		close(hung)
		r.rest(10 * time.Second)
		if n := count(); n != messages || !r.said("the stream is read on") {
			t.Errorf("%d of %d are handled", n, messages)
		}
		r.try(s.Ready())
	})
}
