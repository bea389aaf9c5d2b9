package proof_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

const (
	// parted is how long a fault of the network lasts at least: longer than the nodes take to notice.
	parted = 12 * time.Second
	// impatience is how long a service on a broken network waits to connect.
	impatience = 2 * time.Second
)

// noticeSoon has nodes notice within ten seconds that another is out of reach, instead of 75.
var noticeSoon = strings.Replace(retriesSoon, "[{rabbit,", "[{kernel, [{net_ticktime, 8}]}, {rabbit,", 1)

// A network is a cluster, and the links of its nodes.
type network struct {
	*rabbit.Network
	cluster *rabbit.Cluster
	nodes   []*rabbit.Node
}

// TestNetwork breaks the links of a cluster whose nodes have a network namespace each.
func TestNetwork(t *testing.T) {
	if os.Getenv("HAREBUS_NAMESPACES") != "1" {
		t.Skip("needs network namespaces: as root, with iproute2 and iptables installed, set HAREBUS_NAMESPACES=1")
	}
	links, err := rabbit.NewNetwork(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := links.Close(); err != nil {
			t.Error(err)
		}
	})
	cluster := rabbit.NeedCluster(t, rabbit.ClusterOptions{Options: rabbit.Options{Advanced: noticeSoon}, Network: links})
	n := &network{Network: links, cluster: cluster, nodes: cluster.Nodes()}
	t.Run("service's node cut off from all", n.isolated)
	t.Run("majority and minority", n.minority)
	t.Run("one link of three", n.oneLink)
	t.Run("service cut off from its node", n.blackHole)
	t.Run("packets lost", n.lossy)
}

// begin starts a run of which one node leads the queue, and whose service is connected to another, or the same.
func (n *network) begin(t *testing.T, leader, home int) *run {
	t.Helper()
	way := &gate{}
	way.let(n.nodes[leader])
	r := begin(t, plan{nodes: n.nodes, rate: 100, change: func(c *harebus.Config) {
		c.Connect.Heartbeat, c.Connect.Timeout = impatience, impatience
		way.guard(c)
		setup, err := harebus.New(*c) // declares where the leader is to be
		if err == nil {
			err = setup.Init(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		way.let(n.nodes[home])
	}})
	t.Cleanup(func() {
		if err := n.Heal(); err != nil {
			t.Error(err)
		}
	})
	way.let(nil)
	if led := n.leader(r); led != n.nodes[leader].Name() {
		t.Errorf("the queue is led by %q", led)
	}
	return r
}

// leader is the name of the node that leads the run's queue.
func (n *network) leader(r *run) string {
	r.Helper()
	output, err := n.nodes[0].Ctl(r.within(patience), "list_queues", "name", "leader", "--formatter", "json")
	r.try(err)
	var queues []struct{ Name, Leader string }
	r.try(json.Unmarshal([]byte(output), &queues))
	for _, q := range queues {
		if q.Name == r.name {
			return q.Leader
		}
	}
	return ""
}

// outlast waits until the service is at work again although the fault is not healed, and until the nodes have had time
// to notice it; then it heals.
func (n *network) outlast(r *run) {
	r.Helper()
	noticed := time.NewTimer(parted)
	r.Logf("at work again after %v", r.confirmed(2*r.plan.rate))
	<-noticed.C
	n.heal(r)
}

// heal mends all links and waits until every node sees all others again.
func (n *network) heal(r *run) {
	r.Helper()
	r.try(n.Heal())
	r.try(n.cluster.AwaitUnion(r.within(2 * patience)))
}

// finish ends a run. No send may have failed, as each has a minute.
func (n *network) finish(r *run) {
	r.Helper()
	if v := r.end(); v.Failed+v.Unknown > 0 {
		r.Errorf("%d sends failed, %d ended without an outcome", v.Failed, v.Unknown)
	}
}

// Fault 22: the node that the service is connected to, and that leads its queue, is cut off from everything. The
// service notices by its heartbeats and goes to another node.
func (n *network) isolated(t *testing.T) {
	r := n.begin(t, 0, 0)
	r.fault("isolated node", func() {
		r.try(n.Isolate(0))
		n.outlast(r)
	})
	n.finish(r)
}

// The node that the service is connected to is cut off from the other two, but not from the service. It is the
// minority and takes itself out; the service goes to the majority.
func (n *network) minority(t *testing.T) {
	r := n.begin(t, 0, 0)
	r.fault("one against two", func() {
		r.try(n.Part(0))
		n.outlast(r)
	})
	n.finish(r)
}

// Fault 23: two nodes do not see each other, and the third sees both. The service is connected to one of the two, and
// the other leads its queue. The brokers themselves are of no use as long as that lasts (3.10 restarts them again and
// again): all that counts is that nothing is lost and that everything works afterwards.
func (n *network) oneLink(t *testing.T) {
	r := n.begin(t, 1, 0)
	r.fault("one link", func() {
		r.try(n.Cut(0, 1))
		time.Sleep(parted)
		n.heal(r)
	})
	n.finish(r)
}

// What the service and its node send each other vanishes. The service goes to another node, while this one lives.
func (n *network) blackHole(t *testing.T) {
	r := n.begin(t, 1, 0)
	r.fault("black hole", func() {
		r.try(n.CutClient(0))
		n.outlast(r)
	})
	if gap := r.service.Book.Gap(); gap > 3*impatience+2*time.Second {
		r.Errorf("nothing was confirmed for %v", gap)
	}
	n.finish(r)
}

// Every tenth packet is lost.
func (n *network) lossy(t *testing.T) {
	r := n.begin(t, 1, 0)
	r.fault("lost packets", func() {
		r.try(n.Lose(10))
		n.outlast(r)
	})
	n.finish(r)
}
