package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// doubling is a back-off of d, 2d, 4d, …, without chance.
func doubling(d time.Duration) func() backoff.BackOff {
	return func() backoff.BackOff {
		return backoff.NewExponentialBackOff(backoff.WithInitialInterval(d), backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(0), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	}
}

// Five retries with growing pauses, then the error queue: with the reason, and otherwise as it came.
func TestRetriesThenParks(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		cfg.Retry = harebus.RetryConfig{BackOff: doubling(40 * time.Millisecond)}
		s := p.setup(cfg)
		in := newInbox()
		s.HandleMessage("Job", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			in.add(m)
			return fmt.Errorf("attempt %d fails: %w", m.Attempt, io.ErrUnexpectedEOF)
		})
		p.start(s)
		b := p.broker()
		body := []byte("{\"b\" : 1,\n \"a\": \"\\u00fc\", \"a\": 2 }\n") // nothing that decodes and encodes leaves it so
		sent := amqp.Publishing{
			Headers: amqp.Table{"custom": "x", "MyInt": int32(7), "list": []any{"a", int64(1)}, "x-request-id": "r"}, Body: body,
			ContentType: "application/json", CorrelationId: "conversation", ReplyTo: "somebody", MessageId: "the one",
			Timestamp: time.Unix(1795250681, 0), Type: "Job", AppId: "app", Priority: 3, UserId: "guest", Expiration: "600000",
		}
		b.publish("", cfg.Queue, sent)

		d := b.take(cfg.ErrorQueue.Name, 1)[0]
		attempts := in.all()
		if len(attempts) != 6 {
			t.Fatalf("%d attempts; want 6", len(attempts))
		}
		for i, a := range attempts {
			if a.Attempt != i+1 || a.ID != "the one" || !bytes.Equal(a.Body, body) {
				t.Errorf("attempt %d: number %d of message %q with body %q", i+1, a.Attempt, a.ID, a.Body)
			}
			if i == 0 {
				continue
			}
			if a.SourceQueue != cfg.Queue || !strings.Contains(a.ErrorDetails, fmt.Sprintf("attempt %d fails", i)) {
				t.Errorf("attempt %d: source %q, details %q", i+1, a.SourceQueue, a.ErrorDetails)
			}
			if gap, least := a.at.Sub(attempts[i-1].at), 40*time.Millisecond<<(i-1); gap < least {
				t.Errorf("attempt %d came %v after the one before it; want at least %v", i+1, gap, least)
			}
		}
		if !bytes.Equal(d.Body, body) || d.DeliveryMode != amqp.Persistent {
			t.Errorf("parked with body %q", d.Body)
		}
		details, _ := d.Headers["PikaBus.ErrorDetails"].(string)
		if d.Headers["PikaBus.ErrorRetries"] != int8(6) || d.Headers["PikaBus.SourceQueue"] != cfg.Queue || !strings.Contains(details, "attempt 6 fails: unexpected EOF") {
			t.Errorf("parked with headers %v", d.Headers)
		}
		for key, want := range map[string]any{"custom": "x", "MyInt": int32(7), "list": []any{"a", int64(1)}, "x-request-id": "r", "PikaBus.MessageId": "the one"} {
			if got := d.Headers[key]; fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", want, want) {
				t.Errorf("header %s is %#v; want %#v", key, got, want)
			}
		}
		for _, key := range []string{"CC", "x-death", "x-first-death-queue", "x-last-death-queue", "x-delivery-count"} {
			if d.Headers[key] != nil {
				t.Errorf("header %s: %v is still there", key, d.Headers[key])
			}
		}
		got := amqp.Publishing{
			ContentType: d.ContentType, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, MessageId: d.MessageId, Timestamp: d.Timestamp.UTC(),
			Type: d.Type, AppId: d.AppId, Priority: d.Priority, UserId: d.UserId, Expiration: d.Expiration,
		}
		want := sent
		want.Headers, want.Body, want.UserId, want.Expiration, want.Timestamp = nil, nil, "", "", sent.Timestamp.UTC()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("parked with properties %+v\nwant %+v", got, want)
		}
		b.empty(cfg.ErrorQueue.Name)
		if q, err := b.look(cfg.Queue); err != nil || q.Messages != 0 {
			t.Errorf("the listener queue has %d messages, %v", q.Messages, err)
		}
		if stats := s.Stats(); stats.Failed != 6 || stats.Retried != 5 || stats.Parked != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

