package integration_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/redrive"
	"github.com/harebus/harebus/internal/wire"
)

// redrives returns a function that runs redrive on a queue and returns the ids it has reported, in order.
func (p *place) redrives(queue string) func(change func(*redrive.Options)) ([]string, redrive.Report) {
	return func(change func(*redrive.Options)) (ids []string, report redrive.Report) {
		p.Helper()
		o := redrive.Options{
			Broker: access.Broker{URLs: []string{p.url}}, Queue: queue, HeaderPrefix: "PikaBus.", Timeout: patience,
		}
		if change != nil {
			change(&o)
		}
		report, err := redrive.Run(p.within(2*patience), o, func(i redrive.Item) { ids = append(ids, i.ID) })
		p.try(err)
		return ids, report
	}
}

// However often somebody looks at an error queue, or at a part of it, its messages stay, and in their order: in a queue,
// too, that RabbitMQ 4 would take them out of at the twenty-first delivery.
func TestLookingKeepsTheOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		queueType     string
		looks, window int
	}{
		"quorum": {"quorum", 30, 0}, "classic": {"classic", 5, 0},
		"more than one consumer holds": {"quorum", 9, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			b, queue := p.broker(), p.queue("parked")
			b.declareQueue(queue, amqp.Table{"x-queue-type": test.queueType})
			var want []string
			var parked []amqp.Publishing
			for i := range 450 {
				want = append(want, fmt.Sprint(i))
				parked = append(parked, amqp.Publishing{
					MessageId: fmt.Sprint(i), DeliveryMode: amqp.Persistent,
					Headers: amqp.Table{"PikaBus.SourceQueue": "orders"},
				})
			}
			b.publishAll(queue, parked)
			look := p.redrives(queue)
			for i := range test.looks {
				ids, _ := look(func(o *redrive.Options) {
					o.DryRun, o.Window = true, test.window
					if i%3 == 2 { // a part of it
						o.Count = 10
					}
				})
				p.eventually(patience, func() error { // what it held is back
					q, err := b.look(queue)
					if err == nil && q.Messages != len(want) {
						err = fmt.Errorf("%d messages are ready", q.Messages)
					}
					return err
				})
				if expected := want[:len(ids)]; !slices.Equal(ids, expected) || len(ids) != 10 && len(ids) != len(want) {
					t.Fatalf("look %d found %d messages, the first %v", i+1, len(ids), ids[:min(len(ids), 10)])
				}
			}
		})
	}
}

// A message that the broker has parked, because it was delivered too often, says only in the broker's own headers
// where that was. It goes back there, and not to the queue in which it waited before.
func TestRedriveOfWhatTheBrokerParked(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b, orders, parked, waiting := p.broker(), p.queue("orders"), p.queue("parked"), p.queue("waiting")
	b.declareQueue(parked, nil)
	b.declareQueue(orders, amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": int32(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": parked,
	})
	b.declareQueue(waiting, amqp.Table{
		"x-message-ttl": int32(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": orders,
	})
	b.publish("", waiting, amqp.Publishing{MessageId: "m", DeliveryMode: amqp.Persistent, Body: []byte("1")})
	for range 2 { // RabbitMQ 4.3 does not count what a consumer gives back itself
		b.must(func(ch *amqp.Channel) error {
			deliveries, err := ch.Consume(orders, "", false, false, false, false, nil)
			if err == nil {
				<-deliveries
			}
			return err
		})
	}
	p.eventually(patience, func() error {
		q, err := b.look(parked)
		if err == nil && q.Messages != 1 {
			err = fmt.Errorf("the broker has parked %d messages", q.Messages)
		}
		return err
	})
	ids, report := p.redrives(parked)(nil)
	if !slices.Equal(ids, []string{"m"}) || report != (redrive.Report{Moved: 1}) {
		t.Fatalf("redrive says %v of %v", report, ids)
	}
	if d := b.take(orders, 1)[0]; d.MessageId != "m" || d.Headers["x-death"] != nil {
		t.Errorf("back is %q with x-death %v", d.MessageId, d.Headers["x-death"])
	}
}

