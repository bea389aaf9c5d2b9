package stream_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/stream"
)

var cluster = flag.Duration("cluster", 0, "TestGroupInCluster breaks the nodes of a cluster for so long")

// TestGroupInCluster: the nodes of a cluster of three that lead the stream and the token queue are killed and frozen, and readers
// are killed, stopped and frozen. Every event is handled, and none for the first time before the one in front of it.
func TestGroupInCluster(t *testing.T) {
	if *cluster == 0 {
		t.Log("not asked for; run with -cluster 1m")
		return
	}
	c := rabbit.NeedCluster(t, rabbit.ClusterOptions{})
	t.Logf("RabbitMQ %s", c.Nodes()[0].Version())
	g := newGroup(t, c.URLs())
	g.run(*cluster, func(ctx context.Context) string {
		if rand.IntN(3) > 0 {
			return g.disturb(ctx)
		}
		return g.breakNode(c)
	})
}

// breakNode kills or freezes the node that leads the stream or the token queue, and waits until it is a member again.
func (g *group) breakNode(c *rabbit.Cluster) string {
	ctx, cancel := context.WithTimeout(g.Context(), 2*time.Minute)
	defer cancel()
	what, freeze := "killed", time.Duration(0)
	if rand.IntN(3) == 0 {
		what, freeze = "frozen", 3*time.Second+rand.N(6*time.Second)
	}
	of, queue := "stream", g.name
	if rand.IntN(2) == 0 {
		of, queue = "group", stream.TokenQueue(g.name, "g")
	}
	g.try(c.Break(ctx, queue, freeze))
	return "leader of the " + of + " " + what
}
