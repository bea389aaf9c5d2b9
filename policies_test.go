package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// TestUnhandledIsRetried: a message of a type that only the new version of a service
// knows survives the old one, and is not handled before its time.
func TestUnhandledIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry.BackOff = steady
		older := r.setup(cfg)
		older.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		r.start(older)
		due := time.Now().Add(time.Minute)
		r.publish(r.channel(), "orders", amqp.Publishing{Type: "Invoice"}, amqp.Publishing{
			Type: "Invoice", MessageId: "deferred", Headers: amqp.Table{prefixed("DeferredTime"): due.UTC().Format(time.RFC3339Nano)},
		})
		for older.Stats().Retried < 1 || older.Stats().Postponed < 1 {
			time.Sleep(time.Millisecond)
		}
		if err := older.Close(); err != nil {
			t.Fatal(err)
		}
		newer := r.setup(cfg)
		attempts := map[int]int{}
		newer.HandleMessage("Invoice", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			attempts[m.Attempt]++
			if m.ID == "deferred" && time.Now().Before(due) {
				t.Error("handled before its time")
			}
			return nil
		})
		r.start(newer)
		r.quiet()
		if attempts[2] != 1 || attempts[1] != 1 {
			t.Errorf("attempts %v", attempts)
		}
	})
}

// TestUnhandledMode: what becomes of messages without a handler, and what an error
// handler is asked about them.
func TestUnhandledMode(t *testing.T) {
	for name, c := range map[string]struct {
		mode     harebus.UnhandledMode
		want     harebus.MessageStats
		proposed []string
	}{
		"retry":  {harebus.UnhandledRetry, harebus.MessageStats{Retried: 2, Parked: 1}, []string{"retry in 1s", "retry in 1s", "park"}},
		"park":   {harebus.UnhandledPark, harebus.MessageStats{Parked: 1}, []string{"park"}},
		"ignore": {harebus.UnhandledIgnore, harebus.MessageStats{Ignored: 1}, nil},
	} {
		for _, kind := range []string{"Invoice", ""} {
			t.Run(name+" "+kind, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					cfg := r.config("orders")
					cfg.Handling.Unhandled = c.mode
					cfg.Retry = harebus.RetryConfig{MaxRetries: 2, BackOff: steady}
					var proposed []string
					cfg.Handling.ErrorHandler = func(_ *harebus.Message, err error, d harebus.Decision) harebus.Decision {
						var rejected *harebus.RejectError
						if !errors.As(err, &rejected) || !strings.HasSuffix(rejected.Reason, "-type") {
							t.Errorf("asked about %v", err)
						}
						proposed = append(proposed, d.String())
						return d
					}
					s := r.setup(cfg)
					s.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
					r.start(s)
					r.publish(r.channel(), "orders", amqp.Publishing{Type: kind})
					r.quiet("error")
					got := s.Stats()
					if got.Retried != c.want.Retried || got.Parked != c.want.Parked || got.Ignored != c.want.Ignored || got.Handled != 0 {
						t.Errorf("counts %+v", got)
					}
					if !slices.Equal(proposed, c.proposed) {
						t.Errorf("proposed %q", proposed)
					}
				})
			})
		}
	}
}

// TestErrorHandlerIsProposedTo: one that returns what is proposed changes nothing.
func TestErrorHandlerIsProposedTo(t *testing.T) {
	for name, c := range map[string]struct {
		body     string
		err      error
		proposed []string
	}{
		"error":       {`{}`, errNo, []string{"retry in 1s", "park"}},
		"no retry":    {`{}`, harebus.NoRetry(errNo), []string{"park"}},
		"retry after": {`{}`, harebus.RetryAfter(time.Minute, errNo), []string{"retry in 1m0s", "park"}},
		"bad payload": {`{`, nil, []string{"park"}},
		"postpone":    {`{}`, harebus.Postpone(2*time.Minute, errNo), []string{"postpone by 2m0s", "postpone by 2m0s", "postpone by 2m0s", "park"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Retry = harebus.RetryConfig{MaxRetries: 1, GiveUpAfter: 5 * time.Minute, BackOff: steady}
				var proposed []string
				cfg.Handling.ErrorHandler = func(_ *harebus.Message, _ error, d harebus.Decision) harebus.Decision {
					proposed = append(proposed, d.String())
					return d
				}
				s := r.setup(cfg)
				harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return c.err })
				r.start(s)
				r.publish(r.channel(), "orders", plain(c.body))
				r.quiet("error")
				r.await("error", 1)
				if !slices.Equal(proposed, c.proposed) {
					t.Errorf("proposed %q, want %q", proposed, c.proposed)
				}
			})
		})
	}
}

