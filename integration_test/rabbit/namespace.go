package rabbit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// A place is where a node's programs run: a network namespace with one address, or, if it is zero, the loopback
// interface of the machine.
type place struct{ namespace, host string }

// address is the node's.
func (w place) address() string {
	if w.host == "" {
		return "127.0.0.1"
	}
	return w.host
}

// nodeHost is what follows the @ in a node's name.
func (w place) nodeHost() string {
	if w.host == "" {
		return "localhost"
	}
	return w.host
}

// tuple is the address in Erlang.
func (w place) tuple() string { return "{" + strings.ReplaceAll(w.address(), ".", ",") + "}" }

// enter is the command that a command in this place is given to.
func (w place) enter() []string {
	if w.namespace == "" {
		return nil
	}
	return []string{"ip", "netns", "exec", w.namespace}
}

func (w place) environment() []string {
	if w.host == "" {
		return nil
	}
	return []string{"RABBITMQ_USE_LONGNAME=true"}
}

// config lets clients in that are not on the same host.
func (w place) config() []string {
	if w.host == "" {
		return nil
	}
	return []string{"loopback_users = none"}
}

// namePort is the port of the place's name server. In a namespace nobody else could take it.
func (w place) namePort() (*port, error) {
	if w.namespace == "" {
		return reservePort()
	}
	return &port{number: 4369}, nil
}

// A Network has a network namespace for each node of a cluster, joined by a bridge, and cuts the links between them as
// real ones are cut: what is sent vanishes, and nobody is told. It takes Linux, root, iproute2 and iptables.
type Network struct {
	places  []place
	gateway string // the address of this process
	janitor *janitor
}

// cleanUpScript ends the processes in the namespaces and removes these, with their links, and the bridge.
const cleanUpScript = `trap '' HUP INT TERM
read -r _
bridge=$1
shift
for namespace in "$@"; do
	ip netns pids "$namespace" | xargs -r kill -9
	ip netns del "$namespace"
done
iptables -D FORWARD -i "$bridge" -o "$bridge" -j ACCEPT
ip link del "$bridge"`

// NewNetwork makes a network for that many nodes. The caller closes it, after the nodes; should this process die, it
// goes too.
func NewNetwork(size int) (_ *Network, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("rabbit: make network: network namespaces take root: run the tests as root")
	}
	for _, program := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("rabbit: make network: %w: apt-get install iproute2 iptables", err)
		}
	}
	// The addresses are those set aside for tests of networks (RFC 2544). An interface has at most 15 letters.
	name, subnet := fmt.Sprintf("hb%x", os.Getpid()), fmt.Sprintf("198.18.%d.", rand.IntN(256))
	n := &Network{gateway: subnet + "1"}
	bridge, undo := name+"br", []string{name + "br"}
	for i := range size {
		n.places = append(n.places, place{name + "n" + strconv.Itoa(i), subnet + strconv.Itoa(11+i)})
		undo = append(undo, n.places[i].namespace)
	}
	if n.janitor, err = startJanitor(cleanUpScript, undo...); err != nil {
		return nil, err
	}
	if err := n.build(bridge); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) build(bridge string) error {
	commands := [][]string{
		{"ip", "link", "add", bridge, "type", "bridge"},
		{"ip", "addr", "add", n.gateway + "/24", "dev", bridge},
		{"ip", "link", "set", bridge, "up"},
		// Where Docker has closed the forwarding of packets.
		{"iptables", "-I", "FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT"},
	}
	for _, w := range n.places {
		outside := w.namespace + "v"
		commands = append(commands,
			[]string{"ip", "netns", "add", w.namespace},
			[]string{"ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", w.namespace},
			[]string{"ip", "link", "set", outside, "master", bridge, "up"},
			[]string{"ip", "-n", w.namespace, "addr", "add", w.host + "/24", "dev", "eth0"},
			[]string{"ip", "-n", w.namespace, "link", "set", "eth0", "up"},
			[]string{"ip", "-n", w.namespace, "link", "set", "lo", "up"},
		)
	}
	return runAll(commands)
}

// runAll runs commands until one fails.
func runAll(commands [][]string) error {
	for _, argv := range commands {
		if output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("rabbit: %s: %w: %s", strings.Join(argv, " "), err, output)
		}
	}
	return nil
}

// Isolate cuts off a node from all others and from this process.
func (n *Network) Isolate(node int) error {
	return n.filter(node, "-A INPUT -i eth0 -j DROP", "-A OUTPUT -o eth0 -j DROP")
}

// Part cuts off a node from all others. This process still reaches all.
func (n *Network) Part(node int) error {
	var errs []error
	for other := range n.places {
		if other != node {
			errs = append(errs, n.Cut(node, other))
		}
	}
	return errors.Join(errs...)
}

// Cut cuts the link between two nodes.
func (n *Network) Cut(a, b int) error { return n.drop(a, n.places[b].host) }

// CutClient cuts the link between a node and this process.
func (n *Network) CutClient(node int) error { return n.drop(node, n.gateway) }

// Lose makes every node lose so many percent of the packets that reach it.
func (n *Network) Lose(percent int) error {
	chance := strconv.FormatFloat(float64(percent)/100, 'f', 2, 64)
	var errs []error
	for node := range n.places {
		errs = append(errs, n.filter(node, "-A INPUT -i eth0 -m statistic --mode random --probability "+chance+" -j DROP"))
	}
	return errors.Join(errs...)
}

// Heal undoes all of the above.
func (n *Network) Heal() error {
	var errs []error
	for node := range n.places {
		errs = append(errs, n.filter(node, "-F"))
	}
	return errors.Join(errs...)
}

func (n *Network) drop(node int, address string) error {
	return n.filter(node, "-A INPUT -s "+address+" -j DROP", "-A OUTPUT -d "+address+" -j DROP")
}

// filter adds to the packet filter of a node.
func (n *Network) filter(node int, rules ...string) error {
	var commands [][]string
	for _, rule := range rules {
		commands = append(commands, slices.Concat(n.places[node].enter(), []string{"iptables", "-w"}, strings.Fields(rule)))
	}
	return runAll(commands)
}

// Close removes the network and returns when it is gone.
func (n *Network) Close() error { return n.janitor.close() }
