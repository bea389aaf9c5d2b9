package proof_test

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// A gate opens the sockets of a service and counts the attempts. It may let it to one node of a cluster only.
type gate struct {
	mu       sync.Mutex // guards what follows
	only     string     // the address to let through; empty lets all
	attempts []time.Time
}

var errShut = errors.New("the test lets the service connect to another node only")

// guard puts the gate before a service's connections.
func (g *gate) guard(cfg *harebus.Config) { cfg.Dial = g.dial }

func (g *gate) dial(network, address string) (net.Conn, error) {
	g.mu.Lock()
	g.attempts = append(g.attempts, time.Now())
	only := g.only
	g.mu.Unlock()
	if only != "" && only != address {
		return nil, errShut
	}
	const timeout = 10 * time.Second
	return net.DialTimeout(network, address, timeout)
}

// let lets the service to one node, or to all when it is nil.
func (g *gate) let(node *rabbit.Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.only = ""
	if node != nil {
		g.only = hostPort(node)
	}
}

// since counts the attempts from a moment on.
func (g *gate) since(from time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.IndexFunc(g.attempts, func(t time.Time) bool { return !t.Before(from) })
	if at < 0 {
		return 0
	}
	return len(g.attempts) - at
}

// hostPort is where a node listens.
func hostPort(node *rabbit.Node) string {
	u, err := url.Parse(node.URL())
	if err != nil {
		return err.Error() // no address is equal to it
	}
	return u.Host
}