// A message that succeeds in the end leaves nothing behind, and while it waits others are handled.
func TestRetriesThenSucceeds(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Consume.Concurrency = 1
	cfg.Retry.BackOff = pauses(3 * time.Second) // enough for the other message to come first
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		in.add(m)
		if m.ID == "moody" && m.Attempt < 4 {
			panic(fmt.Errorf("mood %d", m.Attempt))
		}
		return nil
	})
	p.start(s)
	ctx := p.within(patience)
	p.try(s.Bus().Send(ctx, cfg.Queue, note{1}, harebus.WithMessageID("moody")))
	in.awaitID(p, "moody")
	p.try(s.Bus().Send(ctx, cfg.Queue, note{1}, harebus.WithMessageID("other")))
	got := in.await(p, 5)
	if got[1].ID != "other" {
		t.Errorf("the message that waits held up the others: %q came second", got[1].ID)
	}
	if last := got[4]; last.ID != "moody" || last.Attempt != 4 || !strings.Contains(last.ErrorDetails, "panic: mood 3") || !strings.Contains(last.ErrorDetails, "retry_test.go") {
		t.Errorf("attempt %d of %q with details %q", last.Attempt, last.ID, last.ErrorDetails)
	}
	p.broker().empty(cfg.ErrorQueue.Name)
}

type businessError struct{ code int }

func (e businessError) Error() string { return fmt.Sprint("business error ", e.code) }

// The handler's error is the instruction.
func TestErrorsAreInstructions(t *testing.T) {
	t.Parallel()
	type result struct {
		attempts int
		parked   bool
	}
	cases := map[string]struct {
		change func(*harebus.Config)
		err    func(attempt int) error
		want   result
		count  any // ErrorRetries of the parked message
	}{
		"no retry":          {nil, func(int) error { return harebus.NoRetry(io.EOF) }, result{1, true}, int8(1)},
		"no retry, wrapped": {nil, func(int) error { return fmt.Errorf("so: %w", harebus.NoRetry(io.EOF)) }, result{1, true}, int8(1)},
		"no retry of nil":   {nil, func(int) error { return harebus.NoRetry(nil) }, result{1, false}, nil},
		"retry after, then done": {nil, func(attempt int) error {
			if attempt > 2 {
				return nil
			}
			return harebus.RetryAfter(30*time.Millisecond, io.EOF)
		}, result{3, false}, nil},
		"retry after, for ever": {nil, func(int) error { return harebus.RetryAfter(time.Millisecond, io.EOF) }, result{6, true}, int8(6)},
		"never retry":           {func(c *harebus.Config) { c.Retry.MaxRetries = -1 }, func(int) error { return io.EOF }, result{1, true}, int8(1)},
		"two retries":           {func(c *harebus.Config) { c.Retry.MaxRetries = 2 }, func(int) error { return io.EOF }, result{3, true}, int8(3)},
		"policy that stops": {func(c *harebus.Config) {
			c.Retry.BackOff = func() backoff.BackOff { return backoff.WithMaxRetries(backoff.NewConstantBackOff(time.Millisecond), 1) }
		}, func(int) error { return io.EOF }, result{2, true}, int8(2)},
		"rule by type": {func(c *harebus.Config) {
			c.Retry.Rules = []harebus.RetryRule{{Match: harebus.MatchAs[businessError](), MaxRetries: -1}}
		}, func(attempt int) error {
			if attempt > 2 {
				return businessError{7}
			}
			return io.EOF
		}, result{3, true}, int8(3)},
		"rule by value": {func(c *harebus.Config) {
			c.Retry.Rules = []harebus.RetryRule{{Match: harebus.MatchIs(io.EOF), MaxRetries: 1}}
		}, func(int) error { return fmt.Errorf("so: %w", io.EOF) }, result{2, true}, int8(2)},
		"own error handler discards": {func(c *harebus.Config) {
			c.Handling.ErrorHandler = func(m *harebus.Message, _ error, _ harebus.Decision) harebus.Decision {
				if m.Attempt == 2 {
					return harebus.Discard()
				}
				return harebus.RetryIn(time.Millisecond)
			}
		}, func(int) error { return io.EOF }, result{2, false}, nil},
		"own error handler panics": {func(c *harebus.Config) {
			c.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision { panic("oh") }
		}, func(int) error { return io.EOF }, result{1, true}, int8(1)},
		"handler timeout": {func(c *harebus.Config) {
			c.Retry.MaxRetries, c.Handling.Timeout = -1, 30*time.Millisecond
		}, nil, result{1, true}, int8(1)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			cfg := p.config("a")
			if c.change != nil {
				c.change(&cfg)
			}
			s := p.setup(cfg)
			var attempts atomic.Int32
			ended := make(chan error, 10)
			s.HandleMessage("Note", func(ctx context.Context, _ *harebus.Bus, m *harebus.Message) error {
				attempts.Add(1)
				var err error
				if c.err == nil {
					<-ctx.Done()
					err = ctx.Err()
				} else {
					err = c.err(m.Attempt)
				}
				ended <- err
				return err
			})
			last := make(chan struct{})
			s.HandleMessage("Last", func(context.Context, *harebus.Bus, *harebus.Message) error { close(last); return nil })
			p.start(s)
			b := p.broker()
			p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
			for range c.want.attempts {
				p.Log(<-ended)
			}
			if c.want.parked {
				d := b.take(cfg.ErrorQueue.Name, 1)[0]
				if got := d.Headers["PikaBus.ErrorRetries"]; got != c.count {
					t.Errorf("parked with %T %v failures; want %v", got, got, c.count)
				}
				if name == "handler timeout" {
					p.mentions(errors.New(d.Headers["PikaBus.ErrorDetails"].(string)), "handler timeout of 30ms")
				}
			}
			p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithType("Last")))
			<-last
			if got := int(attempts.Load()); got != c.want.attempts {
				t.Errorf("%d attempts; want %d", got, c.want.attempts)
			}
			b.empty(cfg.ErrorQueue.Name)
		})
	}
}

