package integration_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestCommandDialects: the command writes for MassTransit, and shows and redrives what MassTransit and Wolverine have parked, the latter
// through a dead-letter exchange.
func TestCommandDialects(t *testing.T) {
	t.Parallel()
	p := shared(t)
	binary := filepath.Join(t.TempDir(), "harebus")
	if output, err := exec.CommandContext(p.Context(), "go", "build", "-o", binary, "github.com/harebus/harebus/cmd/harebus").CombinedOutput(); err != nil {
		p.Fatalf("%v: %s", err, output)
	}
	run := func(command string, args ...string) string {
		p.Helper()
		tasks := strings.Fields(command)
		cmd := exec.CommandContext(p.within(patience), binary, append(append(tasks, "-url", p.url), args...)...)
		var said bytes.Buffer
		cmd.Stderr = &said
		output, err := cmd.Output()
		if err != nil {
			p.Fatalf("harebus %s %v: %v: %s%s", command, args, err, output, said.String())
		}
		return string(output)
	}
	b, orders := p.broker(), p.queue("orders")
	dead := p.queue("wolverine-dead-letter-queue")
	b.declareQueue(dead, nil)
	b.declareQueue(orders, amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
	b.declareQueue(orders+"_error", nil)

	run("send", "-as", "masstransit", "-type", "Acme.Orders:PlaceOrder", "-header", "tenant=acme", orders, `{"id":7}`)
	sent := b.take(orders, 1)[0]
	if !strings.Contains(string(sent.Body), "urn:message:Acme.Orders:PlaceOrder") || sent.ContentType != "application/vnd.masstransit+json" {
		p.Fatalf("it is sent as %s: %s", sent.ContentType, sent.Body)
	}
	headers := amqp.Table{
		"tenant": "acme", "MT-Reason": "fault", "MT-Fault-InputAddress": "rabbitmq://localhost/" + orders, "MT-Fault-Message": "no stock",
		"MT-Fault-ExceptionType": "System.TimeoutException", "MT-Fault-MessageType": "Acme.Orders.PlaceOrder", "MT-Fault-RetryCount": int32(3),
	}
	b.publish("", orders+"_error", amqp.Publishing{Headers: headers, ContentType: sent.ContentType, MessageId: sent.MessageId, DeliveryMode: 2, Body: sent.Body})
	shown := run("errors list", "-error-queue", orders+"_error", "-json", "-kind", "System.TimeoutException", "-type", "Acme.Orders.PlaceOrder")
	for _, want := range []string{`"source":"` + orders + `"`, `"failure":"no stock"`, `"dialect":"masstransit"`, `"payload":{"id":7}`} {
		if !strings.Contains(shown, want) {
			p.Errorf("it is shown without %s: %s", want, shown)
		}
	}
	run("errors retry", "-error-queue", orders+"_error", "-yes", "1")
	back := b.take(orders, 1)[0]
	if _, there := back.Headers["MT-Reason"]; there || back.Headers["tenant"] != "acme" || string(back.Body) != string(sent.Body) {
		p.Errorf("it is back with %v: %s", back.Headers, back.Body)
	}

	run("send", "-as", "wolverine", "-type", "Acme.Orders.PlaceOrder", orders, `{"id":8}`)
	b.must(func(ch *amqp.Channel) error {
		d, ok, err := ch.Get(orders, false)
		if err != nil || !ok {
			return err
		}
		return d.Nack(false, false) // as Wolverine does when a handler fails for good
	})
	p.eventually(patience, func() error {
		if shown = run("errors list", "-error-queue", dead, "-json"); strings.Contains(shown, `"kind":"rejected","source":"`+orders+`"`) && strings.Contains(shown, `"dialect":"wolverine"`) {
			return nil
		}
		return notYetError(shown)
	})
	run("errors retry", "-error-queue", dead, "-yes", "1")
	if again := b.take(orders, 1)[0]; again.Headers["x-death"] != nil || string(again.Body) != `{"id":8}` {
		p.Errorf("it is back with %v: %s", again.Headers, again.Body)
	}
}

type notYetError string

func (e notYetError) Error() string { return "not yet: " + string(e) }
