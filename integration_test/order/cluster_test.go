package order_test

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/order"
)

var cluster = flag.Duration("cluster", 0, "TestCluster breaks the nodes of a cluster for so long, for each way to give up")

// TestCluster: the nodes of a cluster of three that lead a queue, a partition or a parking queue are killed and frozen in turn, and
// instances are killed and stopped, while messages fail: none is missing, and those of each key are handled in their order.
func TestCluster(t *testing.T) {
	if *cluster == 0 {
		t.Log("not asked for; run with -cluster 1m")
		return
	}
	for _, partitions := range []int{0, 3} {
		for _, give := range []order.GiveUp{order.HoldKey, order.SkipMessage} {
			t.Run(fmt.Sprintf("%d partitions, give up %d", partitions, give), func(t *testing.T) {
				c := rabbit.NeedCluster(t, rabbit.ClusterOptions{})
				h := newHavoc(t, c.Nodes()[0], give, partitions)
				h.cluster, h.plan.URLs = c, c.URLs()
				h.run(*cluster)
			})
		}
	}
}

// breakNode kills or freezes the node that leads a queue, and waits until it is a member again.
func (h *havoc) breakNode() {
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	all := h.queues()
	queue := all[h.random.IntN(len(all))]
	if h.random.IntN(2) == 0 {
		queue = order.ParkingQueue(queue)
	}
	what, freeze := "leader killed", time.Duration(0)
	if h.random.IntN(3) == 0 {
		what, freeze = "leader frozen", time.Duration(3+h.random.IntN(6))*time.Second
	}
	h.faults[what]++
	h.broken.Add(1)
	if err := h.cluster.Break(ctx, queue, freeze); err != nil {
		h.t.Fatal(err)
	}
	h.broken.Add(1)
}
