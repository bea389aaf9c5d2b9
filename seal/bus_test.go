package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/parked"
	"github.com/harebus/harebus/internal/redrive"
	"github.com/harebus/harebus/seal"
)

const canary = "canary-4111-1111"

// payment is the message of the tests with a broker.
type payment struct{ Card string }

func (payment) MessageType() string { return "Payment" }

// serve starts a service, in a bubble with a clock of its own.
func serve(t *testing.T, b *brokertest.Broker, queue string, guard harebus.Guard, change func(*harebus.Config), handle func(context.Context, *harebus.Bus, *harebus.Message) error) *harebus.Setup {
	t.Helper()
	cfg := harebus.Config{URL: b.URL(), Dial: b.Dial, Queue: queue}
	cfg.Payload.Guards = []harebus.Guard{guard}
	cfg.Retry.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(10 * time.Second) }
	if change != nil {
		change(&cfg)
	}
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.HandleMessage("Payment", handle)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// TestJourney: whatever the bus does with a sealed message, it can be opened: defer, retry, postpone, park, redrive, forward.
func TestJourney(t *testing.T) {
	t.Parallel()
	for kind := range guards(ring(t, secret(t, "key", 1)), all) {
		for name, format := range map[string]harebus.TimeFormat{"ISO": harebus.TimeISO, "legacy": harebus.TimeLegacy} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := brokertest.New()
					t.Cleanup(b.Close)
					journey(t, b, kind, func(cfg *harebus.Config) { cfg.Payload.TimeFormat = format })
				})
			})
		}
	}
}

func journey(t *testing.T, b *brokertest.Broker, kind string, change func(*harebus.Config)) {
	t.Helper()
	policy := seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}, MaxAge: time.Hour}
	keys := ring(t, secret(t, "key", 1))
	type visit struct {
		queue string
		m     harebus.Message
	}
	visits := make(chan visit, 100)
	var passed sync.Map
	count := func(id, step string) bool {
		_, again := passed.LoadOrStore(id+step, true)
		return !again
	}
	serve(t, b, "archive", guards(keys, policy)[kind], change, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		visits <- visit{"archive", *m}
		return nil
	})
	s := serve(t, b, "orders", guards(keys, policy)[kind], change, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		if string(m.Body) != `{"Card":"`+canary+`"}` {
			t.Errorf("the body is %s", m.Body)
		}
		switch {
		case m.Attempt == 1 && count(m.ID, "postponed"):
			return harebus.Postpone(time.Minute, errors.New("later"))
		case m.Attempt < 3:
			return errors.New("once more")
		case count(m.ID, "parked"):
			return harebus.NoRetry(errors.New("parked"))
		}
		visits <- visit{"orders", *m}
		return bus.Send(ctx, "archive", payment{"copy"}, harebus.WithHeader("tenant", "blue"))
	})
	options := []harebus.SendOption{harebus.WithHeader("tenant", "blue"), harebus.WithHeader("other", "free")}
	if err := s.Bus().Send(t.Context(), "orders", payment{canary}, options...); err != nil {
		t.Fatal(err)
	}
	if err := s.Bus().Defer(t.Context(), "orders", 10*time.Minute, payment{canary}, options...); err != nil {
		t.Fatal(err)
	}
	forward(t, s, options)
	for range 2 {
		time.Sleep(20 * time.Minute)
		if kind == "sealed" {
			for _, m := range b.Messages("error") {
				if bytes.Contains(m.Body, []byte(canary)) {
					t.Errorf("parked in the clear: %s", m.Body)
				}
			}
		}
		report, err := redrive.Run(t.Context(), redrive.Options{
			Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Queue: "error", HeaderPrefix: "PikaBus.", Timeout: time.Minute,
		}, func(redrive.Item) {})
		if err != nil || report.Left != 0 {
			t.Fatalf("redrive: %+v, %v", report, err)
		}
	}
	seen := map[string]int{}
	for range 6 {
		select {
		case v := <-visits:
			seen[v.queue]++
			if v.m.Headers["tenant"] != "blue" {
				t.Errorf("headers %v", v.m.Headers)
			}
		case <-time.After(20 * time.Minute):
			t.Fatalf("handled %v; %d messages are in the error queue", seen, len(b.Messages("error")))
		}
	}
	if seen["orders"] != 3 || seen["archive"] != 3 {
		t.Errorf("handled %v", seen)
	}
}

// forward stores a message, as an outbox does, and publishes it later.
func forward(t *testing.T, s *harebus.Setup, options []harebus.SendOption) {
	t.Helper()
	tx := s.Bus().Begin()
	if err := tx.Send(t.Context(), "orders", payment{canary}, options...); err != nil {
		t.Fatal(err)
	}
	stored, err := tx.Detach()
	if err != nil {
		t.Fatal(err)
	}
	head, err := stored[0].Head()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := harebus.OpenEnvelope(stored[0].Exchange(), stored[0].RoutingKey(), head, stored[0].Body())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Bus().Forward(t.Context(), []harebus.Envelope{loaded})...); err != nil {
		t.Fatal(err)
	}
}