// TestPostpone: it counts as no failure, however often, and waits in the broker.
func TestPostpone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		start := time.Now()
		var at []time.Time
		s := r.handling(cfg, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			m := harebus.Incoming(ctx)
			if len(at) > 0 && (m.Attempt != 1 || m.FirstFailed.Sub(start) > time.Second || m.ErrorDetails != "busy") || m.LastAttempt {
				t.Errorf("time %d: attempt %d, first failed %v, %q, last %v", len(at), m.Attempt, m.FirstFailed, m.ErrorDetails, m.LastAttempt)
			}
			if at = append(at, time.Now()); len(at) <= 7 {
				return harebus.Postpone(time.Minute, errors.New("busy"))
			}
			return nil
		})
		if got := s.Stats(); got.Postponed != 7 || got.Retried != 0 || got.Handled != 1 || got.Parked != 0 {
			t.Errorf("counts %+v", got)
		}
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause < time.Minute || pause > time.Minute+time.Second {
				t.Errorf("pause %d took %v", i, pause)
			}
		}
	})
}

// TestPostponeToThePast: a pause that is over before it begins makes no hot loop.
func TestPostponeToThePast(t *testing.T) {
	for name, decide := range map[string]func(time.Duration) harebus.Decision{"error": nil, "decision": harebus.PostponeBy} {
		for _, d := range []time.Duration{0, -5, -time.Hour, time.Nanosecond, math.MinInt64} {
			t.Run(fmt.Sprint(name, " ", d), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					cfg := r.config("orders")
					if decide != nil {
						cfg.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision { return decide(d) }
					}
					began, attempts := time.Now(), 0
					r.handling(cfg, func(context.Context, *harebus.Bus, order) error {
						if attempts++; time.Since(began) > 5*time.Second {
							return nil
						}
						return harebus.Postpone(d, errNo)
					})
					if attempts < 5 || attempts > 60 {
						t.Errorf("%d attempts in five seconds", attempts)
					}
				})
			})
		}
	}
}

// TestGiveUpAfter: a limit in time, of failures and of postponements, which starts
// anew when the message comes back from the error queue.
func TestGiveUpAfter(t *testing.T) {
	minute := func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) }
	for name, c := range map[string]struct {
		policy harebus.RetryConfig
		err    error
		times  int
	}{
		"failures":           {harebus.RetryConfig{GiveUpAfter: 7*time.Minute + time.Second, BackOff: minute}, errNo, 9},
		"postponed":          {harebus.RetryConfig{GiveUpAfter: 7*time.Minute + time.Second}, harebus.Postpone(time.Minute, errNo), 9},
		"count comes first":  {harebus.RetryConfig{GiveUpAfter: 7 * time.Minute, MaxRetries: 2, BackOff: minute}, errNo, 3},
		"a rule says sooner": {harebus.RetryConfig{MaxRetries: 9, BackOff: minute, Rules: []harebus.RetryRule{{Match: harebus.MatchIs(errNo), GiveUpAfter: 90 * time.Second}}}, errNo, 3},
		"a rule has none":    {harebus.RetryConfig{MaxRetries: 4, GiveUpAfter: 90 * time.Second, BackOff: minute, Rules: []harebus.RetryRule{{Match: harebus.MatchIs(errNo), GiveUpAfter: -1}}}, errNo, 5},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Retry = c.policy
				times := 0
				r.handling(cfg, func(context.Context, *harebus.Bus, order) error { times++; return c.err })
				if times != c.times {
					t.Errorf("%d attempts, want %d", times, c.times)
				}
				if _, ok := r.await("error", 1)[0].Headers[prefixed("FirstFailed")].(string); !ok {
					t.Error("the parked message does not say when it failed first")
				}
			})
		})
	}
}

