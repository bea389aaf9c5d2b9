package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// spans is an observer that builds traces as one for OpenTelemetry does: the parent of an operation is the one in its
// context, else the one in the header of its message.
type spans struct {
	mu   sync.Mutex // guards what follows
	all  []span
	ends []harebus.Observation
}

type span struct {
	operation string
	parent    int    // its place in all, from 1; 0: none
	how       string // it has ended
}

const spanHeader = "span"

func (s *spans) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	if o.Connection != "" {
		return ctx // see TestConnectionOperations
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	parent, _ := ctx.Value(spanKey{}).(int)
	if parent == 0 && o.Incoming != nil {
		parent, _ = fromHeader(o.Incoming)
	}
	n := len(s.all) + 1
	s.all = append(s.all, span{o.String(), parent, " has not ended"})
	if o.Headers != nil {
		o.Headers[spanHeader] = n
	}
	return context.WithValue(ctx, spanKey{}, n)
}

func fromHeader(m *harebus.Message) (n int, ok bool) {
	_, err := fmt.Sscan(fmt.Sprint(m.Headers[spanHeader]), &n)
	return n, err == nil
}

func (s *spans) ObserveEnd(ctx context.Context, o harebus.Observation, err error) {
	if o.Connection != "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := ctx.Value(spanKey{}).(int)
	var how string
	if o.Outcome != 0 {
		how += " " + o.Outcome.String()
	}
	if o.Buffered {
		how += " buffered"
	}
	if err != nil {
		how += " failed"
	}
	s.all[n-1].how = how
	s.ends = append(s.ends, o)
}

// tree lists the spans, each with its parent.
func (s *spans) tree() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	names := make([]string, len(s.all)+1) // by place
	for i, one := range s.all {
		names[i+1] = fmt.Sprint(i+1, " ", one.operation)
		lines = append(lines, strings.TrimSpace(names[i+1]+one.how+" < "+names[one.parent]))
	}
	return lines
}

// of are the ends of one operation.
func (s *spans) of(op harebus.Operation) (ends []harebus.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.ends {
		if o.Operation == op {
			ends = append(ends, o)
		}
	}
	return ends
}

// traced runs one order through a service with the handler, and returns what its observer saw.
func traced(t *testing.T, r *rig, change func(*harebus.Config), handle func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error) (*spans, *harebus.Setup) {
	t.Helper()
	seen := &spans{}
	cfg := r.config("orders")
	cfg.Retry = harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(2 * time.Second) }}
	cfg.Observers = []harebus.Observer{seen}
	if change != nil {
		change(&cfg)
	}
	s := r.setup(cfg)
	r.bound(r.channel(), "out")
	s.HandleMessage("Order", handle)
	r.start(s)
	return seen, s
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// TestTraceOfRetries: one trace leads from the sending of a message through both failures to its success, and to what its
// handler sends.
func TestTraceOfRetries(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		seen, s := traced(t, r, nil, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if m.Attempt < 3 {
				return errNo
			}
			return bus.Send(ctx, "out", order{1})
		})
		if err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithMessageID("id"), harebus.WithCorrelationID("talk")); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		r.quiet("out")
		sameLines(t, seen.tree(), []string{
			"1 send <", "2 handle retried failed < 1 send", "3 retry < 2 handle", "4 handle retried failed < 3 retry", "5 retry < 4 handle",
			"6 handle handled < 5 retry", "7 send buffered < 6 handle", "8 commit < 6 handle",
		})
		sent := seen.of(harebus.OpSend)[0]
		if sent.MessageID != "id" || sent.CorrelationID != "talk" || sent.Type != "Order" || sent.Size != len(`{"ID":1}`) || sent.Buffered || sent.Incoming != nil {
			t.Errorf("the end of the sending: %+v", sent)
		}
		inside := seen.of(harebus.OpSend)[1]
		if m := r.broker.Messages("out")[0]; inside.MessageID != m.MessageId || inside.CorrelationID != "talk" || !inside.Buffered {
			t.Errorf("the end of the sending in the handler: %+v", inside)
		}
		if again := seen.of(harebus.OpRetry)[0]; again.MessageID != "id" || again.Size != sent.Size || again.Incoming.ID != "id" || again.Incoming.Attempt != 1 {
			t.Errorf("the end of the retry: %+v", again)
		}
		if last := seen.of(harebus.OpHandle)[2]; last.Size != sent.Size || last.Incoming.Attempt != 3 {
			t.Errorf("the end of the last attempt: %+v", last)
		}
	})
}

