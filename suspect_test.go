package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// internalError is what RabbitMQ answers to a header of NaN, or to one of a decimal where
// a stream is bound: it closes the connection.
const internalError = 541

// TestDeadlyPublish: a message that ends its connection whenever it is sent is given up,
// after a few connections and in a few seconds, and those beside it arrive once.
func TestDeadlyPublish(t *testing.T) {
	for name, c := range map[string]struct {
		do      brokertest.Action
		code    int
		most    int // attempts
		arrives bool
	}{
		"the broker says so":                     {brokertest.Raise, internalError, 4, false},
		"the connection ends":                    {brokertest.CutBefore, 0, 6, false},
		"the connection ends, a queue has taken": {brokertest.CutAfter, 0, 6, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.bound(r.channel(), "out")
				s := r.setup(r.config(""))
				bus := s.Bus()
				deadly := r.broker.Inject(brokertest.Fault{
					On: "basic.publish", Times: -1, Do: c.do, Code: c.code,
					Match: func(f brokertest.Frame) bool { return f.MessageID == "deadly" },
				})
				start := time.Now()
				var senders sync.WaitGroup
				for i := range 20 {
					senders.Go(func() {
						if err := bus.Send(r.ctx, "out", order{i}, harebus.WithMessageID(fmt.Sprint(i))); err != nil {
							t.Error(err)
						}
					})
				}
				failed := publishError(t, bus.Send(r.ctx, "out", order{99}, harebus.WithMessageID("deadly")))
				senders.Wait()
				if !errors.Is(failed, harebus.ErrRefused) || !errors.Is(failed, harebus.ErrUnknownOutcome) || failed.Outcome != harebus.Unknown {
					t.Errorf("got %v", failed)
				}
				if n := deadly.Fired(); n > c.most {
					t.Errorf("%d attempts", n)
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
				if n := s.Stats().Connections; n > 12 {
					t.Errorf("%d connections", n)
				}
				if err := bus.Send(r.ctx, "out", order{100}); err != nil {
					t.Error(err)
				}
				copies := map[string]int{}
				for _, m := range r.broker.Messages("out") {
					copies[m.MessageId]++
				}
				for id, n := range copies {
					if id == "deadly" && (!c.arrives || n > c.most) || id != "deadly" && n > c.most {
						t.Errorf("%d copies of %s", n, id)
					}
				}
				if len(copies) < 21 {
					t.Errorf("%d messages arrived", len(copies))
				}
			})
		})
	}
}

// TestShutdownsAreNobodysFault: connections that the broker closes because it is being shut
// down, however many, give no message up; nor do a few that merely end.
func TestShutdownsAreNobodysFault(t *testing.T) {
	for name, fault := range map[string]brokertest.Fault{
		"shut down": {Do: brokertest.Raise, Code: amqp.ConnectionForced, Times: 10},
		"ends":      {Do: brokertest.CutBefore, Times: 5},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.bound(r.channel(), "out")
				fault.On = "basic.publish"
				injected := r.broker.Inject(fault)
				if err := r.setup(r.config("")).Bus().Send(r.ctx, "out", order{1}); err != nil {
					t.Fatal(err)
				}
				if n := injected.Fired(); n != fault.Times {
					t.Errorf("%d connections ended", n)
				}
				r.await("out", 1)
			})
		})
	}
}

// TestDeadlyInATransaction: the report names the one message that ends connections.
func TestDeadlyInATransaction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		tx := r.setup(r.config("")).Bus().Begin()
		r.broker.Inject(brokertest.Fault{
			On: "basic.publish", Times: -1, Do: brokertest.Raise, Code: internalError,
			Match: func(f brokertest.Frame) bool { return f.MessageID == "5" },
		})
		for i := range 10 {
			if err := tx.Send(r.ctx, "out", order{i}, harebus.WithMessageID(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		var failed *harebus.TransactionError
		if err := tx.Commit(r.ctx); !errors.As(err, &failed) {
			t.Fatalf("got %v", err)
		}
		for i, m := range failed.Messages {
			if (m.Err != nil) != (i == 5) {
				t.Errorf("message %d: %v", i, m.Err)
			}
		}
		contains(t, failed.Error(), "9 confirmed", "1 unknown", "do not send it again unchanged")
		for i := range 10 {
			ids, _ := r.bodies("out")
			if there := strings.Contains(fmt.Sprint(ids), fmt.Sprint(i)); there != (i != 5) {
				t.Errorf("message %d is there: %t", i, there)
			}
		}
	})
}

