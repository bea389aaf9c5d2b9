package proof_test

import (
	"bytes"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/seal"
	"github.com/harebus/harebus/topology"
)

// brief is the deadline of sends that are to come back during a fault.
const brief = 2 * time.Second

// TestBrokerGone ends and freezes the process of one broker, again and again.
func TestBrokerGone(t *testing.T) {
	t.Parallel()
	node := private(t, rabbit.Options{})
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		t.Run("killed/"+string(queueType), func(t *testing.T) { killed(t, node, queueType) })
	}
	t.Run("restarted", func(t *testing.T) { restarted(t, node) })
	t.Run("frozen", func(t *testing.T) { frozen(t, node) })
	t.Run("away", func(t *testing.T) { away(t, node) })
}

// killed has the broker die by SIGKILL under load and come back.
func killed(t *testing.T, node *rabbit.Node, queueType topology.QueueType) {
	r := begin(t, plan{nodes: []*rabbit.Node{node}, queueType: queueType})
	r.try(node.Sync(r.within(patience)))
	r.fault("SIGKILL", func() {
		r.try(node.Kill())
		r.try(node.Start(r.within(patience)))
	})
	r.allConfirmed(r.end())
}

// restarted is what an upgrade of a single broker does. The messages are sealed.
func restarted(t *testing.T, node *rabbit.Node) {
	r := begin(t, plan{nodes: []*rabbit.Node{node}, guard: sealing(t)})
	r.fault("restart", func() {
		r.try(node.Stop(r.within(patience)))
		r.try(node.Start(r.within(patience)))
	})
	r.allConfirmed(r.end())
}

// sealing is a guard that seals every message and refuses what is not sealed.
func sealing(t *testing.T) harebus.Guard {
	t.Helper()
	key, err := seal.NewKey("proof", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	return seal.New(keys, seal.Policy{Types: []string{"*"}})
}

// frozen has the broker say nothing for 20 s: sends come back at their deadlines, with or without an outcome.
func frozen(t *testing.T, node *rabbit.Node) {
	const ice = 20 * time.Second
	r := begin(t, plan{nodes: []*rabbit.Node{node}, timeout: brief})
	r.fault("SIGSTOP", func() {
		r.try(node.Pause())
		time.Sleep(ice)
		r.try(node.Resume())
	})
	r.end()
}

// away has the broker be gone for long: it is not stormed with connections, and is at work again soon after its return.
func away(t *testing.T, node *rabbit.Node) {
	const absence = 22 * time.Second
	way := &gate{}
	r := begin(t, plan{nodes: []*rabbit.Node{node}, change: way.guard})
	r.try(node.Sync(r.within(patience)))
	r.fault("away", func() {
		gone := time.Now()
		r.try(node.Kill())
		time.Sleep(absence)
		r.seldom(way, gone)
		r.try(node.Launch())
		back := r.login(node)
		r.consuming("the broker let clients in", back, patience/3)
	})
	r.allConfirmed(r.end())
}

// login returns the moment at which a broker that is starting lets a client in.
func (r *run) login(node *rabbit.Node) time.Time {
	r.Helper()
	r.eventually(patience, func() error {
		conn, err := amqp.Dial(node.URL())
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return time.Now()
}

// seldom bounds the attempts to connect since a moment. Each of the two connections makes seven in the first three
// seconds, with growing pauses, then one every 1.2 s at most.
func (r *run) seldom(way *gate, since time.Time) {
	r.Helper()
	const connections, first, pause = 2, 7, 1.2
	elapsed, attempts := time.Since(since), way.since(since)
	r.Logf("%s: %d attempts to connect in %v, %.0f a minute",
		r.Name(), attempts, elapsed.Round(time.Millisecond), float64(attempts)/elapsed.Minutes())
	if most := connections * (first + int(elapsed.Seconds()/pause)); attempts > most {
		r.Errorf("%d attempts to connect in %v, more than %d", attempts, elapsed, most)
	}
	if attempts < connections {
		r.Errorf("%d attempts to connect in %v: it has given up", attempts, elapsed)
	}
}
