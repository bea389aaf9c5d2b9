package servicecontrol_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/dialect/nservicebus/servicecontrol"
)

type placeOrder struct{ ID int }

func (placeOrder) MessageType() string { return "PlaceOrder" }

var peers = nservicebus.New(nservicebus.Config{Types: dialect.Types{"PlaceOrder": "Acme.Orders.PlaceOrder"}})

// TestConfirm: the retry that succeeds is confirmed, with the headers that ServiceControl looks for and no body; one that fails is not, nor one that names another queue, nor what ServiceControl has not
// sent back. A queue that is gone does not make the handler fail.
func TestConfirm(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers   map[string]any
		id        int
		gone      bool
		confirmed bool
	}{
		"handled":       {map[string]any{"ServiceControl.Retry.UniqueMessageId": "f-1", "ServiceControl.Retry.AcknowledgementQueue": "particular"}, 7, false, true},
		"as bytes":      {map[string]any{"ServiceControl.Retry.UniqueMessageId": []byte("f-1"), "ServiceControl.Retry.AcknowledgementQueue": []byte("particular")}, 7, false, true},
		"fails":         {map[string]any{"ServiceControl.Retry.UniqueMessageId": "f-1", "ServiceControl.Retry.AcknowledgementQueue": "particular"}, 8, false, false},
		"another queue": {map[string]any{"ServiceControl.Retry.UniqueMessageId": "f-1", "ServiceControl.Retry.AcknowledgementQueue": "victim"}, 7, false, false},
		"no id":         {map[string]any{"ServiceControl.Retry.AcknowledgementQueue": "particular"}, 7, false, false},
		"no retry":      {nil, 7, false, false},
		"gone":          {map[string]any{"ServiceControl.Retry.UniqueMessageId": "f-1", "ServiceControl.Retry.AcknowledgementQueue": "particular"}, 7, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				broker := brokertest.New()
				defer broker.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				s, err := harebus.New(harebus.Config{
					Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{peers}},
					Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{servicecontrol.Confirm("particular")}},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				handled := 0
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o placeOrder) error {
					if handled++; o.ID != 7 {
						return harebus.NoRetry(errors.New("no order"))
					}
					return nil
				})
				if err := s.Start(ctx); err != nil {
					t.Fatal(err)
				}
				conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				ch, err := conn.Channel()
				if err != nil {
					t.Fatal(err)
				}
				for _, queue := range []string{"particular", "victim"} {
					if queue == "particular" && c.gone {
						continue
					}
					if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
						t.Fatal(err)
					}
				}
				body := map[bool]string{true: `{"ID":7}`, false: `{"ID":8}`}[c.id == 7]
				if err := ch.PublishWithContext(ctx, "", "orders", false, false, amqp.Publishing{MessageId: "m-1", Type: "Acme.Orders.PlaceOrder", ContentType: "application/json", Headers: c.headers, Body: []byte(body)}); err != nil {
					t.Fatal(err)
				}
				if err := broker.WaitQuiet(ctx, "error", "particular", "victim"); err != nil {
					t.Fatal(err)
				}
				if failed := len(broker.Messages("error")); handled != 1 || failed > 0 != (c.id != 7) {
					t.Errorf("handled %d times, %d parked", handled, failed)
				}
				if n := len(broker.Messages("victim")); n > 0 {
					t.Errorf("%d went to the queue that a stranger has named", n)
				}
				got := broker.Messages("particular")
				if (len(got) == 1) != c.confirmed {
					t.Fatalf("%d confirmations", len(got))
				}
				if !c.confirmed {
					return
				}
				m := got[0]
				at, _ := m.Headers["ServiceControl.Retry.Successful"].(string)
				if len(m.Body) > 0 || m.MessageId == "" || m.Headers["ServiceControl.Retry.UniqueMessageId"] != "f-1" || m.Headers["NServiceBus.ControlMessage"] != "True" || !strings.HasPrefix(at, "2000-01-01 00:00:0") || !strings.HasSuffix(at, " Z") {
					t.Errorf("the confirmation is %+v %q", m.Headers, m.Body)
				}
				for key := range m.Headers {
					if strings.HasPrefix(key, "PikaBus.") {
						t.Errorf("it has the header %s", key)
					}
				}
			})
		})
	}
}
