package proof_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/ledger"
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
	*trio
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
	n := &network{links, &trio{Cluster: cluster, nodes: cluster.Nodes(), rate: 100, change: func(c *harebus.Config) {
		c.Connect.Heartbeat, c.Connect.Timeout = impatience, impatience
	}}}
	t.Run("service's node cut off from all", n.isolated)
	t.Run("majority and minority", n.minority)
	t.Run("one link of three", n.oneLink)
	t.Run("service cut off from its node", n.blackHole)
	t.Run("packets lost", n.lossy)
}

// begin starts a run, after which all links are mended, however it ends.
func (n *network) begin(t *testing.T, leader, home int) *run {
	t.Helper()
	r := n.trio.begin(t, n.nodes[leader], n.nodes[home])
	t.Cleanup(func() {
		if err := n.Heal(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// outlast breaks something, and waits until the service is at work again although it is not mended, and until the nodes
// have had time to notice; then it is mended. No send may have failed, as each has a minute.
func (n *network) outlast(t *testing.T, leader, home int, name string, broken func() error) *ledger.Verdict {
	t.Helper()
	r := n.begin(t, leader, home)
	r.fault(name, func() {
		r.try(broken())
		noticed := time.NewTimer(parted)
		r.Logf("at work again after %v", r.confirmed(2*r.plan.rate))
		<-noticed.C
		n.heal(r)
	})
	verdict := r.end()
	r.allConfirmed(verdict)
	return verdict
}

// heal mends all links and waits until every node sees all others again.
func (n *network) heal(r *run) {
	r.Helper()
	r.try(n.Heal())
	r.try(n.AwaitUnion(r.within(2 * patience)))
}

// Fault 22: the node that the service is connected to, and that leads its queue, is cut off from everything. The
// service notices by its heartbeats and goes to another node.
func (n *network) isolated(t *testing.T) {
	n.outlast(t, 0, 0, "isolated node", func() error { return n.Isolate(0) })
}

// The node that the service is connected to is cut off from the other two, but not from the service. It is the
// minority and takes itself out; the service goes to the majority.
func (n *network) minority(t *testing.T) {
	n.outlast(t, 0, 0, "one against two", func() error { return n.Part(0) })
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
	r.allConfirmed(r.end())
}

// What the service and its node send each other vanishes. The service goes to another node, while this one lives.
func (n *network) blackHole(t *testing.T) {
	verdict := n.outlast(t, 1, 0, "black hole", func() error { return n.CutClient(0) })
	if gap := time.Duration(verdict.LongestGapMS) * time.Millisecond; gap > 3*impatience+2*time.Second {
		t.Errorf("nothing was confirmed for %v", gap)
	}
}

// Every tenth packet is lost.
func (n *network) lossy(t *testing.T) {
	n.outlast(t, 1, 0, "lost packets", func() error { return n.Lose(10) })
}
