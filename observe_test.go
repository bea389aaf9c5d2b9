package harebus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/harebus/harebus"
)

// recorder is an observer that writes down what it sees.
type recorder struct {
	mu     sync.Mutex // guards what follows
	open   map[int]string
	next   int
	events []string
}

type spanKey struct{}

func (r *recorder) ObserveStart(ctx context.Context, e harebus.Observation) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	if r.open == nil {
		r.open = map[int]string{}
	}
	r.open[r.next] = e.Operation.String()
	if e.Headers != nil {
		e.Headers["traceparent"] = fmt.Sprint("span-", e.Operation)
	}
	return context.WithValue(ctx, spanKey{}, r.next)
}

func (r *recorder) ObserveEnd(ctx context.Context, e harebus.Observation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, _ := ctx.Value(spanKey{}).(int)
	if r.open[id] != e.Operation.String() {
		r.events = append(r.events, fmt.Sprintf("end of %v without its start", e.Operation))
	}
	delete(r.open, id)
	about := e.Operation.String()
	switch {
	case e.Connection != "":
		about += " " + e.Connection
	case e.Operation == harebus.OpCommit:
		about += fmt.Sprint(" ", e.Messages)
	case e.Incoming != nil:
		about += " attempt " + fmt.Sprint(e.Incoming.Attempt)
	default:
		about += " " + e.Exchange + "/" + e.RoutingKey
	}
	if e.Err != nil {
		about += " because " + e.Err.Error()
	}
	if err != nil {
		about += " failed"
	}
	r.events = append(r.events, about)
}

// TestObserver: every operation is seen from start to end, with what it is about,
// and can put headers on what leaves.
func TestObserver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		rec := &recorder{}
		cfg := r.config("orders")
		cfg.Observers = []harebus.Observer{rec}
		cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if ctx.Value(spanKey{}) == nil {
				t.Error("the context of the handler is not the observer's")
			}
			if o.ID == 2 {
				return errNo
			}
			return bus.Send(ctx, "out", o)
		})
		r.start(s)
		bus := s.Bus()
		for _, id := range []int{1, 2} {
			if err := bus.Send(r.ctx, "orders", order{id}); err != nil {
				t.Fatal(err)
			}
			r.quiet("out", "error")
		}
		if err := bus.Send(r.ctx, "nowhere", order{3}); err == nil {
			t.Error("sent to nowhere")
		}
		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"connect consume", "connect publish", "connection consume", "connection publish", "consume consume", "send PikaBusDirect/orders", "send PikaBusDirect/out", "commit 1", "handle attempt 1",
			"send PikaBusDirect/orders", "handle attempt 1 failed", "retry attempt 1 because no", "handle attempt 2 failed", "park attempt 2 because no",
			"send PikaBusDirect/nowhere failed",
		}
		slices.Sort(want)
		got := slices.Sorted(slices.Values(rec.events))
		if !slices.Equal(got, want) {
			t.Errorf("events\n got %s\nwant %s", strings.Join(got, ", "), strings.Join(want, ", "))
		}
		if len(rec.open) != 0 {
			t.Errorf("never ended: %v", rec.open)
		}
		if m := r.await("out", 1)[0]; m.Headers["traceparent"] != "span-send" {
			t.Errorf("the header is %v", m.Headers["traceparent"])
		}
	})
}

func TestOperationStrings(t *testing.T) {
	t.Parallel()
	for op, want := range map[harebus.Operation]string{
		0: "", -1: "", 99: "", harebus.OpSend: "send", harebus.OpPublish: "publish", harebus.OpDefer: "defer", harebus.OpReply: "reply",
		harebus.OpCommit: "commit", harebus.OpHandle: "handle", harebus.OpRetry: "retry", harebus.OpPark: "park", harebus.OpConnect: "connect",
	} {
		if got := op.String(); got != want {
			t.Errorf("%d is %q, want %q", op, got, want)
		}
	}
}
