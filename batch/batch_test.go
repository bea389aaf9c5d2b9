package batch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/brokertest"
)

// TestSizes: a full batch is handled at once, and one that is not full when its first message has
// waited for so long.
func TestSizes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start(batch.Config{Size: 10, Wait: 3 * time.Second, Parallel: 2}, done)
		r.send(upTo(24)...)
		time.Sleep(2 * time.Second)
		r.wants(10, 10)
		r.quiet()
		r.wants(10, 10, 4)
		if at := r.calls[1].at; at > 100*time.Millisecond {
			t.Errorf("the second full batch was handled after %v", at)
		}
		if at := r.calls[2].at - r.calls[0].at; at < 2900*time.Millisecond || at > 3100*time.Millisecond {
			t.Errorf("the last one was handled after %v, want 3s", at)
		}
		if stats := r.setup.Stats(); stats.Handled != 25 || stats.Failed != 0 || stats.InFlight != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// TestDefaults: without a configuration a batch has as many messages as the endpoint handles at
// once, and waits 50 ms.
func TestDefaults(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume = harebus.ConsumeConfig{Concurrency: 8, Consumers: 2}
		r.start(batch.Config{}, done)
		r.send(upTo(17)...)
		r.quiet()
		r.wants(16, 1)
		if at := r.calls[1].at - r.calls[0].at; at < 50*time.Millisecond || at > 70*time.Millisecond {
			t.Errorf("the message left over was handled after %v, want 50ms", at)
		}
	})
}

// TestTrial: the first message of a connection comes alone, is handled alone after Wait, and the
// rest follows in full batches.
func TestTrial(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.make(batch.Config{Size: 10, Wait: time.Second}, done)
		r.try(r.setup.Init(r.ctx))
		r.send(upTo(21)...)
		r.try(r.setup.Start(r.ctx))
		r.quiet()
		r.wants(1, 10, 10)
	})
}

// TestResults: each message ends by its own result, and what has failed is handled again alone.
func TestResults(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		attempts := map[int][]int{}
		r.start(batch.Config{Size: 10}, func(_ context.Context, rows []batch.Item[row]) []error {
			results := make([]error, len(rows))
			for i, one := range rows {
				id := one.Message.ID
				attempts[id] = append(attempts[id], one.Incoming().Attempt)
				again := len(attempts[id]) > 1
				switch {
				case id == 2 && !again:
					results[i] = errors.New("not now")
				case id == 3:
					results[i] = harebus.NoRetry(errors.New("never"))
				case id == 4 && !again:
					results[i] = harebus.Postpone(time.Minute, errors.New("later"))
				case id == 5 && !again:
					results[i] = harebus.RetryAfter(time.Hour/2, errors.New("much later"))
				case id == 6:
					results[i] = errors.New("always")
				}
			}
			return results
		})
		r.send(upTo(10)...)
		time.Sleep(500 * time.Millisecond)
		if stats := r.setup.Stats(); stats.Handled != 1+5 || stats.Parked != 1 {
			t.Errorf("handled %d, parked %d; want the five good ones and one", stats.Handled, stats.Parked)
		}
		r.quiet()
		r.wants(10, 1, 1, 1, 1, 1) // 2 and 6, 6, 4, 5
		want := map[int][]int{1: {1}, 2: {1, 2}, 3: {1}, 4: {1, 1}, 5: {1, 2}, 6: {1, 2, 3}}
		for id, list := range want {
			if fmt.Sprint(attempts[id]) != fmt.Sprint(list) {
				t.Errorf("row %d: attempts %v, want %v", id, attempts[id], list)
			}
		}
		if texts := strings.Join(r.parked(), "|"); len(r.parked()) != 2 || !strings.Contains(texts, "never") || !strings.Contains(texts, "always") {
			t.Errorf("parked: %q", texts)
		}
	})
}

// TestAllFail: too few or too many results, a panic and the end of the goroutine fail all messages
// of the batch; each of them is handled again alone, and only the culprit is parked.
func TestAllFail(t *testing.T) {
	for name, c := range map[string]struct {
		misdeed func(n int) []error
		says    string
	}{
		"none":     {func(int) []error { return nil }, "returned 0 results for 1 messages"},
		"too few":  {func(n int) []error { return make([]error, n-1) }, "returned 0 results for 1 messages"},
		"too many": {func(n int) []error { return make([]error, n+1) }, "returned 2 results for 1 messages"},
		"panic":    {func(int) []error { panic("boom") }, "panic: boom"},
		"goexit":   {func(int) []error { goexit(); return nil }, harebus.ErrGoexit.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.start(batch.Config{Size: 10}, func(_ context.Context, rows []batch.Item[row]) []error {
					for _, one := range rows {
						if one.Message.ID == 7 {
							return c.misdeed(len(rows))
						}
					}
					return make([]error, len(rows))
				})
				r.send(upTo(10)...)
				r.quiet()
				if n := len(r.sizes()); n != 12 { // 10 together, each alone, 7 once more
					t.Errorf("%d calls: %v", n, r.sizes())
				}
				if stats := r.setup.Stats(); stats.Handled != 1+9 || stats.Parked != 1 || stats.Failed != 12 {
					t.Errorf("handled %d, parked %d, failed %d", stats.Handled, stats.Parked, stats.Failed)
				}
				if texts := r.parked(); len(texts) != 1 || !strings.Contains(texts[0], c.says) {
					t.Errorf("parked: %q", texts)
				}
			})
		})
	}
}

