package schedule_test

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

var cluster = flag.Duration("cluster", 0, "TestCluster breaks the nodes of a cluster for so long")

// TestCluster: nodes of a cluster of three are killed and frozen, first the one that leads the queue of the tokens, and
// instances are killed: no due time is missing, none is early, and what comes twice has the same id.
func TestCluster(t *testing.T) {
	if *cluster == 0 {
		t.Log("not asked for; run with -cluster 4m")
		return
	}
	c := rabbit.NeedCluster(t, rabbit.ClusterOptions{})
	nodes := c.Nodes()
	t.Logf("RabbitMQ %s", nodes[0].Version())
	h := newHavoc(t, nodes[0], topology.Quorum)
	h.plan.URLs = c.URLs()
	h.cluster = c
	h.run(*cluster)
}

// breakNode kills or freezes the node that leads a queue, and waits until it is a member again.
func (h *havoc) breakNode() {
	h.brokers++
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	var freeze time.Duration
	if h.rand.IntN(3) == 0 {
		freeze = time.Duration(3+h.rand.IntN(10)) * time.Second
	}
	if err := h.cluster.Break(ctx, h.plan.Queue+[]string{"", ".schedules"}[h.brokers%2], freeze); err != nil {
		h.t.Fatal(err)
	}
}
