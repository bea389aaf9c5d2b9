package schedule_test

import (
	"context"
	"flag"
	"strings"
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

// leader is the node that leads the queue of the tokens.
func (h *havoc) leader() *rabbit.Node {
	h.t.Helper()
	for _, node := range h.cluster.Nodes() {
		output, err := node.Ctl(h.t.Context(), "list_queues", "name", "leader", "--no-table-headers")
		if err != nil {
			continue // it is the one that was broken last
		}
		for line := range strings.Lines(output) {
			if name, leader, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == h.plan.Queue+".schedules" {
				return h.cluster.Node(leader)
			}
		}
	}
	h.t.Fatal("no node says which one leads the queue of the tokens")
	return nil
}

// breakNode kills or freezes a node of the cluster, and waits until it is a member again.
func (h *havoc) breakNode() {
	node := h.leader()
	if h.brokers > 0 && h.rand.IntN(2) == 0 {
		node = h.cluster.Nodes()[h.rand.IntN(3)]
	}
	h.brokers++
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	try := func(err error) {
		if err != nil {
			h.t.Fatal(err)
		}
	}
	if h.rand.IntN(3) == 0 {
		try(node.Pause())
		h.pause(time.Duration(3+h.rand.IntN(10)) * time.Second)
		try(node.Resume())
	} else {
		try(node.Kill())
		h.pause(3 * time.Second)
		try(node.Start(ctx))
	}
	try(h.cluster.AwaitMembers(ctx, len(h.cluster.Nodes())))
}