// A message whose details would not fit is parked all the same.
func TestHugeErrorsArePartlyKept(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	s := p.setup(cfg)
	s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error {
		return harebus.NoRetry(errors.New("it begins here " + strings.Repeat("\xff\u00fc stack", 1<<17)))
	})
	p.start(s)
	b := p.broker()
	b.publish("", cfg.Queue, amqp.Publishing{MessageId: "big", Headers: amqp.Table{"huge": strings.Repeat("x", 120_000), "small": "y"}})
	d := b.take(cfg.ErrorQueue.Name, 1)[0]
	details, _ := d.Headers["PikaBus.ErrorDetails"].(string)
	if d.MessageId != "big" || d.Headers["small"] != "y" || !strings.Contains(details, "it begins here") || len(details) > 9<<10 {
		t.Errorf("parked %q with %d bytes of details", d.MessageId, len(details))
	}
	if n := s.Stats().Connections; n != 2 {
		t.Errorf("%d connections", n)
	}
}

// Somebody deletes the error queue: it is there again when it is needed.
func TestErrorQueueDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		s := p.setup(cfg)
		s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return harebus.NoRetry(io.EOF) })
		p.start(s)
		b := p.broker()
		b.deleteQueue(cfg.ErrorQueue.Name)
		p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithMessageID("bad")))
		p.eventually(patience, func() error {
			if !b.exists(cfg.ErrorQueue.Name) {
				return errors.New("there is no error queue")
			}
			return nil
		})
		if d := b.take(cfg.ErrorQueue.Name, 1)[0]; d.MessageId != "bad" {
			t.Errorf("parked %q", d.MessageId)
		}
	})
}

// While the error queue takes nothing, a message waits in a delay; when it does again, the message is parked.
func TestErrorQueueFull(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	b := p.broker()
	b.declareQueue(cfg.ErrorQueue.Name, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	b.publish("", cfg.ErrorQueue.Name, amqp.Publishing{MessageId: "the plug"})
	log := p.journal(cfg.Queue)
	cfg.Logger = log.logger()
	s := p.setup(cfg)
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		if m.ID == "bad" {
			return harebus.NoRetry(io.EOF)
		}
		return nil
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithMessageID("bad")))
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithMessageID("good")))
	p.eventually(patience, func() error {
		if !strings.Contains(log.text(), "the error queue takes no messages") {
			return errors.New("it says nothing")
		}
		return nil
	})
	p.eventually(patience, func() error { // others are handled meanwhile
		if n := s.Stats().Handled; n != 1 {
			return fmt.Errorf("%d handled", n)
		}
		return nil
	})
	for _, id := range []string{"the plug", "bad"} {
		p.eventually(3*patience, func() error { return b.holds(cfg.ErrorQueue.Name, 1) }) // it waits for half a minute at least
		if got := b.take(cfg.ErrorQueue.Name, 1)[0]; got.MessageId != id {
			t.Errorf("got %q, want %q", got.MessageId, id)
		}
	}
	if n := s.Stats().Delivered; n > 10 {
		t.Errorf("%d deliveries while it waited", n)
	}
}

// A parked message that somebody moves back starts again at attempt 1.
func TestParkedMessageMovedBack(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Retry.BackOff = pauses(10 * time.Millisecond)
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		in.add(m)
		return io.EOF
	})
	p.start(s)
	b := p.broker()
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	for round := 1; round <= 2; round++ {
		d := b.take(cfg.ErrorQueue.Name, 1)[0]
		if d.Headers["PikaBus.ErrorRetries"] != int8(6) || len(in.all()) != 6*round {
			t.Errorf("round %d: %d attempts, parked with %v failures", round, len(in.all()), d.Headers["PikaBus.ErrorRetries"])
		}
		if round == 1 {
			b.publish("", cfg.Queue, amqp.Publishing{Headers: d.Headers, ContentType: d.ContentType, MessageId: d.MessageId, Type: d.Type, Body: d.Body})
		}
	}
}
