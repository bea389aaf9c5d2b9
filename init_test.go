package harebus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
)

// TestInitOutlastsCuts: a connection that ends while Init declares is replaced, and
// Init begins anew. Only a refusal is an error at once.
func TestInitOutlastsCuts(t *testing.T) {
	t.Parallel()
	for _, after := range []int{1, 2, 5, 20} { // queues
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.broker.Inject(brokertest.Fault{On: "queue.declare", Nth: after, Do: brokertest.CutBefore})
				r.broker.Inject(brokertest.Fault{On: "exchange.declare", Nth: 1, Do: brokertest.CutBefore})
				s := r.setup(r.config("orders"))
				if err := s.Init(r.ctx); err != nil {
					t.Fatal(err)
				}
				if made := s.Stats().Connections; made != 3 {
					t.Errorf("%d connections were made", made)
				}
			})
		})
	}
}

// TestInitWaitsForANode: as Start does.
func TestInitWaitsForANode(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.QueueOptions.Type = "classic"
		down := r.nodeDown("orders")
		back := time.AfterFunc(20*time.Second, down.Remove)
		defer back.Stop()
		if err := r.setup(cfg).Init(r.ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// TestInitIsRefused: an object that exists with other properties is an error at once.
func TestInitIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "orders") // a classic queue
		start := time.Now()
		err := r.setup(r.config("orders")).Init(r.ctx)
		if err == nil || time.Since(start) > time.Second {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		contains(t, err.Error(), "harebus: init:", "PRECONDITION_FAILED")
	})
}