// The broker itself parks messages whose headers the client cannot read. They go back as they came, and so do those
// around them.
func TestRedriveOfPoisonFrame(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"quorum", "classic"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			b, orders, parked := p.broker(), p.queue("orders"), p.queue("parked")
			b.declareQueue(parked, amqp.Table{"x-queue-type": kind})
			b.declareQueue(orders, amqp.Table{
				"x-queue-type": kind, "x-max-length": int32(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": parked,
			})
			homeless := amqp.Publishing{MessageId: "homeless", DeliveryMode: amqp.Persistent}
			b.publish("", parked, homeless)
			poisons := []amqp.Publishing{
				{MessageId: "deep", DeliveryMode: amqp.Persistent, Headers: amqp.Table{"deep": nested(50), "tenant": "blue"}},
				{MessageId: "wide", DeliveryMode: amqp.Persistent, Headers: amqp.Table{"wide": make([]any, 8193), "tenant": "blue"}},
			}
			for _, poison := range poisons {
				b.publish("", orders, poison)
			}
			b.publish("", orders, homeless) // the queue holds one: the broker parks the two before it
			p.eventually(patience, func() error {
				q, err := b.look(parked)
				if err == nil && q.Messages != 3 {
					err = fmt.Errorf("%d messages are parked", q.Messages)
				}
				return err
			})
			b.take(orders, 1)

			look := p.redrives(parked)
			for range 12 { // it is looked at so often that redrive puts it into the queue again
				ids, report := look(dry)
				if !slices.Equal(ids, []string{"homeless", "deep", "wide"}) || report.Moved != 2 || report.Left != 1 {
					t.Fatalf("%v would be moved: %+v", ids, report)
				}
			}
			for i, entry := range [][]byte{deepEntry(50), append([]byte("\x04wideA\x00\x00\x20\x01"), bytes.Repeat([]byte{'V'}, 8193)...)} {
				if ids, report := look(one); report.Moved != 1 {
					t.Fatalf("%v were moved: %+v", ids, report)
				}
				p.takeRaw(orders, poisons[i].MessageId, entry)
			}
			if ids, report := look(nil); !slices.Equal(ids, []string{"homeless"}) || report.Left != 1 {
				t.Fatalf("%v stayed: %+v", ids, report)
			}
		})
	}
}

func dry(o *redrive.Options) { o.DryRun = true }
func one(o *redrive.Options) { o.Count = 1 }

// deepEntry is the header "deep" with so many tables in each other, as [nested] makes them.
func deepEntry(depth int) []byte {
	value := []byte("\x06at theS\x00\x00\x00\x06bottom")
	for range depth {
		value = append(binary.BigEndian.AppendUint32([]byte("\x06deeperF"), uint32(len(value))), value...)
	}
	return append(binary.BigEndian.AppendUint32([]byte("\x04deepF"), uint32(len(value))), value...)
}

// takeRaw takes a message whose headers the client cannot read. It has a header that can be read, and entry.
func (p *place) takeRaw(queue, id string, entry []byte) {
	p.Helper()
	link, err := access.Broker{URLs: []string{p.url}}.Link("raw")
	p.try(err)
	defer link.Close()
	s, err := link.Session(p.within(patience))
	p.try(err)
	p.try(s.WithChannel(p.within(patience), func(ch *amqp.Channel) error {
		deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		d := <-deliveries
		var unreadable *wire.UnreadableError
		if err := wire.Unpack(&d); !errors.As(err, &unreadable) || unreadable.All || d.MessageId != id {
			return fmt.Errorf("message %q: %w", d.MessageId, err)
		}
		headers, whole := wire.RawTable(unreadable.Raw).Readable()
		delete(headers, "x-delivery-count")
		if !whole || len(headers) != 1 || headers["tenant"] != "blue" {
			return fmt.Errorf("of message %q these headers can be read: %v", d.MessageId, headers)
		}
		if !bytes.Contains(unreadable.Raw, entry) {
			return fmt.Errorf("message %q has no longer the header that cannot be read, in %d bytes", d.MessageId, len(unreadable.Raw))
		}
		return nil
	}))
}
