package harebus_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
)

// TestStopWhileThePrefetchWidens: the requests of a consumer's channel come one
// after the other also when stopping begins between them. Two at once can get
// each other's answers, and then one waits for ever.
func TestStopWhileThePrefetchWidens(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.start(s)
		var asked, answered, overtaken atomic.Bool
		slow := r.broker.Inject(brokertest.Fault{
			On: "basic.consume-ok", From: brokertest.FromBroker, Do: brokertest.Delay, For: time.Second,
			Match: func(brokertest.Frame) bool { asked.Store(true); return true },
		})
		for _, request := range []string{"basic.cancel", "channel.close"} {
			r.broker.Inject(brokertest.Fault{On: request, Do: brokertest.Delay, Match: func(brokertest.Frame) bool {
				overtaken.Store(overtaken.Load() || (asked.Load() && !answered.Load()))
				return false
			}})
		}
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		if err := slow.WaitFired(r.ctx, 1); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { answered.Store(true) })
		if err := s.Stop(r.ctx); err != nil {
			t.Error(err)
		}
		if overtaken.Load() {
			t.Error("a request was made before the last was answered")
		}
		if q, _ := r.broker.Queue("orders"); q.Ready+q.Unacked != 0 {
			t.Errorf("left in the queue: %+v", q)
		}
	})
}
