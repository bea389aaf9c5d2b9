package declare_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test in virtual time, with a broker and a link to it.
func bubble(t *testing.T, fn func(t *testing.T, b *brokertest.Broker, link *session.Link)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		link := session.NewLink("link", session.NewDialer(session.Config{
			Addresses: []amqp.URI{{Scheme: "amqp", Host: "broker", Port: 5672, Username: "guest", Password: "guest", Vhost: "/"}},
			Name:      "test", Dial: b.Dial, BackOff: wait.Default, Log: zap.NewNop(), Waits: wait.Teller{Log: zap.NewNop()},
			Timeout: 10 * time.Second, RequestTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, Heartbeat: 5 * time.Second,
		}), 0)
		defer link.Close()
		fn(t, b, link)
	})
}

// service has an exchange, two listener queues that are bound to it, and an error queue each.
func service() declare.Config {
	var queues topology.Topology
	var errorQueues []topology.Topology
	for _, name := range []string{"orders", "invoices"} {
		queues.Queues = append(queues.Queues, topology.Queue{Name: name})
		queues.Bindings = append(queues.Bindings, topology.Binding{Exchange: "events", Key: name + ".#", Queue: name})
		errorQueues = append(errorQueues, topology.Topology{
			Queues:   []topology.Queue{{Name: name + ".error"}},
			Bindings: []topology.Binding{{Exchange: "events", Key: name + ".error", Queue: name + ".error"}},
		})
	}
	return declare.Config{
		Exchanges:   topology.Topology{Exchanges: []topology.Exchange{{Name: "events", Kind: topology.Topic}}},
		Queues:      func() topology.Topology { return queues },
		ErrorQueues: func() []topology.Topology { return errorQueues },
		Consuming:   func() bool { return true },
		BackOff:     wait.Default, Log: zap.NewNop(),
	}
}

// TestQueueThatIsRefused: when two queues may have been deleted and the broker refuses to
// declare one of them, only that one may be missing.
func TestQueueThatIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker, link *session.Link) {
		d := declare.New(service())
		on, err := link.Session(t.Context())
		if err == nil {
			err = d.First(t.Context(), on, time.Time{})
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, queue := range []string{"orders", "orders.error", "invoices", "invoices.error"} {
			if _, ok := b.Queue(queue); !ok {
				t.Errorf("no queue %q", queue)
			}
		}
		refusal := b.Inject(brokertest.Fault{
			On: "queue.declare", Times: -1, Do: brokertest.Raise, Code: amqp.AccessRefused, Text: "ACCESS_REFUSED",
			Match: func(f brokertest.Frame) bool { return f.Queue == "orders" },
		})
		again := func() {
			t.Helper()
			if err := d.Again(t.Context(), on, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		again()
		if err := d.Undeclared(); err != nil {
			t.Errorf("nobody doubts that the queues exist: %v", err)
		}
		d.Doubt("orders")
		d.Doubt("invoices")
		again()
		for name, err := range map[string]error{"of orders": d.UndeclaredOf("orders"), "of all": d.Undeclared()} {
			if err == nil || !strings.Contains(err.Error(), `queue "orders"`) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := d.UndeclaredOf("invoices"); err != nil {
			t.Errorf("of invoices: %v", err)
		}
		refusal.Remove()
		again()
		if err := d.Undeclared(); err != nil {
			t.Errorf("everything has been declared: %v", err)
		}
	})
}
