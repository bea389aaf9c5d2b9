package main

import (
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/celery"
	"github.com/harebus/harebus/dialect/masstransit"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/dialect/wolverine"
	"github.com/harebus/harebus/topology"
)

// TestDoctorOfNeighbours: the doctor says how a service on another bus has to address a queue so that it does not declare it, before it has done so and after; and
// it says nothing of that for a service without such peers.
func TestDoctorOfNeighbours(t *testing.T) {
	t.Parallel()
	types := dialect.Types{"OrderPlaced": "Acme.Orders:OrderPlaced"}
	for name, c := range map[string]struct {
		with topology.Topology
		want string
	}{
		"masstransit": {masstransit.New(masstransit.Config{Types: types}).Topology("orders", "OrderPlaced"), "MassTransit has to send to exchange:orders, as NServiceBus does by itself; queue:orders would declare"},
		"nservicebus": {nservicebus.New(nservicebus.Config{Types: types}).Topology("orders", "OrderPlaced"), "NServiceBus does by itself"},
		"wolverine":   {wolverine.New(wolverine.Config{Types: types}).Topology("orders", "OrderPlaced"), `ToRabbitRoutingKey("", "orders")`},
		"celery":      {celery.New(celery.Config{}).Topology("orders"), `exchange="orders", routing_key="orders"`},
		"none":        {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, url := newBroker(t)
			cfg := ordersService
			cfg.Declare.Topology = c.with
			file := topologyFile(t, cfg)
			execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
			r := execute(t, "", "doctor", "-url", url, file)
			notes := slices.DeleteFunc(strings.Split(r.out, "\n"), func(line string) bool { return !strings.HasPrefix(line, "– other buses: ") })
			if c.want == "" && len(notes) > 0 || c.want != "" && (len(notes) != 1 || !strings.Contains(notes[0], c.want)) {
				t.Errorf("the doctor prints\n%s", r.out)
			}
		})
	}
}

// TestDoctorOfAPeersQueue: a queue as other buses make it is a finding that says how such a service reaches it without making it. One with arguments is not theirs.
func TestDoctorOfAPeersQueue(t *testing.T) {
	t.Parallel()
	for _, direct := range []string{"", "commands"} {
		for theirs, arguments := range map[bool]amqp.Table{true: nil, false: {"x-max-priority": 5}} {
			b, url := newBroker(t)
			cfg := ordersService
			cfg.Exchanges.Direct = direct
			file := topologyFile(t, cfg)
			execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
			ch := client(t, b)
			deleted("orders")(t, ch)
			if _, err := ch.QueueDeclare("orders", true, false, false, false, arguments); err != nil {
				t.Fatal(err)
			}
			f, ok := matching(examine(t, url, file), `queue "orders" is not as wanted`)
			exchange := "PikaBusDirect"
			if direct != "" {
				exchange = direct
			}
			if want := `exchange:` + exchange + `?type=direct with SetRoutingKey("orders")`; !ok || strings.Contains(f.Why, want) != theirs {
				t.Errorf("%q, %v: the doctor finds %+v", direct, theirs, f)
			}
		}
	}
}