// TestUndecodable: a message that cannot be decoded, or is not valid, is parked alone and takes no
// place in a batch.
func TestUndecodable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start(batch.Config{Size: 10, Wait: time.Minute}, done)
		r.send(upTo(9)...)
		r.try(r.setup.Bus().Send(r.ctx, "rows", []byte("{"), harebus.WithType("Row"), harebus.WithContentType("application/json")))
		time.Sleep(time.Second)
		r.wants()
		r.send(10)
		time.Sleep(time.Second)
		r.wants(10)
		if texts := r.parked(); len(texts) != 1 || !strings.Contains(texts[0], "bad-payload") {
			t.Errorf("parked: %q", texts)
		}
	})
}

// TestSends: what is sent for a message is published if that message is done, with ids that are
// derived from its own.
func TestSends(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start(batch.Config{Size: 3}, func(ctx context.Context, rows []batch.Item[row]) []error {
			results := make([]error, len(rows))
			for i, one := range rows {
				results[i] = one.Bus.Send(ctx, "copies", one.Message)
				if i == 1 && len(rows) > 1 {
					results[i] = errors.New("not yet")
				}
			}
			return results
		})
		r.declare("copies")
		r.send(1, 2, 3)
		time.Sleep(500 * time.Millisecond)
		if q, _ := r.broker.Queue("copies"); q.Ready != 2 {
			t.Errorf("%d copies, want those of the two that are done", q.Ready)
		}
		r.try(r.broker.WaitQueue(r.ctx, "copies", func(q brokertest.Queue) bool { return q.Ready == 3 }))
		ids, causes := map[string]bool{}, map[string]bool{}
		for _, m := range r.broker.Messages("copies") {
			ids[m.MessageId] = true
			causes[fmt.Sprint(m.Headers["PikaBus.CausationId"])] = true
		}
		if len(ids) != 3 || len(causes) != 3 {
			t.Errorf("ids %v, causes %v", ids, causes)
		}
	})
}

// declare declares a queue that nobody consumes from.
func (r *rig) declare(name string) {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	ch, err := conn.Channel()
	r.try(err)
	_, err = ch.QueueDeclare(name, true, false, false, false, nil)
	r.try(err)
	r.try(conn.Close())
}

// TestAcknowledgedTogether: a batch is acknowledged with few frames.
func TestAcknowledgedTogether(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume = harebus.ConsumeConfig{Concurrency: 100}
		r.start(batch.Config{Size: 100}, done)
		acks := 0
		r.broker.Inject(brokertest.Fault{On: "basic.ack", Times: -1, Do: brokertest.Drop, Match: func(brokertest.Frame) bool {
			acks++
			return false
		}})
		r.send(upTo(100)...)
		r.quiet()
		r.wants(100)
		if acks > 10 {
			t.Errorf("%d frames for 100 messages", acks)
		}
	})
}

// TestConfig: what cannot be is refused at the call, with the remedy.
func TestConfig(t *testing.T) {
	t.Parallel()
	setup, err := harebus.New(harebus.Config{Queue: "rows", Consume: harebus.ConsumeConfig{Concurrency: 30, Consumers: 2}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  batch.Config
		says string
	}{
		{batch.Config{Size: -1}, "Size -1 is not between 1 and 10000"},
		{batch.Config{Size: 10001}, "Size 10001 is not between 1 and 10000"},
		{batch.Config{Wait: -1}, "Wait -1ns is not between 0 and 1m0s"},
		{batch.Config{Wait: time.Hour}, "Wait 1h0m0s is not between 0 and 1m0s"},
		{batch.Config{Parallel: -2}, "Parallel -2 is not between 1 and 1000"},
		{batch.Config{Size: 61}, "raise Consume.Concurrency to 31, or lower Size"},
		{batch.Config{Size: 60, Parallel: 2}, "raise Consume.Concurrency to 60, or lower Size"},
		{batch.Config{Parallel: 61}, "raise Consume.Concurrency to 31, or lower Size"},
	} {
		if err := batch.Handle(setup, done, c.cfg); err == nil || !strings.Contains(err.Error(), c.says) ||
			!strings.HasPrefix(err.Error(), "batch: handle batches of batch_test.row: ") {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
	single, err := setup.Endpoint(harebus.EndpointConfig{
		Queue: "single", Consume: harebus.ConsumeConfig{Concurrency: 30, Consumers: 2},
		QueueOptions: harebus.QueueOptions{Arguments: map[string]any{"x-single-active-consumer": true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := batch.Handle(single, done, batch.Config{Size: 60}); err == nil || !strings.Contains(err.Error(), "raise Consume.Concurrency to 60, or lower Size") {
		t.Errorf("with a single active consumer: %v", err)
	}
	if err := batch.Handle[row](setup, nil, batch.Config{}); err == nil || !strings.Contains(err.Error(), "the function is nil") {
		t.Error(err)
	}
	if err := batch.Handle(setup, done, batch.Config{Size: 60}); err != nil {
		t.Error(err)
	}
}