// TestWithRetry: a handler's own policy, whose zero fields are the setup's. The
// message knows its last attempt.
func TestWithRetry(t *testing.T) {
	for name, c := range map[string]struct {
		own   harebus.RetryConfig
		times int
	}{
		"none":         {harebus.RetryConfig{}, 3},
		"fewer":        {harebus.RetryConfig{MaxRetries: -1}, 1},
		"more":         {harebus.RetryConfig{MaxRetries: 7}, 8},
		"in time":      {harebus.RetryConfig{GiveUpAfter: 4500 * time.Millisecond}, 6},
		"another rule": {harebus.RetryConfig{Rules: []harebus.RetryRule{{Match: harebus.MatchIs(errNo), MaxRetries: 4}}}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Retry = harebus.RetryConfig{MaxRetries: 2, BackOff: steady}
				times, lasts := 0, 0
				s := r.handling(cfg, func(ctx context.Context, _ *harebus.Bus, _ order) error {
					times++
					if harebus.Incoming(ctx).LastAttempt {
						lasts = times
					}
					return errNo
				}, harebus.WithRetry(c.own))
				if times != c.times || s.Stats().Parked != 1 {
					t.Errorf("%d attempts, want %d; counts %+v", times, c.times, s.Stats())
				}
				if name != "another rule" && lasts != c.times {
					t.Errorf("attempt %d was the last one, as far as it knew", lasts)
				}
			})
		})
	}
}

// TestGivenUp: what the function sends leaves with the parking, once, or not at all.
func TestGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		fn   func(ctx context.Context, bus *harebus.Bus) error
		sent int
	}{
		"sends":  {func(context.Context, *harebus.Bus) error { return nil }, 1},
		"fails":  {func(context.Context, *harebus.Bus) error { return errNo }, 0},
		"panics": {func(context.Context, *harebus.Bus) error { panic("given up") }, 0},
		"quits":  {func(context.Context, *harebus.Bus) error { quit(); return nil }, 0},
		"hangs":  {func(ctx context.Context, _ *harebus.Bus) error { time.Sleep(time.Hour); return nil }, 0},
		"sends what nobody takes": {func(ctx context.Context, bus *harebus.Bus) error {
			return bus.Send(ctx, "nobody", answer{})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				cfg := r.config("orders")
				cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
				times := 0
				s := r.setup(cfg)
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
					if err := bus.Send(ctx, "out", answer{1}); err != nil {
						t.Error(err)
					}
					return errNo
				}, harebus.WithTimeout(time.Second), harebus.WithGivenUp(func(ctx context.Context, bus *harebus.Bus, m *harebus.Message, err error) error {
					times++
					if !errors.Is(err, errNo) || m.Attempt != 2 || harebus.Incoming(ctx) != m {
						t.Errorf("given up with %v, %+v", err, m)
					}
					return errors.Join(bus.Send(ctx, "out", answer{2}), c.fn(ctx, bus))
				}), harebus.WithGivenUp(nil), harebus.WithGivenUp(func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message, _ error) error {
					return bus.Send(ctx, "out", answer{2})
				}))
				r.start(s)
				r.publish(r.channel(), "orders", plain(`{}`))
				r.quiet("error", "out")
				if got := s.Stats(); times != 1 || got.Parked != 1 || got.Retried != 1 {
					t.Errorf("called %d times, counts %+v", times, got)
				}
				ids := map[string]bool{}
				for _, m := range r.broker.Messages("out") {
					ids[m.MessageId] = true
				}
				if want := c.sent + 1; len(ids) != want || len(r.broker.Messages("out")) != want {
					t.Errorf("%d messages with %d ids left, want %d", len(r.broker.Messages("out")), len(ids), want)
				}
				r.await("error", 1)
				if name == "hangs" {
					time.Sleep(time.Hour)
				}
			})
		})
	}
}

