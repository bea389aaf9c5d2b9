package rabbit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
)

func TestClusterSurvivesItsLeader(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cluster := rabbit.NeedCluster(t, rabbit.ClusterOptions{})
	nodes := cluster.Nodes()
	if len(nodes) != 3 || len(cluster.URLs()) != 3 {
		t.Fatalf("the cluster has %d nodes and %d URLs", len(nodes), len(cluster.URLs()))
	}
	_, channel := connect(t, nodes[0].URL())
	if _, err := channel.QueueDeclare("spread", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	publishConfirmed(ctx, t, channel, "spread", "kept by the others")

	listed, err := nodes[0].Ctl(ctx, "list_queues", "leader", "--no-table-headers")
	if err != nil {
		t.Fatal(err)
	}
	leader := cluster.Node(strings.TrimSpace(listed))
	if leader == nil {
		t.Fatalf("the queue's leader is %q", listed)
	}
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.AwaitMembers(ctx, 2); err != nil {
		t.Fatal(err)
	}
	var survivor *rabbit.Node
	for _, n := range nodes {
		if n != leader {
			survivor = n
		}
	}
	_, channel = connect(t, survivor.URL())
	deliveries, err := channel.ConsumeWithContext(ctx, "spread", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-deliveries:
		if string(d.Body) != "kept by the others" {
			t.Errorf("got %q", d.Body)
		}
	case <-ctx.Done():
		t.Fatal("the message went down with the leader")
	}
	if err := leader.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cluster.AwaitMembers(ctx, 3); err != nil {
		t.Fatal(err)
	}
}
