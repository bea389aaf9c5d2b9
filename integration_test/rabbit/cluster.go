package rabbit

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Cluster is several private nodes that know each other.
type Cluster struct {
	nodes []*Node
	names *nameServer
}

// ClusterOptions says what cluster a test needs.
type ClusterOptions struct {
	// Options hold for each node; Kind must be empty or KindNode. A certificate authority is shared.
	Options
	// Size is the number of nodes. Defaults to 3.
	Size int
	// Network, if any, has a place for each node; Size is then that of the network.
	Network *Network
}

// StartCluster starts private nodes and returns when each has all the others as running members. A minority that is
// cut off pauses itself (cluster_partition_handling is pause_minority). The caller closes the cluster.
func StartCluster(ctx context.Context, options ClusterOptions) (_ *Cluster, err error) {
	if options.Kind == "" {
		options.Kind = KindNode
	}
	if options.Size == 0 {
		options.Size = 3
	}
	if options.Network != nil {
		options.Size = len(options.Network.places)
	}
	options.Options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, fmt.Errorf("rabbit: start cluster: %w", err)
	}
	if options.Kind != KindNode || options.Size < 1 {
		return nil, fmt.Errorf("rabbit: start cluster: %d nodes of kind %q: %w", options.Size, options.Kind, ErrNotPrivate)
	}
	i, err := findInstallation(options.Root)
	if err != nil {
		return nil, fmt.Errorf("rabbit: start cluster: %w", errors.Join(ErrUnavailable, err))
	}
	c := &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if options.Network == nil {
		if c.names, err = startNameServer(ctx, i); err != nil {
			return nil, err
		}
	}
	if err := c.prepare(ctx, i, options); err != nil {
		return nil, err
	}
	return c, c.start(ctx)
}

// prepare makes the nodes without starting them: each one's configuration names all of them.
func (c *Cluster) prepare(ctx context.Context, i installation, options ClusterOptions) error {
	shared := &membership{cookie: newCookie(), names: c.names}
	if options.TLS != NoTLS {
		var err error
		if shared.authority, err = NewAuthority(); err != nil {
			return err
		}
	}
	lines := []string{
		"cluster_partition_handling = pause_minority",
		"cluster_formation.peer_discovery_backend = classic_config",
	}
	for n := range options.Size {
		if options.Network != nil {
			i.place = options.Network.places[n]
		}
		p, err := newPrivate(ctx, i, options.Options, shared)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, &Node{kind: KindNode, url: p.url(), private: p})
		lines = append(lines, fmt.Sprintf("cluster_formation.classic_config.nodes.%d = %s", len(c.nodes), p.nodeName))
	}
	options.Config = append(lines, options.Config...)
	for _, n := range c.nodes {
		if err := n.private.writeConfig(options.Options); err != nil {
			return err
		}
	}
	return nil
}

// start launches all nodes at once, because each waits for the others to form a cluster with.
func (c *Cluster) start(ctx context.Context) error {
	launched := make([]*process, len(c.nodes))
	for i, n := range c.nodes {
		var err error
		if launched[i], err = n.private.launch(); err != nil {
			return err
		}
	}
	for i, n := range c.nodes {
		if err := n.private.ready(ctx, launched[i]); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.nodes[0].private.timeout)
	defer cancel()
	return c.AwaitMembers(ctx, len(c.nodes))
}

// runningMembers counts; the function's name changed after 3.10.
const runningMembers = `length(case erlang:function_exported(rabbit_nodes, list_running, 0) of
	true -> rabbit_nodes:list_running();
	false -> rabbit_nodes:all_running()
end).`

// AwaitMembers returns when some node sees that many nodes running, itself among them, or when ctx ends. Nodes that
// are down or paused are passed over.
func (c *Cluster) AwaitMembers(ctx context.Context, count int) error {
	err := await(ctx, nil, 200*time.Millisecond, func(ctx context.Context) error {
		var seen []error
		for _, n := range c.nodes {
			running, err := n.evalBriefly(ctx, runningMembers)
			if err != nil {
				seen = append(seen, err)
				continue
			}
			if running == strconv.Itoa(count) {
				return nil
			}
			seen = append(seen, fmt.Errorf("%s sees %s", n.Name(), running))
		}
		return errors.Join(seen...)
	})
	if err != nil {
		return fmt.Errorf("rabbit: await %d members: %w", count, err)
	}
	return nil
}

// AwaitUnion returns when every node sees all nodes running, or when ctx ends.
func (c *Cluster) AwaitUnion(ctx context.Context) error {
	for _, n := range c.nodes {
		alone := &Cluster{nodes: []*Node{n}}
		if err := alone.AwaitMembers(ctx, len(c.nodes)); err != nil {
			return err
		}
	}
	return nil
}

// evalBriefly does not wait for a node that is paused.
func (n *Node) evalBriefly(ctx context.Context, expression string) (string, error) {
	const brief = 15 * time.Second // rabbitmqctl takes long while three nodes boot
	ctx, cancel := context.WithTimeout(ctx, brief)
	defer cancel()
	output, err := n.Eval(ctx, expression)
	return strings.TrimSpace(output), err
}

// Nodes are the cluster's nodes, running or not. Killing, pausing and starting them again is done on them.
func (c *Cluster) Nodes() []*Node { return append([]*Node(nil), c.nodes...) }

// URLs are where clients connect, one for each node.
func (c *Cluster) URLs() []string {
	urls := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		urls[i] = n.URL()
	}
	return urls
}

// Node finds a node by its Erlang name, as a queue's leader is named in rabbitmqctl's output, or returns nil.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.Name() == name {
			return n
		}
	}
	return nil
}

// Leader is the node that leads a queue, by the word of any node that answers.
func (c *Cluster) Leader(ctx context.Context, queue string) (*Node, error) {
	var faults []error
	for _, n := range c.nodes {
		output, err := n.Ctl(ctx, "-q", "list_queues", "name", "leader", "--no-table-headers")
		faults = append(faults, err) // it may be the one that was broken last
		for line := range strings.Lines(output) {
			if name, leader, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == queue && c.Node(leader) != nil {
				return c.Node(leader), nil
			}
		}
	}
	return nil, fmt.Errorf("rabbit: no node says which one leads the queue %q: %w", queue, errors.Join(faults...))
}

// Break kills the node that leads a queue, or freezes it for so long if freeze is not 0, and returns when all nodes are
// members again.
func (c *Cluster) Break(ctx context.Context, queue string, freeze time.Duration) error {
	node, err := c.Leader(ctx, queue)
	if err != nil {
		return err
	}
	down := cmp.Or(freeze, 3*time.Second)
	pause := func() {
		timer := time.NewTimer(down)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if freeze > 0 {
		err = node.Pause()
		pause()
		err = errors.Join(err, node.Resume())
	} else {
		err = node.Kill()
		pause()
		err = errors.Join(err, node.Start(ctx))
	}
	return errors.Join(err, c.AwaitMembers(ctx, len(c.nodes)))
}

// Close ends all nodes and removes what they left on disk.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.Close())
	}
	if c.names != nil {
		errs = append(errs, c.names.close())
	}
	return errors.Join(errs...)
}

// newCookie makes the secret by which nodes and rabbitmqctl know each other.
func newCookie() string { return rand.Text() }