// TestBackOffFields: fields that are set on a policy count, and one policy for all
// messages is refused.
func TestBackOffFields(t *testing.T) {
	t.Parallel()
	policy := harebus.RetryConfig{BackOff: func() backoff.BackOff {
		b := backoff.NewExponentialBackOff()
		b.InitialInterval, b.RandomizationFactor = 30*time.Second, 0
		return b
	}}
	if pause, _ := policy.Decide(&harebus.Message{Attempt: 1}, errNo).Retries(); pause != 30*time.Second {
		t.Errorf("the pause is %v", pause)
	}
	one := backoff.NewExponentialBackOff()
	shared := func() backoff.BackOff { return one }
	for _, cfg := range []harebus.Config{
		{Retry: harebus.RetryConfig{BackOff: shared}},
		{Connect: harebus.ConnectConfig{BackOff: shared}},
		{Retry: harebus.RetryConfig{Rules: []harebus.RetryRule{{Match: harebus.MatchIs(errNo), BackOff: shared}}}},
		{Retry: harebus.RetryConfig{BackOff: func() backoff.BackOff { return nil }}},
	} {
		if _, err := harebus.New(cfg); err == nil || !strings.Contains(err.Error(), "BackOff returns") {
			t.Errorf("New says %v", err)
		}
	}
	constant := backoff.NewConstantBackOff(time.Second)
	if _, err := harebus.New(harebus.Config{Retry: harebus.RetryConfig{BackOff: func() backoff.BackOff { return constant }}}); err != nil {
		t.Error(err)
	}
}

// TestReceive: what Config.Handling.Receive sets is what handlers see; retries and the error
// queue get the message as it came.
func TestReceive(t *testing.T) {
	for name, c := range map[string]struct {
		receive func(m *harebus.Message) error
		want    harebus.MessageStats
		details string
	}{
		"sets": {func(m *harebus.Message) error {
			m.Type, m.ID, m.CorrelationID, m.ReplyTo, m.ContentType, m.Body = "Order", "id", "c", "out", "application/json", []byte(`{"ID":7}`)
			return nil
		}, harebus.MessageStats{Handled: 1, Retried: 1}, ""},
		"does nothing":      {func(*harebus.Message) error { return nil }, harebus.MessageStats{Retried: 1, Parked: 1}, "no-type"},
		"fails":             {func(*harebus.Message) error { return errNo }, harebus.MessageStats{Retried: 1, Parked: 1}, "no"},
		"understands not":   {func(*harebus.Message) error { return harebus.NoRetry(errNo) }, harebus.MessageStats{Parked: 1}, "no"},
		"sets too long":     {func(m *harebus.Message) error { m.ID = strings.Repeat("x", 256); return nil }, harebus.MessageStats{Parked: 1}, "bad-header"},
		"sets what is none": {func(m *harebus.Message) error { m.Type = "\xff"; return nil }, harebus.MessageStats{Parked: 1}, "bad-header"},
		"sets too much":     {func(m *harebus.Message) error { m.Body = make([]byte, 2000); return nil }, harebus.MessageStats{Parked: 1}, "too-large"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				cfg := r.config("orders")
				cfg.Payload.MaxBody, cfg.Retry = 1000, harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
				cfg.Handling.Receive = func(_ context.Context, m *harebus.Message) error { return c.receive(m) }
				s := r.setup(cfg)
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
					m := harebus.Incoming(ctx)
					if o.ID != 7 || m.ID != "id" {
						t.Errorf("handler sees %+v, %+v", o, m)
					}
					if m.Attempt == 1 {
						return errNo
					}
					return bus.Reply(ctx, answer(o))
				})
				r.start(s)
				r.publish(r.channel(), "orders", amqp.Publishing{Headers: amqp.Table{"task": "order"}, Body: []byte("<order/>")})
				r.quiet("error", "out")
				if got := s.Stats(); got.Handled != c.want.Handled || got.Retried != c.want.Retried || got.Parked != c.want.Parked {
					t.Errorf("counts %+v", got)
				}
				if c.want.Parked == 0 {
					if m := r.await("out", 1)[0]; m.CorrelationId != "c" || string(m.Body) != `{"ID":7}` {
						t.Errorf("the reply is %+v", m)
					}
					return
				}
				m := r.await("error", 1)[0]
				contains(t, fmt.Sprint(m.Headers[prefixed("ErrorDetails")]), c.details)
				if string(m.Body) != "<order/>" || m.Headers["task"] != "order" {
					t.Errorf("parked as %+v", m)
				}
			})
		})
	}
}
