package integration_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// TestWithoutRights: to a user who may do nothing each command of an operator says which right is missing, in a few lines, and ends
// with a code that is not 0.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	p.users(map[string][3]string{"nobody": {"^$", "^$", "^$"}})
	o := newOperator(p, 0)
	o.write(harebus.Config{Queue: "orders", Consume: harebus.ConsumeConfig{Order: &order.Config{}}})
	o.ends(0, []string{"topology", "apply", o.file})
	b := o.broker()
	b.publish("", "error", amqp.Publishing{MessageId: "m1", Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}, Body: []byte("{}")})
	b.must(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare("harebus.pulse", "direct", true, false, false, false, nil)
	})
	o.place = &place{T: t, node: o.node, url: o.withUser(p.name+"nobody", "secret"), name: o.name}
	placeOf := strings.NewReplacer("FILE", o.file, "TICKET", topology.Ticket{ID: "m2", Due: time.Now().Add(time.Hour)}.String())
	says := regexp.MustCompile(`ACCESS_REFUSED - |the user may not write to the exchange "harebus.pulse"|the user has no configure permission|user "\S+" may not consume from queue "orders" \(read\)`)
	for _, command := range []string{
		"errors", "errors retry -yes 1", "errors export -no-lock", "redrive", "deferred cancel -timeout 2s TICKET", "topology plan FILE", "topology apply FILE", "doctor FILE",
		"top -every 100ms orders", "status orders", "control pause orders", "peek error", "parked list orders", "parked retry orders ann", "send -timeout 2s orders {}", "publish -timeout 2s a.b {}",
	} {
		output, code := o.harebus(strings.Fields(placeOf.Replace(command))...)
		if lines := strings.Count(output, "\n"); code != 1 && code != 3 || !says.MatchString(output) || lines > 60 {
			t.Errorf("harebus %s ends with %d and %d lines: %.2000s", command, code, lines, output)
		}
	}
}