// TestKeyServiceAway: while the key service is away for ten minutes nothing is parked or handled, and few calls are made. Afterwards
// every message is handled once.
func TestKeyServiceAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		t.Cleanup(b.Close)
		kms := &service{}
		policy := seal.Policy{Types: []string{"*"}}
		sender := serve(t, b, "shop", seal.New(seal.Envelope(kms), policy), nil, nothing)
		var mu sync.Mutex
		handled := map[string]int{}
		serve(t, b, "orders", seal.New(seal.Envelope(kms), policy), nil, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			handled[m.ID]++
			return nil
		})
		if err := sender.Bus().Send(t.Context(), "shop", payment{}); err != nil {
			t.Fatal(err) // the sender has its key now
		}
		kms.set(errAway)
		const messages = 200
		for range messages {
			if err := sender.Bus().Send(t.Context(), "orders", payment{canary}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
		if _, unwraps := kms.counts(); unwraps < 2 || unwraps > 40 {
			t.Errorf("%d calls in ten minutes for %d messages", unwraps, messages)
		}
		mu.Lock()
		if len(handled) > 0 {
			t.Errorf("%d messages were handled without a key", len(handled))
		}
		mu.Unlock()
		kms.set(nil)
		time.Sleep(6 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for id, n := range handled {
			if n != 1 {
				t.Errorf("message %s was handled %d times", id, n)
			}
		}
		if parked := len(b.Messages("error")); len(handled) != messages || parked > 0 {
			t.Errorf("%d of %d messages were handled, %d parked", len(handled), messages, parked)
		}
	})
}

func nothing(context.Context, *harebus.Bus, *harebus.Message) error { return nil }

// TestSenderWithoutKeyService: a handler that cannot seal what it sends fails without counting, and its message is handled
// when the key service is back.
func TestSenderWithoutKeyService(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		t.Cleanup(b.Close)
		kms := &service{away: errAway}
		done := make(chan int, 1)
		s := serve(t, b, "orders", seal.New(seal.Envelope(kms), seal.Policy{Types: []string{"Receipt"}}), nil,
			func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				err := bus.Send(ctx, "orders", payment{"paid"}, harebus.WithType("Receipt"))
				if err == nil {
					done <- m.Attempt
				}
				return err
			})
		s.HandleMessage("Receipt", nothing)
		if err := s.Bus().Send(t.Context(), "orders", payment{canary}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		kms.set(nil)
		select {
		case attempt := <-done:
			if attempt != 1 || len(b.Messages("error")) > 0 {
				t.Errorf("attempt %d", attempt)
			}
		case <-time.After(10 * time.Minute):
			t.Errorf("not handled; %d messages are in the error queue", len(b.Messages("error")))
		}
	})
}

// TestCrowded: a message whose many small headers leave no room for the reason of its failure keeps the large one that is
// bound, so its copy in the error queue still opens.
func TestCrowded(t *testing.T) {
	t.Parallel()
	policy := seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}, Details: true}
	for kind, g := range guards(ring(t, secret(t, "key", 1)), policy) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.New()
				t.Cleanup(b.Close)
				s := serve(t, b, "orders", g, nil, func(context.Context, *harebus.Bus, *harebus.Message) error {
					return harebus.NoRetry(errors.New(strings.Repeat("long ", 1600)))
				})
				headers := map[string]any{"tenant": strings.Repeat("t", 2000)}
				for i := range 1400 {
					headers[fmt.Sprintf("small-%d", i)] = strings.Repeat("s", 70)
				}
				if err := s.Bus().Send(t.Context(), "orders", payment{canary}, harebus.WithHeaders(headers)); err != nil {
					t.Fatal(err)
				}
				if err := b.WaitQuiet(t.Context(), "error"); err != nil {
					t.Fatal(err)
				}
				copied := b.Messages("error")[0]
				id, p := parked.Read("PikaBus.", &amqp.Delivery{
					Headers: copied.Headers, ContentType: copied.ContentType, ContentEncoding: copied.ContentEncoding, MessageId: copied.MessageId,
					CorrelationId: copied.CorrelationId, Type: copied.Type, Timestamp: copied.Timestamp, AppId: copied.AppId, Body: copied.Body,
				}, "orders")
				if err := g.Admit(t.Context(), id, p); err != nil || copied.Headers["PikaBus.LeftOut"] == nil {
					t.Errorf("left out %v: %v", copied.Headers["PikaBus.LeftOut"], err)
				}
			})
		})
	}
}

