package resend

import (
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/fingerprint"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/streams"
	"github.com/harebus/harebus/internal/wire"
)

// copyTo makes a copy of the message as it came, to be published to a queue: body,
// foreign headers and properties unchanged. Left out are the expiration, because
// the copy would expire inside the delay queues, the user id, which only the
// original sender may set, the headers of the broker, and headers that would end
// the connection.
func (c *Case) copyTo(queue string) *publish.Message {
	in, names := &c.On.Raw, &c.Queue.Dialect.Names
	headers := c.originalHeaders()
	c.keepDeaths(headers)
	maps.DeleteFunc(headers, func(key string, _ any) bool { return header.OfBroker(key) })
	id := in.MessageId
	if id == "" {
		id = c.ID
	}
	if _, ok := headers[names.MessageID]; !ok {
		headers[names.MessageID] = c.ID
	}
	if c.Dialect != "" {
		headers[names.Dialect] = c.Dialect
	}
	c.Queue.leaveOut(headers, c.disarm(headers))
	c.Queue.keepIntent(headers, in.Exchange)
	out := &publish.Message{
		Exchange: c.Queue.Exchange, Key: queue, Mandatory: true, ViaDefault: true, Copied: true, Publishing: wire.FromDelivery(in),
	}
	msg := &out.Publishing
	msg.Headers, msg.MessageId, msg.DeliveryMode, msg.Expiration = headers, id, amqp.Persistent, ""
	return out
}

// keepIntent says in a copy that it is an event, if nothing but the exchange from which it came has said so: a copy passes another one.
func (q *Queue) keepIntent(headers amqp.Table, exchange string) {
	if _, said := headers[q.Dialect.Names.Intent]; !said && exchange != "" && exchange == q.Events {
		headers[q.Dialect.Names.Intent] = header.Event
	}
}

// keepDeaths keeps what the broker has noted about a message that was dead-lettered before it came here
// for the first time, with the prefix: the broker takes the notes of a copy for its own, and stops what goes round
// in circles.
func (c *Case) keepDeaths(headers amqp.Table) {
	names, prefix := &c.Queue.Dialect.Names, c.Queue.Dialect.Prefix
	if _, copied := headers[names.MessageID]; copied {
		return
	}
	for _, key := range slices.Collect(maps.Keys(headers)) {
		if key == "x-death" || strings.HasPrefix(key, "x-first-death-") {
			headers[prefix+key] = headers[key]
		}
	}
}

// disarm removes the headers that end a connection, and returns their names. If a
// copy has ended connections all the same, it removes every foreign header.
func (c *Case) disarm(headers amqp.Table) (dropped []string) {
	return disarm(headers, func(key string) bool { return c.Deadly && !strings.HasPrefix(key, c.Queue.Dialect.Prefix) })
}

// disarm removes the headers that end a connection, and those that are suspected, and returns their names.
func disarm(headers amqp.Table, suspected func(key string) bool) (dropped []string) {
	for key, value := range headers {
		if field.Deadly(value) || suspected(key) {
			delete(headers, key)
			dropped = append(dropped, field.Quote(key))
		}
	}
	slices.Sort(dropped)
	return dropped
}

// leaveOut writes down which headers were removed.
func (q *Queue) leaveOut(headers amqp.Table, dropped []string) {
	if len(dropped) > 0 {
		name := q.Dialect.Names.LeftOut
		earlier, _ := field.Text(headers[name])
		headers[name] = header.LeftOut(earlier, dropped, header.MaxLeftOut)
	}
}

// strip removes the custom headers of a copy that has ended connections.
func (c *Case) strip(out *publish.Message) {
	c.Deadly = true
	own, headers := c.Queue.Dialect, out.Publishing.Headers
	if dropped := c.disarm(headers); len(dropped) > 0 {
		earlier, _ := field.Text(headers[own.Names.LeftOut])
		own.NameLeftOut(headers, header.LeftOut(earlier, dropped, header.MaxLeftOut))
	}
}

// originalHeaders decodes the headers again: those of the delivery were handed out
// to middleware and handlers, which may have changed them. If the headers
// cannot be decoded, their raw bytes become one header.
func (c *Case) originalHeaders() amqp.Table {
	if c.On.Unreadable != nil {
		return amqp.Table{c.Queue.Dialect.Names.RawHeaders: c.On.Unreadable.Raw}
	}
	again := amqp.Delivery{Body: c.On.Packed}
	if err := wire.Unpack(&again); err != nil || again.Headers == nil {
		return amqp.Table{} // it could be unpacked before
	}
	return again.Headers
}

