package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// migrateArgs are those of a migration of the test's queue.
func migrateArgs(url, file string, more ...string) []string {
	return append(append([]string{"topology", "migrate", "-only-these", "-settle", "100ms", "-drain", "0s", "-url", url}, more...), file, "orders")
}

// TestMigrate replaces a classic queue by a quorum queue, with what waits in it and with what
// was published and deferred meanwhile.
func TestMigrate(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	old := ordersService
	old.QueueOptions.Type = topology.Classic
	execute(t, "", "topology", "apply", "-url", url, topologyFile(t, old)).check(t, exitOK, "")
	for i := range 250 {
		if err := ch.PublishWithContext(t.Context(), "PikaBusTopic", "refund.made", false, false, amqp.Publishing{MessageId: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if q, err := ch.QueueDeclarePassive("orders", true, false, false, false, nil); err != nil || q.Messages != 250 { // it has taken all before it answers
		t.Fatal(q, err)
	}
	file := topologyFile(t, ordersService)
	r := execute(t, "", migrateArgs(url, file)...)
	r.check(t, exitOK, "switched")
	if !strings.Contains(r.out, `replaced queue "orders"; 250 messages`) {
		t.Errorf("printed %s", r.out)
	}
	if q, _ := b.Queue("orders"); q.Type != "quorum" || q.Ready != 250 {
		t.Errorf("the queue is %s with %d messages", q.Type, q.Ready)
	}
	nothingLeft(t, b)
	execute(t, "", "topology", "plan", "-url", url, file).check(t, exitOK, "")
	again := execute(t, "", migrateArgs(url, file)...)
	again.check(t, exitOK, "")
	if !strings.Contains(again.out, "is as wanted") {
		t.Errorf("printed %s", again.out)
	}
}

// nothingLeft fails if a migration has left something, or a binding is missing.
func nothingLeft(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	for _, q := range b.Queues() {
		if strings.HasPrefix(q.Name, "harebus.migrate.") {
			t.Errorf("queue %q is left, with %d messages", q.Name, q.Ready)
		}
	}
	for _, x := range b.Exchanges() {
		if strings.HasPrefix(x.Name, "harebus.migrate.") {
			t.Errorf("exchange %q is left", x.Name)
		}
	}
	if keys := bindingKeys(b); keys != "error orders payment.* refund.made" {
		t.Errorf("the bindings are %s", keys)
	}
}

// TestMigrateRefusesTrafficByName: RabbitMQ may lose what is published by name at the moment of
// the replacement. Everything is put back.
func TestMigrateRefusesTrafficByName(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	old := ordersService
	old.QueueOptions.Type = topology.Classic
	execute(t, "", "topology", "apply", "-url", url, topologyFile(t, old)).check(t, exitOK, "")
	put(t, ch, "orders", amqp.Publishing{MessageId: "by name"})
	file := topologyFile(t, ordersService)
	execute(t, "", migrateArgs(url, file)...).check(t, exitFailed, "by its name; one that comes at the moment of the replacement can be lost although it is confirmed: have its publishers use an exchange, or stop them; if the queue or its node was away, services of harebus do so for a minute after that: run the same command again then")
	if q, _ := b.Queue("orders"); q.Type != "classic" || q.Ready != 1 {
		t.Errorf("the queue is %s with %d messages", q.Type, q.Ready)
	}
	nothingLeft(t, b)
	execute(t, "", migrateArgs(url, file, "-accept-by-name")...).check(t, exitOK, "")
	if q, _ := b.Queue("orders"); q.Type != "quorum" || q.Ready != 1 {
		t.Errorf("the queue is %s with %d messages", q.Type, q.Ready)
	}
}

// TestMigrateRefusesBadArguments: the old queue stays when the broker would not take the new one.
func TestMigrateRefusesBadArguments(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	old := ordersService
	old.QueueOptions.Type = topology.Classic
	execute(t, "", "topology", "apply", "-url", url, topologyFile(t, old)).check(t, exitOK, "")
	bad := ordersService
	bad.QueueOptions.Arguments = map[string]any{"x-max-priority": 3}
	execute(t, "", migrateArgs(url, topologyFile(t, bad))...).check(t, exitFailed, "x-max-priority")
	if q, ok := b.Queue("orders"); !ok || q.Type != "classic" {
		t.Errorf("the queue is %q", q.Type)
	}
	nothingLeft(t, b)
}

// TestMigrateWaitsForWhatTheBrokerHolds: the queue stays as long as the management plugin tells of messages that consumers or
// dead-lettering hold, and is put back when it tells no end of them or does not tell at all.
func TestMigrateWaitsForWhatTheBrokerHolds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ counts, want string }{
		"consumers":                {`"messages_unacknowledged":1,"messages_dlx":0`, "-hold"},
		"dead letters":             {`"messages_unacknowledged":0,"messages_dlx":1`, "-hold"},
		"not counted":              {`"messages_dlx":0`, "statistics are switched off"},
		"no count of dead letters": {`"messages_unacknowledged":0`, "-accept-dead-letters"},
		"nothing":                  {`"messages_unacknowledged":0,"messages_dlx":0`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			old := ordersService
			old.QueueOptions.Arguments = map[string]any{"x-delivery-limit": 7}
			execute(t, "", "topology", "apply", "-url", url, topologyFile(t, old)).check(t, exitOK, "")
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := "[]"
				if strings.HasPrefix(r.URL.Path, "/api/queues") {
					answer = `[{"name":"orders",` + test.counts + `}]`
				}
				_, _ = w.Write([]byte(answer))
			}))
			defer server.Close()
			r := execute(t, "", "topology", "migrate", "-api", server.URL, "-settle", "50ms", "-drain", "0s", "-hold", "300ms", "-url", url, topologyFile(t, ordersService), "orders")
			code, limit := exitOK, int64(20)
			if test.want != "" {
				code, limit = exitFailed, 7
			}
			r.check(t, code, test.want)
			if q, _ := b.Queue("orders"); q.Arguments["x-delivery-limit"] != limit {
				t.Errorf("the queue is %+v", q)
			}
			nothingLeft(t, b)
		})
	}
}