// TestHostile: what somebody without a key can do to a message in a queue ends in the error queue, with the reason.
func TestHostile(t *testing.T) {
	t.Parallel()
	for kind := range guards(ring(t, secret(t, "key", 1)), all) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.New()
				t.Cleanup(b.Close)
				g := guards(ring(t, secret(t, "key", 1)), seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}})[kind]
				handled := func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
					t.Errorf("%s was handled", m.ID)
					return nil
				}
				serve(t, b, "orders", g, nil, handled)
				paused := serve(t, b, "refunds", g, nil, nothing)
				plain := serve(t, b, "attacker", g, func(cfg *harebus.Config) { cfg.Payload.Guards = nil }, nothing)
				if err := paused.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := paused.Bus().Send(t.Context(), "refunds", payment{canary}, harebus.WithHeader("tenant", "blue")); err != nil {
					t.Fatal(err)
				}
				caught := b.Messages("refunds")[0]
				put(t, b, caught, caught.Body, caught.Headers)
				put(t, b, caught, flip(caught.Body, 8*len(caught.Body)-1), caught.Headers)
				stripped := maps.Clone(caught.Headers)
				delete(stripped, "PikaBus.Signature")
				stripped["PikaBus.ContentType"] = "application/json"
				put(t, b, caught, []byte("{}"), stripped)
				if err := plain.Bus().Send(t.Context(), "orders", payment{canary}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				got := map[string]int{}
				for _, m := range b.Messages("error") {
					details := fmt.Sprint(m.Headers["PikaBus.ErrorDetails"])
					got[strings.SplitN(details, ":", 2)[0]]++
					if strings.Contains(details, canary) {
						t.Errorf("details %s", details)
					}
				}
				if fmt.Sprint(got) != "map[in-the-clear:2 tampered:1 wrong-destination:1]" {
					t.Errorf("parked for %v", got)
				}
			})
		})
	}
}

// put puts a message that was caught into the queue orders.
func put(t *testing.T, b *brokertest.Broker, caught brokertest.Message, body []byte, headers map[string]any) {
	t.Helper()
	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	p := caught.Publishing
	p.Body, p.Headers = body, headers
	if err := ch.PublishWithContext(t.Context(), "", "orders", false, false, p); err != nil {
		t.Fatal(err)
	}
}

// TestCanary: nothing of a sealed body is in the error queue, the log or what observers are told, however the message fails.
func TestCanary(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(m *harebus.Message) error{
		"handler": func(m *harebus.Message) error { return fmt.Errorf("charge %s: declined", m.Body) },
		"no retry": func(m *harebus.Message) error {
			return harebus.NoRetry(fmt.Errorf("charge %s: declined", m.Body))
		},
		"panic":    func(m *harebus.Message) error { panic("bad " + string(m.Body)) },
		"postpone": postponeOnce,
		"decoder": func(m *harebus.Message) error {
			var into struct{ Card int }
			return m.Decode(&into)
		},
		"reject": func(m *harebus.Message) error {
			return &harebus.RejectError{Reason: "bad-payload", Err: errors.New(string(m.Body))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.New()
				t.Cleanup(b.Close)
				sink := &sink{}
				encoder := zapcore.NewJSONEncoder(zap.NewDevelopmentEncoderConfig())
				s := serve(t, b, "orders", seal.New(ring(t, secret(t, "key", 1)), seal.Policy{Types: []string{"*"}}), func(cfg *harebus.Config) {
					cfg.Logger = zap.New(zapcore.NewCore(encoder, sink, zap.DebugLevel))
					cfg.Observers = []harebus.Observer{sink}
				}, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error { return fail(m) })
				if err := s.Bus().Send(t.Context(), "orders", payment{canary}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				parked := b.Messages("error")
				if len(parked) != 1 {
					t.Fatalf("%d messages are parked", len(parked))
				}
				if text := fmt.Sprintf("%s %v", parked[0].Body, parked[0].Headers); strings.Contains(text, canary) {
					t.Errorf("the error queue has %s", text)
				}
				if text := sink.String(); strings.Contains(text, canary) || !strings.Contains(text, "moved to the error queue") {
					t.Errorf("log and observers: %s", text)
				}
			})
		})
	}
}

func postponeOnce(m *harebus.Message) error {
	if m.Headers["PikaBus.DeferredTime"] == nil {
		return harebus.Postpone(time.Second, errors.New(string(m.Body)))
	}
	return errors.New(string(m.Body))
}

// sink collects a log, and the texts of errors that observers are told.
type sink struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (*sink) Sync() error { return nil }

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (*sink) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context { return ctx }

func (s *sink) ObserveEnd(_ context.Context, _ harebus.Observation, err error) {
	if err != nil {
		fmt.Fprintf(s, "%v %+v\n", err, err)
	}
}
