package harebus

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/consume"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wire"
)

// copyOf makes a copy of the message as it came, to be published again: body,
// foreign headers and properties unchanged. Left out are the expiration, because
// the copy would expire inside the delay queues, the user id, which only the
// original sender may set, the headers of the broker, and headers that would end
// the connection.
func (d *delivery) copyOf(op Operation, queue string) *publish.Message {
	in, names := &d.Raw, &d.endpoint.setup.dialect.names
	headers := d.originalHeaders()
	maps.DeleteFunc(headers, func(key string, _ any) bool { return brokerHeader(key) })
	id := in.MessageId
	if id == "" {
		id = d.came.id
	}
	if _, ok := headers[names.messageID]; !ok {
		headers[names.messageID] = d.came.id
	}
	if dropped := d.disarm(headers); len(dropped) > 0 {
		earlier, _ := field.Text(headers[names.leftOut])
		headers[names.leftOut] = leftOut(earlier, dropped, maxLeftOut)
	}
	out := &publish.Message{
		Op: int8(op), Rough: op == OpRetry, Exchange: d.endpoint.setup.cfg.Exchanges.Direct, Key: queue, Mandatory: true, ViaDefault: true, Copied: true,
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
		if field.Deadly(value) || d.deadly && !strings.HasPrefix(key, d.endpoint.setup.dialect.prefix) {
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
		earlier, _ := field.Text(headers[dialect.names.leftOut])
		dialect.nameLeftOut(headers, leftOut(earlier, dropped, maxLeftOut))
	}
}

// originalHeaders decodes the headers again: those of the delivery were handed out
// to middleware and handlers, which may have changed them. Headers that cannot be read
// are one header, in bytes.
func (d *delivery) originalHeaders() amqp.Table {
	if d.Unreadable != nil {
		return amqp.Table{d.endpoint.setup.dialect.names.rawHeaders: d.Unreadable.Raw}
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
	names, headers := &d.endpoint.setup.dialect.names, out.Publishing.Headers
	headers[names.errorRetries] = field.SmallestInt(d.failures + 1)
	headers[names.errorDetails] = errorDetails(cause)
	if earlier, _ := field.Text(headers[names.leftOut]); earlier != "" {
		d.endpoint.setup.dialect.nameLeftOut(headers, leftOut(earlier, nil, maxLeftOut))
	}
	first := d.came.firstFailed
	if first.IsZero() {
		first = time.Now()
	}
	headers[names.firstFailed] = TimeISO.format(first) // only harebus reads it
	if d.came.sourceQueue == "" {
		headers[names.sourceQueue] = d.endpoint.queue
	}
	return out
}

// errorDetails is the text of a failure as valid UTF-8 of bounded length.
func errorDetails(cause error) string {
	return shorten(strings.ToValidUTF8(cause.Error(), "\uFFFD"), maxErrorDetails)
}

// maxErrorDetails bounds the text of a failure that travels with a message.
const maxErrorDetails = 8 << 10

// shorten cuts valid UTF-8 to at most so many bytes, and says so.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const mark = " … (cut)"
	cut := most - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}

// fit makes sure that the message can be sent and read: its headers fit into a frame
// of frameMax bytes, of which the broker needs room on the way, and there are no more
// of them than a client reads. Without this, a message that is too large to be parked
// would fail for ever. Headers that do not fit are left out, custom headers before
// standard ones and the largest first, and named in the error details of this failure
// and all later ones. If the frame is small, the error details are shortened, too.
func (d *dialect) fit(msg *amqp.Publishing, frameMax, room int) {
	headers := msg.Headers
	excess, surplus := publish.HeaderFrame(msg)+room-frameMax, len(headers)-maxEntries
	if excess <= 0 && surplus <= 0 {
		return
	}
	share := min(frameMax/8, maxErrorDetails)
	names := share / 8 // for the names of what is left out
	if details, _ := headers[d.names.errorDetails].(string); excess > 0 && len(details) > share {
		headers[d.names.errorDetails] = shorten(details, share)
		excess -= len(details) - share
	}
	var dropped []string
	for _, key := range d.expendable(headers) {
		if excess <= 0 && surplus <= 0 {
			break
		}
		if len(dropped) == 0 { // the first one needs room for the names
			excess += 4 * names
			surplus += 2
		}
		excess -= field.EntrySize(key, headers[key])
		surplus--
		delete(headers, key)
		dropped = append(dropped, field.Quote(key))
	}
	if len(dropped) > 0 {
		earlier, _ := field.Text(headers[d.names.leftOut])
		d.nameLeftOut(headers, leftOut(earlier, dropped, min(names, maxLeftOut)))
	}
}

// maxLeftOut bounds the list of the headers that were left out.
const maxLeftOut = 400

// leftOut adds to the list of the headers that were left out, in at most so many bytes.
func leftOut(earlier string, dropped []string, most int) string {
	const more = "…"
	if earlier != "" {
		dropped = append([]string{earlier}, dropped...)
	}
	all := strings.Join(dropped, ", ")
	if len(all) <= most {
		return all
	}
	return strings.ToValidUTF8(strings.TrimSuffix(all[:most-len(more)], more), "") + more
}

// nameLeftOut writes which headers are left out: into the error details, and for
// the copies that follow into a header of its own.
func (d *dialect) nameLeftOut(headers amqp.Table, all string) {
	note := func(list string) string {
		return "(headers left out because they do not fit or cannot be sent: " + list + ")\n"
	}
	details, _ := headers[d.names.errorDetails].(string)
	if earlier, _ := field.Text(headers[d.names.leftOut]); earlier != "" {
		details = strings.TrimPrefix(details, note(earlier))
	}
	headers[d.names.leftOut] = all
	headers[d.names.errorDetails] = shorten(note(all)+details, maxErrorDetails)
}

// expendable lists the headers that may be left out of a failed message, in the
// order in which they are left out.
func (d *dialect) expendable(headers amqp.Table) []string {
	needed := []string{d.names.messageID, d.names.errorRetries, d.names.sourceQueue, d.names.deferredTime, d.names.firstFailed, d.names.leftOut, d.names.parking}
	keys := make([]string, 0, len(headers))
	for key, value := range headers {
		text, isText := value.(string)
		switch {
		case key == d.names.errorDetails && isText && len(text) <= maxErrorDetails:
			continue // it was shortened
		case slices.Contains(needed, key) && field.EntrySize(key, value) <= 2*maxShortString:
			continue
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if custom := strings.HasPrefix(a, d.prefix); custom != strings.HasPrefix(b, d.prefix) {
			if custom {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(field.EntrySize(b, headers[b]), field.EntrySize(a, headers[a])), cmp.Compare(a, b))
	})
	return keys
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
			Op: int8(OpRetry), Exchange: e.setup.cfg.Exchanges.Direct, Key: e.queue, Mandatory: true, ViaDefault: true, Publishing: p,
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