// TestTraceOfParking: the parking of a message belongs to its last attempt, and the parked message says so.
func TestTraceOfParking(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		gaveUp := func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message, _ error) error {
			return bus.Send(ctx, "out", order{2})
		}
		seen := &spans{}
		cfg := r.config("orders")
		cfg.Observers = []harebus.Observer{seen}
		s := r.setup(cfg)
		r.bound(r.channel(), "out")
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errNo) }, harebus.WithGivenUp(gaveUp))
		r.start(s)
		r.publish(r.channel(), "orders", plain(`{"ID":1}`))
		parked := r.await("error", 1)[0]
		r.quiet("out", "error")
		sameLines(t, seen.tree(), []string{"1 handle parked failed <", "2 send buffered < 1 handle", "3 commit < 1 handle", "4 park < 1 handle"})
		if n, _ := fromHeader(&harebus.Message{Headers: parked.Headers}); n == 0 || seen.all[n-1].operation != "park" {
			t.Errorf("the header of the parked message is %v", parked.Headers[spanHeader])
		}
	})
}

// TestTraceOfPostponement: a postponement by a handler is neither a retry nor a parking. One of a message that comes too
// early has no attempt.
func TestTraceOfPostponement(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		seen, s := traced(t, r, nil, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.FirstFailed.IsZero() {
				return harebus.Postpone(time.Second, errNo)
			}
			return nil
		})
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		sameLines(t, seen.tree(), []string{"1 send <", "2 handle postponed failed < 1 send", "3 postpone < 2 handle", "4 handle handled < 3 postpone"})
	})
}

func TestTraceOfEarlyMessage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		seen, _ := traced(t, r, nil, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		r.publish(r.channel(), "orders", ordered(amqp.Table{
			"PikaBus.DeferredTime": time.Now().UTC().Add(time.Minute).Format("2006-01-02T15:04:05.000000Z"),
		}))
		r.quiet()
		sameLines(t, seen.tree(), []string{"1 postpone <", "2 handle handled < 1 postpone"})
	})
}

// TestTraceOfTransaction: sends of a transaction are buffered, and the commit is one operation. A reply is one, too.
func TestTraceOfTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		seen, s := traced(t, r, nil, func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
			return bus.Reply(ctx, answer{1})
		})
		parent := context.WithValue(r.ctx, spanKey{}, 1)
		seen.all = []span{{operation: "caller"}}
		err := s.Bus().Transaction(parent, func(ctx context.Context, tx *harebus.Tx) error {
			return errors.Join(tx.Send(ctx, "orders", order{1}, harebus.WithReplyTo("out")), tx.Defer(ctx, "out", time.Hour, order{2}))
		})
		if err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		r.quiet("out", "harebus.delay.1h")
		sameLines(t, seen.tree(), []string{
			"1 caller <", "2 send buffered < 1 caller", "3 defer buffered < 1 caller", "4 commit < 1 caller",
			"5 handle handled < 2 send", "6 reply buffered < 5 handle", "7 commit < 5 handle",
		})
	})
}

