package order_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// step is the message of the tests: the nth of its key.
type step struct {
	Key string
	N   int
}

func (step) MessageType() string { return "Step" }

// rig is an ordered queue on a broker with a clock of its own, and what its handlers have done.
type rig struct {
	t      *testing.T
	ctx    context.Context
	broker *brokertest.Broker
	cfg    harebus.Config
	sender *harebus.Bus
	logs   *observer.ObservedLogs

	mu   sync.Mutex // guards done
	done []string   // "a1", in the order in which they were done
}

// bubble runs a test in virtual time. A message is tried three times, a second apart.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 24*time.Hour, errors.New("the test took a day"))
		t.Cleanup(cancel)
		core, logs := observer.New(zap.InfoLevel)
		r := &rig{t: t, ctx: ctx, broker: broker, logs: logs, cfg: harebus.Config{
			Dial: broker.Dial, Queue: "steps", Logger: zap.New(core),
			Consume: harebus.ConsumeConfig{Concurrency: 5, Order: &order.Config{}},
			Retry:   harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
		}}
		sender, err := harebus.New(harebus.Config{Dial: broker.Dial})
		r.try(err)
		t.Cleanup(func() { r.try(sender.Close()) })
		r.sender = sender.Bus()
		test(t, r)
	})
}

func (r *rig) try(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// serve starts an instance. What its handler returns without an error is done.
func (r *rig) serve(fn func(ctx context.Context, s step) error) *harebus.Setup {
	r.t.Helper()
	s := r.instance(fn)
	r.try(s.Start(r.ctx))
	return s
}

// instance makes an instance.
func (r *rig) instance(fn func(ctx context.Context, s step) error) *harebus.Setup {
	r.t.Helper()
	s, err := harebus.New(r.cfg)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, m step) error {
		if err := fn(ctx, m); err != nil {
			return err
		}
		r.note(m)
		return nil
	})
	return s
}

func (r *rig) note(m step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, fmt.Sprintf("%s%d", m.Key, m.N))
}

// send sends messages: "a1 b1 a2".
func (r *rig) send(what string) {
	r.t.Helper()
	for one := range strings.FieldsSeq(what) {
		var m step
		m.Key = one[:1]
		_, err := fmt.Sscan(one[1:], &m.N)
		r.try(err)
		r.try(r.sender.Send(r.ctx, "steps", m, harebus.WithKey(m.Key)))
	}
}

// of are the numbers of a key that are done, in their order.
func (r *rig) of(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var numbers []string
	for _, one := range r.done {
		if strings.HasPrefix(one, key) {
			numbers = append(numbers, one[1:])
		}
	}
	return strings.Join(numbers, " ")
}

// wants fails the test unless exactly these are done for a key.
func (r *rig) wants(key, numbers string) {
	r.t.Helper()
	if got := r.of(key); got != numbers {
		r.t.Errorf("of %s are done: %s; want %s", key, got, numbers)
	}
}

// rest waits until nothing moves for a moment.
func (r *rig) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// said says whether a line with this text was logged.
func (r *rig) said(text string) bool {
	return slices.ContainsFunc(r.logs.All(), func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, text) })
}

// numbers are the messages 1 to n of a key.
func numbers(key string, n int) string {
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "%s%d ", key, i+1)
	}
	return all.String()
}

// upTo is what is wanted of them.
func upTo(n int) string { return strings.ReplaceAll(strings.TrimSpace(numbers("", n)), "  ", " ") }
