package rabbit

import (
	"errors"
	"os"
	"testing"
)

// Need is [Start] for a test: the node is closed when the test ends. A test that finds no broker is skipped and says
// how to get one, unless HAREBUS_REQUIRE_BROKER is 1 or CI is true: then it fails. Everything else that goes wrong fails
// the test.
func Need(t testing.TB, options Options) *Node {
	t.Helper()
	node, err := Start(t.Context(), options)
	SkipWithoutBroker(t, err)
	t.Cleanup(func() {
		if t.Failed() && node.Kind() == KindNode {
			t.Logf("the end of the log of %s:\n%s", node.Name(), tail(node.private.logPath()))
		}
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("RabbitMQ %s (%s)", node.Version(), node.Kind())
	return node
}

// NeedCluster is [StartCluster] for a test, as [Need] is Start.
func NeedCluster(t testing.TB, options ClusterOptions) *Cluster {
	t.Helper()
	cluster, err := StartCluster(t.Context(), options)
	SkipWithoutBroker(t, err)
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d nodes of RabbitMQ %s", len(cluster.nodes), cluster.nodes[0].Version())
	return cluster
}

// NeedPort is a TCP port of 127.0.0.1 that is the test's own until it ends, also while nobody listens on it.
func NeedPort(t testing.TB) int {
	t.Helper()
	p, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.release(); err != nil {
			t.Error(err)
		}
	})
	return p.number
}

// SkipWithoutBroker does to a test what [Need] does when Start returned err: nothing when it is nil, else it skips or
// fails the test.
func SkipWithoutBroker(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable) && !brokerRequired():
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

func brokerRequired() bool {
	return os.Getenv("HAREBUS_REQUIRE_BROKER") == "1" || os.Getenv("CI") == "true"
}