// TestDecimalsAreNotCopied: a header that may end the connection is there when the message is
// handled first, and left out and named in every copy.
func TestDecimalsAreNotCopied(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		seen := make(chan any, 10)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			seen <- harebus.Incoming(ctx).Headers["price"]
			return errNo
		})
		r.start(s)
		m := plain(`{"ID":1}`)
		m.Headers = amqp.Table{
			"price": amqp.Decimal{Scale: 2, Value: 150}, "deep": amqp.Table{"list": []any{amqp.Decimal{}}}, "kept": "yes",
		}
		r.publish(r.channel(), "orders", m)
		parked := r.await("error", 1)[0]
		if first := receive(r, seen); first != (amqp.Decimal{Scale: 2, Value: 150}) {
			t.Errorf("the first attempt saw %v", first)
		}
		if parked.Headers["price"] != nil || parked.Headers["deep"] != nil || parked.Headers["kept"] != "yes" {
			t.Errorf("parked with %v", parked.Headers)
		}
		details, _ := parked.Headers["PikaBus.ErrorDetails"].(string)
		contains(t, details, "price", "deep", "left out")
	})
}

// TestDeadlyCopyIsParked: a message whose copies end the connection, for a reason that is
// not known here, is parked without its custom headers after a few connections.
func TestDeadlyCopyIsParked(t *testing.T) {
	for name, decision := range map[string]error{"retry": errNo, "park": harebus.NoRetry(errNo)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup(r.config("orders"))
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					if o.ID == 1 {
						return decision
					}
					return nil
				})
				r.start(s)
				deadly := r.broker.Inject(brokertest.Fault{
					On: "basic.publish", Times: -1, Do: brokertest.Raise, Code: internalError,
					Match: func(f brokertest.Frame) bool {
						return f.Headers["deadly"] != nil && strings.Contains(f.Connection, "publish")
					},
				})
				m := plain(`{"ID":1}`)
				m.Headers = amqp.Table{"deadly": true}
				ch := r.channel()
				r.publish(ch, "orders", m, plain(`{"ID":2}`))
				parked := r.await("error", 1)[0]
				details, _ := parked.Headers["PikaBus.ErrorDetails"].(string)
				contains(t, details, "deadly", "left out", errNo.Error())
				if string(parked.Body) != `{"ID":1}` || deadly.Fired() > 4 {
					t.Errorf("parked %s after %d attempts", parked.Body, deadly.Fired())
				}
				r.quiet("error")
				if got := s.Stats(); got.Handled != 1 || got.Parked != 1 || got.Connections > 8 {
					t.Errorf("counts %+v", got)
				}
			})
		})
	}
}

// TestDeadlyCopyIsPostponed: a message that comes before its time, and whose copies end the connection, waits without
// its custom headers.
func TestDeadlyCopyIsPostponed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.start(s)
		deadly := r.broker.Inject(brokertest.Fault{
			On: "basic.publish", Times: -1, Do: brokertest.Raise, Code: internalError,
			Match: func(f brokertest.Frame) bool {
				return f.Headers["deadly"] != nil && strings.Contains(f.Connection, "publish")
			},
		})
		due := time.Now().Add(time.Minute)
		m := plain(`{"ID":1}`)
		m.Headers = amqp.Table{"deadly": true, prefixed("DeferredTime"): due.UTC().Format(time.RFC3339Nano)}
		r.publish(r.channel(), "orders", m)
		receive(r, got)
		if early := time.Until(due); early > 0 || early < -10*time.Second {
			t.Errorf("handled %v before it was due", early)
		}
		r.quiet()
		if n := s.Stats(); deadly.Fired() > 4 || n.Handled != 1 || n.Postponed != 1 {
			t.Errorf("%d attempts, counts %+v", deadly.Fired(), n)
		}
	})
}
