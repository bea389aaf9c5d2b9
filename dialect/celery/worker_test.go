package celery_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/errorqueue"
)

// TestWorker: a task waits for its eta, one that has expired is parked and not run, unless an operator wants it; and nobody is
// answered whose reply_to is no queue.
func TestWorker(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		eta, expires, pause time.Duration
		runs                bool
		parked              string
	}{
		"at once":        {runs: true},
		"eta":            {eta: time.Hour, runs: true},
		"in time":        {eta: time.Hour, expires: 2 * time.Hour, runs: true},
		"expired":        {expires: -time.Second, parked: "expired: its sender wanted it handled until 19"},
		"expires at eta": {eta: time.Hour, expires: 30 * time.Minute, parked: "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				broker := brokertest.New()
				defer broker.Close()
				s, err := harebus.New(harebus.Config{Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{peer(false)}}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				start, ran := time.Now(), time.Duration(-1)
				s.HandleMessage("PlaceOrder", func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
					ran = time.Since(start)
					if err := bus.Reply(ctx, "done"); !errors.Is(err, harebus.ErrRefused) || !strings.Contains(err.Error(), "rpc://") {
						t.Errorf("the reply: %v", err)
					}
					return nil
				})
				if err := s.Start(ctx); err != nil {
					t.Fatal(err)
				}
				w := peer(false).Sample()
				for header, after := range map[string]time.Duration{"eta": c.eta, "expires": c.expires} {
					if after != 0 {
						w.Headers[header] = start.Add(after).UTC().Format("2006-01-02T15:04:05.000000-07:00")
					}
				}
				if err := publish(ctx, broker, &w); err != nil {
					t.Fatal(err)
				}
				if err := broker.WaitQuiet(ctx, "error"); err != nil {
					t.Fatal(err)
				}
				parked := broker.Messages("error")
				if c.runs && (ran < c.eta || ran > c.eta+time.Second || len(parked) > 0) || !c.runs && (ran >= 0 || len(parked) != 1) {
					t.Fatalf("it ran after %v, and %d are parked", ran, len(parked))
				}
				if c.runs {
					return
				}
				if text, _ := parked[0].Headers["PikaBus.ErrorDetails"].(string); !strings.Contains(text, c.parked) {
					t.Errorf("it is parked for %q", text)
				}
				err = errorqueue.With(ctx, errorqueue.Config{Connect: harebus.ConnectConfig{URLs: []string{broker.URL()}}, Dial: broker.Dial, NoAudit: true}, func(q *errorqueue.Queue) error {
					x, err := q.Look(ctx, errorqueue.Filter{})
					if err != nil {
						return err
					}
					_, err = q.Retry(ctx, x.Messages, errorqueue.Options{})
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := broker.WaitQuiet(ctx); err != nil || ran < 0 {
					t.Errorf("what an operator has moved back has not run: %v", err)
				}
			})
		})
	}
}
