package harebus

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wire"
)

// copyOf makes a copy of the message as it came, to be published again: body,
// foreign headers and properties unchanged. Left out are the expiration, because
// the copy would expire inside the delay queues, the user id, which only the
// original sender may set, the headers of the broker, and headers that would end
// the connection.
func (d *delivery) copyOf(op Operation, queue string) *publish.Message {
	in, names := &d.Raw, &d.endpoint.setup.dialect.Names
	headers := d.originalHeaders()
	maps.DeleteFunc(headers, func(key string, _ any) bool { return header.OfBroker(key) })
	id := in.MessageId
	if id == "" {
		id = d.came.id
	}
	if _, ok := headers[names.MessageID]; !ok {
		headers[names.MessageID] = d.came.id
	}
	if dropped := d.disarm(headers); len(dropped) > 0 {
		earlier, _ := field.Text(headers[names.LeftOut])
		headers[names.LeftOut] = header.LeftOut(earlier, dropped, header.MaxLeftOut)
	}
	out := &publish.Message{
		Op: int8(op), Rough: op == OpRetry, Exchange: d.endpoint.setup.routing.Direct, Key: queue, Mandatory: true, ViaDefault: true, Copied: true,
		Publishing: wire.FromDelivery(in),
	}
	msg := &out.Publishing
	msg.Headers, msg.MessageId, msg.DeliveryMode, msg.Expiration = headers, id, amqp.Persistent, ""
	return out
}

// disarm removes the headers that end a connection, and returns their names. If a
// copy has ended connections all the same, it removes every foreign header.
func (d *delivery) disarm(headers amqp.Table) (dropped []string) {
	for key, value := range headers {
		if field.Deadly(value) || d.deadly && !strings.HasPrefix(key, d.endpoint.setup.dialect.Prefix) {
			delete(headers, key)
			dropped = append(dropped, field.Quote(key))
		}
	}
	slices.Sort(dropped)
	return dropped
}

// strip removes the custom headers of a copy that has ended connections.
func (d *delivery) strip(out *publish.Message) {
	d.deadly = true
	dialect, headers := &d.endpoint.setup.dialect, out.Publishing.Headers
	if dropped := d.disarm(headers); len(dropped) > 0 {
		earlier, _ := field.Text(headers[dialect.Names.LeftOut])
		dialect.NameLeftOut(headers, header.LeftOut(earlier, dropped, header.MaxLeftOut))
	}
}

// originalHeaders decodes the headers again: those of the delivery were handed out
// to middleware and handlers, which may have changed them. Headers that cannot be read
// are one header, in bytes.
func (d *delivery) originalHeaders() amqp.Table {
	if d.Unreadable != nil {
		return amqp.Table{d.endpoint.setup.dialect.Names.RawHeaders: d.Unreadable.Raw}
	}
	again := amqp.Delivery{Body: d.Packed}
	if err := wire.Unpack(&again); err != nil || again.Headers == nil {
		return amqp.Table{} // it could be unpacked before
	}
	return again.Headers
}

// copyFor makes the copy of a message that has failed, which says how often,
// where and why.
func (d *delivery) copyFor(op Operation, queue string, cause error) *publish.Message {
	out := d.copyOf(op, queue)
	names, headers := &d.endpoint.setup.dialect.Names, out.Publishing.Headers
	headers[names.ErrorRetries] = field.SmallestInt(d.failures + 1)
	headers[names.ErrorDetails] = header.ErrorDetails(cause)
	if earlier, _ := field.Text(headers[names.LeftOut]); earlier != "" {
		d.endpoint.setup.dialect.NameLeftOut(headers, header.LeftOut(earlier, nil, header.MaxLeftOut))
	}
	first := d.came.firstFailed
	if first.IsZero() {
		first = time.Now()
	}
	headers[names.FirstFailed] = header.ISOTime(first) // only harebus reads it
	if d.came.sourceQueue == "" {
		headers[names.SourceQueue] = d.endpoint.queue
	}
	return out
}

// asItCame is the content of a copy of a message exactly as it came: packed are its
// properties and its body. A copy has a new delivery count, no user id, which only its
// owner may set, and no CC, because the message has been sent to these queues already.
func asItCame(packed []byte) (amqp.Publishing, error) {
	again := amqp.Delivery{Body: packed}
	if err := wire.Unpack(&again); err != nil {
		return amqp.Publishing{}, err
	}
	p := wire.FromDelivery(&again)
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool { return wire.OfOneDelivery(key) })
	return p, nil
}

// renew publishes deliveries to their queue again, as they came, and returns an error for
// each.
func (e *endpoint) renew(ctx context.Context, ds []*consume.Delivery) []error {
	errs := make([]error, len(ds))
	var outs []*publish.Message
	var places []int
	for i, d := range ds {
		p, err := asItCame(d.Packed)
		if err != nil {
			errs[i] = err
			continue
		}
		outs, places = append(outs, &publish.Message{
			Op: int8(OpRetry), Exchange: e.setup.routing.Direct, Key: e.queue, Mandatory: true, ViaDefault: true, Publishing: p,
		}), append(places, i)
	}
	eng, err := e.setup.engine()
	if err != nil {
		for _, i := range places {
			errs[i] = err
		}
		return errs
	}
	for k, err := range eng.publisher.PublishAll(ctx, outs) {
		errs[places[k]] = err
	}
	return errs
}
