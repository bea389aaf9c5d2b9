package proof_test

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// takeover is how long the others of a cluster may take at most to confirm again after a leader's end. It is generous:
// they take a second, on a machine that has time.
const takeover = 15 * time.Second

// freeze is for measuring by hand, because it takes minutes.
var freeze = flag.Duration("freeze", 0, "TestCluster also freezes the leader for this long, with the service connected to it")

// A trio is a cluster of three nodes that a service works on, with a run of its own for each fault.
type trio struct {
	*rabbit.Cluster

	nodes   []*rabbit.Node
	rate    int                   // of each run; zero for the rate of a plan
	timeout time.Duration         // of each send; zero for that of a plan
	change  func(*harebus.Config) // if any, changes the configuration of each service
}

// TestCluster breaks the nodes of one cluster in turn. It takes 24 s to boot, so the faults share it.
func TestCluster(t *testing.T) {
	rabbit.SkipWithoutBroker(t, rabbit.Installed())
	cluster := rabbit.NeedCluster(t, rabbit.ClusterOptions{Options: rabbit.Options{Advanced: retriesSoon}})
	c := &trio{Cluster: cluster, nodes: cluster.Nodes()}
	type fault struct {
		name   string
		happen func(*testing.T)
	}
	faults := []fault{
		{"leader killed, service on it", func(t *testing.T) { c.leaderKilled(t, c.nodes[0], c.nodes[0]) }},
		{"leader killed, service on a follower", func(t *testing.T) { c.leaderKilled(t, c.nodes[1], c.nodes[2]) }},
		{"leader frozen", func(t *testing.T) { c.leaderFrozen(t, c.nodes[1], 20*time.Second) }},
		{"rolling restart", c.rollingRestart},
		{"two of three down", c.twoDown},
	}
	if *freeze > 0 {
		faults = append(faults, fault{"leader frozen, service on it", func(t *testing.T) { c.leaderFrozen(t, c.nodes[0], *freeze) }})
	}
	for _, fault := range faults {
		if !t.Run(fault.name, fault.happen) {
			t.Fatal("the cluster is no longer whole: what follows would show nothing")
		}
	}
}

// begin starts a run with a queue that is led by one node, and a service that is connected to another, or the same,
// and may go where it wants from now on. On a busy machine the lead may go to another node at once: then it tries again
// with another queue.
func (c *trio) begin(t *testing.T, leader, home *rabbit.Node) *run {
	t.Helper()
	for range 3 {
		way := &gate{}
		way.let(home)
		r := begin(t, plan{nodes: c.nodes, rate: c.rate, timeout: c.timeout, change: func(cfg *harebus.Config) {
			if c.change != nil {
				c.change(cfg)
			}
			c.declareOn(t, leader, *cfg)
			way.guard(cfg)
		}})
		way.let(nil)
		found := c.leader(r)
		if found == leader {
			return r
		}
		t.Logf("the queue is led by %v, not by %s", found, leader.Name())
		r.silence()
		r.try(r.service.Setup.Stop(r.Context()))
	}
	t.Fatalf("%s does not stay the leader", leader.Name())
	return nil
}

// declareOn declares a service's queues through one node, which then leads them.
func (c *trio) declareOn(t *testing.T, node *rabbit.Node, cfg harebus.Config) {
	t.Helper()
	cfg.Connect.URLs = []string{node.URL()}
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := setup.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// leader finds the node that leads the run's queue.
func (c *trio) leader(r *run) *rabbit.Node {
	r.Helper()
	var output string
	var err error
	for _, node := range c.nodes {
		if output, err = node.Ctl(r.within(patience), "list_queues", "name", "leader", "--no-table-headers"); err == nil {
			break
		}
	}
	r.try(err)
	for line := range strings.Lines(output) {
		if name, leader, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == r.name {
			return c.Node(leader)
		}
	}
	return nil
}

// whole returns when all nodes are members again.
func (c *trio) whole(r *run) {
	r.Helper()
	r.try(c.AwaitMembers(r.within(2*patience), len(c.nodes)))
}

// leaderKilled has the others take over, before the dead node is back.
func (c *trio) leaderKilled(t *testing.T, leader, home *rabbit.Node) {
	r := c.begin(t, leader, home)
	var gap time.Duration
	r.fault("leader SIGKILL", func() {
		r.try(leader.Kill())
		r.confirmed(2 * r.plan.rate)
		gap = r.service.Book.Gap()
		r.try(leader.Start(r.within(2 * patience)))
		c.whole(r)
	})
	verdict := r.end()
	t.Logf("%s: takeover after %v, %d duplicates", t.Name(), gap.Round(time.Millisecond), verdict.Duplicates)
	r.allConfirmed(verdict)
	if gap > takeover {
		t.Errorf("nothing was confirmed for %v", gap)
	}
}

// leaderFrozen has the leader say nothing for a while. When the others take over is the broker's business: after 7 s on a
// machine that has time, so that a send has more time than elsewhere. It takes longer for a service that was connected to
// the frozen node: a cluster does not let new connections do much until it has given up the silent node, which takes it
// a minute. What takes deferred messages from one delay queue to the next waits for a frozen leader as a channel does,
// which takes up to 65 s.
func (c *trio) leaderFrozen(t *testing.T, home *rabbit.Node, ice time.Duration) {
	patient := *c
	patient.timeout = 2*time.Minute + ice
	r := patient.begin(t, c.nodes[0], home)
	r.plan.quiet = 2 * time.Minute
	r.fault("leader SIGSTOP", func() {
		thaw := time.NewTimer(ice)
		r.try(c.nodes[0].Pause())
		<-thaw.C
		r.try(c.nodes[0].Resume())
		c.whole(r)
	})
	r.allConfirmed(r.end())
}

// twoDown leaves no majority: nothing can be confirmed until there is a majority again.
func (c *trio) twoDown(t *testing.T) {
	const down = 15 * time.Second
	r := c.begin(t, c.nodes[0], c.nodes[2])
	r.fault("two of three SIGKILL", func() {
		r.try(c.nodes[0].Kill())
		r.try(c.nodes[1].Kill())
		time.Sleep(down)
		r.try(c.nodes[1].Start(r.within(2 * patience))) // the last to go has to be the first to come
		r.try(c.nodes[0].Start(r.within(2 * patience)))
		c.whole(r)
	})
	r.end() // a queue without a leader nacks: that some sends fail, honestly, is right
}

// rollingRestart is what an upgrade does, one node after the other.
func (c *trio) rollingRestart(t *testing.T) {
	r := c.begin(t, c.nodes[0], c.nodes[0])
	r.fault("rolling restart", func() {
		for _, node := range c.nodes {
			r.crashing("stop", func() error { return node.Stop(r.within(patience)) })
			r.crashing("start", func() error { return node.Start(r.within(2 * patience)) })
			c.whole(r)
		}
	})
	r.allConfirmed(r.end())
}
