package stream_test

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
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// happened is the event of the tests.
type happened struct{ N int }

func (happened) MessageType() string { return "Happened" }

// rig is a stream on a broker with a clock of its own, and what its readers have done.
type rig struct {
	t      *testing.T
	ctx    context.Context
	broker *brokertest.Broker
	cfg    harebus.Config
	sender *harebus.Setup
	logs   *observer.ObservedLogs
	sent   int

	mu   sync.Mutex // guards done
	done []string   // "a1@0": reader, number, offset
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
			Dial: broker.Dial, Queue: "events", Logger: zap.New(core),
			Consume: harebus.ConsumeConfig{Stream: &stream.Config{}},
			Retry:   harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
		}}
		var err error
		r.sender, err = harebus.New(harebus.Config{
			Dial: broker.Dial, Declare: harebus.DeclareConfig{Topology: topology.EventLog("events", "PikaBusTopic", topology.KeepAge(time.Hour))},
		})
		r.try(err)
		t.Cleanup(func() { r.try(r.sender.Close()) })
		r.try(r.sender.Init(ctx))
		test(t, r)
	})
}

func (r *rig) try(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// publish publishes n events, numbered on.
func (r *rig) publish(n int) {
	r.t.Helper()
	for range n {
		r.publishTo("order.placed")
	}
}

func (r *rig) publishTo(topic string) {
	r.t.Helper()
	r.sent++
	r.try(r.sender.Bus().Publish(r.ctx, topic, happened{r.sent}))
}

// done says that nothing is wrong with an event.
func done(context.Context, happened) error { return nil }

// read makes and starts a reader. What its handler returns without an error is done.
func (r *rig) read(name string, cfg stream.Config, fn func(ctx context.Context, e happened) error) *harebus.Setup {
	r.t.Helper()
	s := r.reader(name, cfg, fn)
	r.try(s.Start(r.ctx))
	return s
}

func (r *rig) reader(name string, cfg stream.Config, fn func(ctx context.Context, e happened) error) *harebus.Setup {
	r.t.Helper()
	c := r.cfg
	c.Consume.Stream = &cfg
	c.Connect.Name = name
	s, err := harebus.New(c)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, e happened) error {
		if err := fn(ctx, e); err != nil {
			return err
		}
		offset, err := stream.Offset(harebus.Incoming(ctx).Headers)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.done = append(r.done, fmt.Sprintf("%s%d@%d", name, e.N, offset))
		return err
	})
	return s
}

// wants fails the test unless exactly these are done since the last call, in any order.
func (r *rig) wants(what string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := slices.Clone(r.done)
	want := strings.Fields(what)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.t.Errorf("done: %v; want %v", r.done, what)
	}
	r.done = nil
}

// wantsInOrder is wants for one order.
func (r *rig) wantsInOrder(what string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := strings.Join(r.done, " "); got != what {
		r.t.Errorf("done: %s; want %s", got, what)
	}
	r.done = nil
}

// rest waits.
func (r *rig) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// said says whether a line with this text was logged.
func (r *rig) said(text string) bool {
	return slices.ContainsFunc(r.logs.All(), func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, text) })
}

// fails starts a reader that cannot read.
func (r *rig) fails(cfg stream.Config, says ...string) {
	r.t.Helper()
	err := r.reader("x", cfg, done).Start(r.ctx)
	for _, text := range says {
		if err == nil || !strings.Contains(err.Error(), text) {
			r.t.Errorf("error %v does not say %q", err, text)
		}
	}
}
