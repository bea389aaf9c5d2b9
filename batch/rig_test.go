package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row is the message of the tests.
type row struct{ ID int }

func (row) MessageType() string { return "Row" }

// call is one call of a batch handler: its messages, and when it began.
type call struct {
	ids []int
	at  time.Duration
}

// rig is a service that handles batches of rows, on a broker with a clock of its own.
type rig struct {
	t      *testing.T
	ctx    context.Context
	broker *brokertest.Broker
	cfg    harebus.Config
	setup  *harebus.Setup
	began  time.Time

	mu    sync.Mutex // guards calls
	calls []call
}

// bubble runs a test in virtual time. Its service has room for 20 messages, and retries twice, a
// second apart.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errors.New("the test took an hour"))
		t.Cleanup(cancel)
		test(t, &rig{t: t, ctx: ctx, broker: broker, cfg: harebus.Config{
			Dial: broker.Dial, Queue: "rows", Consume: harebus.ConsumeConfig{Concurrency: 20},
			Retry: harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
		}})
	})
}

func (r *rig) try(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// make makes the service and registers the batch handler.
func (r *rig) make(cfg batch.Config, fn batch.HandlerFunc[row], opts ...harebus.HandlerOption) {
	r.t.Helper()
	s, err := harebus.New(r.cfg)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	r.setup = s
	r.try(batch.Handle(s, func(ctx context.Context, rows []batch.Item[row]) []error {
		if rows[0].Message.ID < 0 {
			return make([]error, len(rows))
		}
		c := call{at: time.Since(r.began)}
		for _, one := range rows {
			c.ids = append(c.ids, one.Message.ID)
		}
		slices.Sort(c.ids)
		r.mu.Lock()
		r.calls = append(r.calls, c)
		r.mu.Unlock()
		return fn(ctx, rows)
	}, cfg, opts...))
}

// start starts the service, and ends the trial of its connection with a message.
func (r *rig) start(cfg batch.Config, fn batch.HandlerFunc[row], opts ...harebus.HandlerOption) {
	r.t.Helper()
	r.make(cfg, fn, opts...)
	r.try(r.setup.Start(r.ctx))
	r.send(-1)
	r.quiet()
	time.Sleep(time.Second) // until the consumers take as many messages as they may
	r.began = time.Now()
}

func (r *rig) send(ids ...int) {
	r.t.Helper()
	r.try(r.setup.Bus().Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for _, id := range ids {
			if err := tx.Send(ctx, "rows", row{id}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (r *rig) quiet() {
	r.t.Helper()
	r.try(r.broker.WaitQuiet(r.ctx, "error"))
}

// sizes are those of the calls so far.
func (r *rig) sizes() (sizes []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		sizes = append(sizes, len(c.ids))
	}
	return sizes
}

// wants fails the test unless the calls so far had these sizes.
func (r *rig) wants(sizes ...int) {
	r.t.Helper()
	if got := r.sizes(); !slices.Equal(got, sizes) {
		r.t.Errorf("batches of %v, want %v", got, sizes)
	}
}

// parked are the texts of the errors in the error queue.
func (r *rig) parked() (texts []string) {
	for _, m := range r.broker.Messages("error") {
		text, _ := m.Headers["PikaBus.ErrorDetails"].(string)
		texts = append(texts, text)
	}
	return texts
}

// done is the result of a batch that has succeeded.
func done(_ context.Context, rows []batch.Item[row]) []error { return make([]error, len(rows)) }

// upTo are the numbers from 1.
func upTo(n int) (ids []int) {
	for i := range n {
		ids = append(ids, i+1)
	}
	return ids
}