// TestAttemptOutcomes: the end of an attempt says what has become of the message.
func TestAttemptOutcomes(t *testing.T) {
	fails := func(context.Context, *harebus.Bus, *harebus.Message) error { return errNo }
	for name, c := range map[string]struct {
		change func(*harebus.Config)
		handle harebus.HandlerFunc
		send   amqp.Publishing
		want   []harebus.AttemptOutcome
	}{
		"handled":   {handle: func(context.Context, *harebus.Bus, *harebus.Message) error { return nil }, want: []harebus.AttemptOutcome{harebus.AttemptHandled}},
		"ignored":   {change: func(c *harebus.Config) { c.Handling.Unhandled = harebus.UnhandledIgnore }, handle: fails, send: amqp.Publishing{Type: "Other"}, want: []harebus.AttemptOutcome{harebus.AttemptIgnored}},
		"unknown":   {change: func(c *harebus.Config) { c.Handling.Unhandled = harebus.UnhandledPark }, handle: fails, send: amqp.Publishing{Type: "Other"}, want: []harebus.AttemptOutcome{harebus.AttemptParked}},
		"discarded": {change: func(c *harebus.Config) { c.Handling.ErrorHandler = discard }, handle: fails, want: []harebus.AttemptOutcome{harebus.AttemptDiscarded}},
		"parked":    {handle: fails, want: []harebus.AttemptOutcome{harebus.AttemptRetried, harebus.AttemptRetried, harebus.AttemptParked}},
		"postponed": {handle: func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.FirstFailed.IsZero() {
				return harebus.Postpone(time.Second, errNo)
			}
			return nil
		}, want: []harebus.AttemptOutcome{harebus.AttemptPostponed, harebus.AttemptHandled}},
		"unreadable": {handle: fails, send: amqp.Publishing{Type: "Order", Headers: amqp.Table{"PikaBus.ErrorRetries": "many"}}, want: []harebus.AttemptOutcome{harebus.AttemptParked}},
		"goexit": {handle: func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.Attempt == 1 {
				runtime.Goexit()
			}
			return nil
		}, want: []harebus.AttemptOutcome{harebus.AttemptRetried, harebus.AttemptHandled}},
		"panic": {handle: func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.Attempt == 1 {
				panic("oh")
			}
			return nil
		}, want: []harebus.AttemptOutcome{harebus.AttemptRetried, harebus.AttemptHandled}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				seen, _ := traced(t, r, c.change, c.handle)
				if c.send.Type == "" {
					c.send = plain(`{"ID":1}`)
				}
				r.publish(r.channel(), "orders", c.send)
				r.quiet("error")
				ends := seen.of(harebus.OpHandle)
				for i, end := range ends {
					if i >= len(c.want) || end.Outcome != c.want[i] {
						t.Errorf("end %d is %v", i, end.Outcome)
					}
				}
				if len(ends) != len(c.want) {
					t.Errorf("%d ends, want %v", len(ends), c.want)
				}
			})
		})
	}
}

func discard(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.Discard() }

// TestAttemptLost: an attempt that was cut off, by the connection or by a stop, also when its handler ends the goroutine,
// has lost its message; so has one whose message cannot be sent on.
func TestAttemptLost(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(r *rig)
		end       func()
	}{
		"connection":            {func(r *rig) { r.broker.CutConnections("orders consume") }, func() {}},
		"connection and goexit": {func(r *rig) { r.broker.CutConnections("orders consume") }, runtime.Goexit},
		"cannot be sent on": {func(r *rig) {
			r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack})
		}, func() {}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				first := true
				seen, s := traced(t, r, func(c *harebus.Config) { c.Connect.Name = "orders" }, func(context.Context, *harebus.Bus, *harebus.Message) error {
					if !first {
						return nil
					}
					first = false
					c.meanwhile(r)
					<-time.After(time.Second)
					c.end()
					return errNo
				})
				r.publish(r.channel(), "orders", plain(`{"ID":1}`))
				for len(seen.of(harebus.OpHandle)) < 2 && r.ctx.Err() == nil {
					<-time.After(time.Second)
				}
				var got []string
				for _, end := range seen.of(harebus.OpHandle) {
					got = append(got, end.Outcome.String())
				}
				slices.Sort(got) // the second attempt may end first
				sameLines(t, got, []string{"handled", "lost"})
				if n := s.Stats(); n.Handled != 1 || n.Parked != 0 {
					t.Errorf("counts %+v", n)
				}
			})
		})
	}
}