// ReplyBy is until when the sender of the message waits for a reply; zero if it does not.
func (c *Case) ReplyBy() time.Time { return c.Queue.Dialect.ReplyBy(c.originalHeaders()) }

// failedCopy makes the copy of a message that has failed, which says how often, where and
// why.
func (c *Case) failedCopy(queue string, cause error) *publish.Message {
	out := c.copyTo(queue)
	names, headers := &c.Queue.Dialect.Names, out.Publishing.Headers
	headers[names.ErrorRetries] = field.SmallestInt(c.Failures + 1)
	headers[names.ErrorDetails] = header.ErrorDetails(cause)
	if earlier, _ := field.Text(headers[names.LeftOut]); earlier != "" {
		c.Queue.Dialect.NameLeftOut(headers, header.LeftOut(earlier, nil, header.MaxLeftOut))
	}
	first := c.FirstFailed
	if first.IsZero() {
		first = time.Now()
	}
	headers[names.FirstFailed] = header.ISOTime(first) // only harebus reads it
	if c.SourceQueue == "" {
		headers[names.SourceQueue] = c.Queue.Name
	}
	if c.On.Reads() {
		if offset, err := streams.OffsetOf(&amqp.Delivery{Headers: c.originalHeaders()}, c.On.Unreadable); err == nil { // it had one when it came
			headers[names.StreamOffset] = offset
		}
		delete(headers, names.Replayed) // into the stream, perhaps; here it would say that this was a queue
	}
	return out
}

// Failure is a cause that knows what groups of failures are made of.
type Failure interface {
	error
	// ErrorKind is the reason for which the message was rejected, or "panic", "timeout" or "error".
	ErrorKind() string
	// ErrorTypes are the types of the error and of those that it wraps.
	ErrorTypes() string
}

// describe writes into a copy for the error queue what tells this parking from others: one of
// its own id, and the fingerprint of the cause. It returns the kind of that.
func (c *Case) describe(headers amqp.Table, cause error) (kind string) {
	own := c.Queue.Dialect
	own.NoteAttempt(headers, time.Now(), c.Failures == 0)
	kind, group := Group(cause)
	own.DescribeParking(headers, messageid.New(), kind, group)
	return kind
}

// note writes into a copy for the error queue what the tools of the bus that wrote the message need of a failed one, if there is much room. They would send one
// of a stream back into it, where every reader would get it.
func (c *Case) note(out *publish.Message, kind string, cause error) {
	if c.Notes == nil || c.On.Reads() {
		return
	}
	headers, own := out.Publishing.Headers, c.Queue.Dialect
	queue, _ := field.Text(headers[own.Names.SourceQueue])
	text, stack, _ := strings.Cut(header.ErrorDetails(cause), foreign.StackMark)
	notes := c.Notes(dialect.Failure{Queue: queue, Kind: kind, Text: text, Stack: stack, At: time.Now()})
	if publish.HeaderFrame(&out.Publishing)+field.Size(notes) > c.On.Session().FrameMax()/2 || len(headers)+len(notes) > header.MaxEntries/2 {
		return
	}
	for key, value := range notes {
		if !strings.HasPrefix(key, own.Prefix) {
			headers[key] = value
		}
	}
}

// Group returns the kind of a failure, and the fingerprint that it has in common with others of its kind.
func Group(cause error) (kind, group string) {
	kind, types := "error", ""
	if f, ok := cause.(Failure); ok { //nolint:errorlint // what it wraps is foreign code
		kind, types = f.ErrorKind(), f.ErrorTypes()
	}
	return kind, fingerprint.Of(kind, types, fingerprint.Text(header.ErrorDetails(cause)))
}

// AsItCame is the content of a copy of a message exactly as it came: packed are its
// properties and its body. A copy has a new delivery count, no user id, which only its
// owner may set, and no CC, because the message has been sent to these queues already.
func AsItCame(packed []byte) (amqp.Publishing, error) {
	again := amqp.Delivery{Body: packed}
	if err := wire.Unpack(&again); err != nil {
		return amqp.Publishing{}, err
	}
	p := wire.FromDelivery(&again)
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool { return wire.OfOneDelivery(key) })
	return p, nil
}
