package delay_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// The permissions docs/delays.md names suffice to declare and to defer, and without the one to configure the error says so.
func TestPermissions(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	ctl := func(args ...string) {
		t.Helper()
		if out, err := node.Ctl(t.Context(), args...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const ours = `^harebus\.delay\.`
	ctl("add_user", "sender", "secret")
	ctl("set_permissions", "sender", ours, ours+`|^amq\.default$`, ours)
	ctl("add_user", "stranger", "secret")
	ctl("set_permissions", "stranger", "^$", ours, ours)
	dial := func(user string) *amqp.Connection {
		t.Helper()
		address, err := url.Parse(node.URL())
		if err != nil {
			t.Fatal(err)
		}
		address.User = url.UserPassword(user, "secret")
		connection, err := amqp.Dial(address.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = connection.Close() }) // the node is about to end as well
		return connection
	}
	l := &lab{node: node}
	l.connect(t)
	l.declare(t, topology.Topology{Queues: []topology.Queue{{Name: "orders"}}})
	r := l.receive(t, "orders", 1)

	var refusal *topology.Error
	err := l.delays.Topology().Declare(l.channel(t, dial("stranger")))
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "configure pattern must match the exchange") {
		t.Errorf("without permission: %v", err)
	}

	l.publish = dial("sender")
	l.declare(t, l.delays.Topology(), l.delays.Exit("", "orders"))
	s := l.sender(t)
	if _, err := s.send(t.Context(), "orders", "1", 120*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := s.confirmed(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wait(20 * time.Second)
	if r.count() != 1 {
		t.Error("the message did not come")
	}
}