// TestAttemptEndsBeforeAck: while observers are told of the end of an attempt, the broker has its message.
func TestAttemptEndsBeforeAck(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		held := make(chan int, 1)
		cfg.Observers = []harebus.Observer{ender(func(o harebus.Observation) {
			if o.Operation == harebus.OpHandle {
				<-time.After(time.Second)
				queue, _ := r.broker.Queue("orders")
				held <- queue.Unacked
			}
		})}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		r.publish(r.channel(), "orders", plain(`{"ID":1}`))
		if n := receive(r, held); n != 1 {
			t.Errorf("%d messages are not acknowledged, want 1", n)
		}
	})
}

// ender is an observer of ends.
type ender func(harebus.Observation)

func (ender) ObserveStart(context.Context, harebus.Observation) context.Context { return nil }
func (e ender) ObserveEnd(_ context.Context, o harebus.Observation, _ error)    { e(o) }

// TestAttemptTimes: handling time is that of the handler and its commit, critical time begins when the message was sent.
func TestAttemptTimes(t *testing.T) {
	sent := func(after time.Duration) amqp.Publishing {
		return ordered(amqp.Table{"PikaBus.TimeSent": time.Now().UTC().Add(after).Format("2006-01-02T15:04:05.000000Z")})
	}
	for name, c := range map[string]struct {
		send               func() amqp.Publishing
		fails              bool
		handling, critical time.Duration
		outcome            harebus.AttemptOutcome
	}{
		"an hour ago":    {send: func() amqp.Publishing { return sent(-time.Hour) }, handling: time.Second, critical: time.Hour + time.Second, outcome: harebus.AttemptHandled},
		"no time":        {send: func() amqp.Publishing { return plain(`{"ID":1}`) }, handling: time.Second, outcome: harebus.AttemptHandled},
		"in an hour":     {send: func() amqp.Publishing { return sent(time.Hour) }, handling: time.Second, outcome: harebus.AttemptHandled},
		"failed attempt": {send: func() amqp.Publishing { return sent(-time.Hour) }, fails: true, handling: time.Second, outcome: harebus.AttemptParked},
		"no handler":     {send: func() amqp.Publishing { return amqp.Publishing{Type: "Other"} }, outcome: harebus.AttemptParked},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				seen, _ := traced(t, r, func(cfg *harebus.Config) {
					cfg.Retry.MaxRetries, cfg.Handling.Unhandled = -1, harebus.UnhandledPark
				}, func(context.Context, *harebus.Bus, *harebus.Message) error {
					<-time.After(time.Second)
					if c.fails {
						return errNo
					}
					return nil
				})
				r.publish(r.channel(), "orders", c.send())
				r.quiet("error")
				ends := seen.of(harebus.OpHandle)
				if len(ends) != 1 || ends[0].HandlingTime != c.handling || ends[0].CriticalTime != c.critical || ends[0].Outcome != c.outcome {
					t.Errorf("ends %+v", ends)
				}
			})
		})
	}
}

// TestObserverOfCopyWithoutRoom: a message for whose copy there is hardly room is retried and parked as it came, without
// what observers have left.
func TestObserverOfCopyWithoutRoom(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		cfg.Observers = []harebus.Observer{tagger{headers: map[string]any{"tag": strings.Repeat("x", 8<<10)}}}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return errNo })
		r.start(s)
		large := strings.Repeat("y", 90<<10)
		r.publish(r.channel(), "orders", ordered(amqp.Table{"mine": large}))
		m := r.await("error", 1)[0]
		if m.Headers["mine"] != large || m.Headers["tag"] != nil || m.Headers["PikaBus.HeadersLeftOut"] != nil {
			t.Errorf("parked with the headers %v", m.Headers["PikaBus.HeadersLeftOut"])
		}
	})
}
