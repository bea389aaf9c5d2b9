package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/resend"
)

// Envelope is one message ready for the wire: composed, checked and addressed, and not sent yet. [Tx.Detach] returns
// the envelopes of a transaction, [Message.Envelope] makes one of a received message, and [Bus.Forward] publishes them.
// Between the two an envelope can be stored: its exchange, routing key and body as they are, the rest as
// [Envelope.Head]. An Envelope does not change; whoever shares one must not write into its Body. The zero Envelope is
// none, and Forward refuses it.
type Envelope struct{ message *publish.Message }

// Exchange is where the envelope is published; empty is the default exchange.
func (e Envelope) Exchange() string { return e.get().Exchange }

// RoutingKey is the routing key that it is published with.
func (e Envelope) RoutingKey() string { return e.get().Key }

// MessageID is the id that every copy of the message carries.
func (e Envelope) MessageID() string { return e.get().Publishing.MessageId }

// Type is the wire name of the message's type; empty if it has none.
func (e Envelope) Type() string { return e.get().Publishing.Type }

// Body is the payload as it will be sent.
func (e Envelope) Body() []byte { return e.get().Publishing.Body }

// Due is the time before which the message is not to be delivered; zero is at once.
func (e Envelope) Due() time.Time { return e.get().Due }

func (e Envelope) get() *publish.Message {
	if e.message == nil {
		return &publish.Message{}
	}
	return e.message
}

// Head is everything of the envelope but its exchange, routing key and body, in a form that every later version of
// harebus reads. It has a few hundred bytes. An error matches [ErrRefused].
func (e Envelope) Head() ([]byte, error) {
	if e.message == nil {
		return nil, refuse("head", "%w", errNoEnvelope)
	}
	head, err := e.message.Head()
	if err != nil {
		return nil, refuse("head", "%w", err)
	}
	return head, nil
}

var errNoEnvelope = errors.New("the envelope is empty; take one from Tx.Detach, Message.Envelope or OpenEnvelope")

// OpenEnvelope makes an envelope of what was stored of one. It checks what it is given, and its errors match
// [ErrRefused]: a head of a later version of harebus, or one that was cut off, is no envelope. The body is not copied.
func OpenEnvelope(exchange, routingKey string, head, body []byte) (Envelope, error) {
	fail := func(format string, args ...any) (Envelope, error) {
		return Envelope{}, refuse("open envelope", format, args...)
	}
	m, err := publish.OpenHead(head)
	if err != nil {
		return fail("%w", err)
	}
	if op := Operation(m.Op); !slices.Contains([]Operation{OpSend, OpPublish, OpDefer, OpReply, OpForward, OpCancel}, op) {
		return fail("the head has the unknown operation %d", m.Op)
	}
	m.Exchange, m.Key, m.Publishing.Body = exchange, routingKey, body
	if n := len(m.Publishing.Headers); n > header.MaxEntries {
		return fail("the head has %d headers, more than %d", n, header.MaxEntries)
	}
	if err := errors.Join(m.AddressFaults()...); err != nil {
		return fail("%w", err)
	}
	return Envelope{m}, nil
}

// Detach ends the transaction and returns what it buffered, in order, instead of publishing it: to be stored, in the
// database transaction whose effects the messages tell of, and published later with [Bus.Forward]. Nothing is sent and
// no connection is made. Ids, times and the due time of deferred messages are already set. A transaction that has ended
// fails with [ErrHandlerReturned]. Begin the transaction with [Bus.Begin]: [Bus.Transaction] would commit it afterwards
// and fail.
func (t *Tx) Detach() ([]Envelope, error) {
	outs, err := t.scope.End()
	if err != nil {
		return nil, fmt.Errorf("harebus: detach: %w", err)
	}
	return envelopes(outs), nil
}

func envelopes(outs []*publish.Message) []Envelope {
	sealed := make([]Envelope, len(outs))
	for i, out := range outs {
		sealed[i] = Envelope{out}
	}
	return sealed
}

// Forward publishes envelopes in order and returns an error for each: nil once the broker has confirmed it, else a
// [*PublishError]. It returns when every outcome is known, or ctx has ended. A message that no queue takes fails at
// once, without the further attempts of Send, because the caller still has the envelope. Envelopes that were not
// confirmed can be forwarded again; all copies carry the same message id. An envelope that is due later waits in the
// delay queues. Send middleware does not see envelopes again.
//
// In a handler the envelopes join the handler's transaction, as those of Send do: then the errors say only whether they
// were buffered.
func (b *Bus) Forward(ctx context.Context, envelopes []Envelope) []error {
	errs := make([]error, len(envelopes))
	outs, places := sealed(envelopes, errs)
	if len(outs) == 0 {
		return errs
	}
	fail := func(err error) []error {
		for _, i := range places {
			errs[i] = err
		}
		return errs
	}
	if scope := b.within(ctx).scope; scope != nil {
		return fail(add(scope, outs...))
	}
	publisher, err := b.endpoint.setup.publisher()
	if err != nil {
		return fail(fmt.Errorf("harebus: forward: %w", err))
	}
	ctx, op := b.endpoint.setup.observers.start(ctx, Observation{Operation: OpForward, Messages: len(outs)})
	for k, err := range publisher.PublishAll(ctx, outs) {
		errs[places[k]] = err
	}
	reached(op, outs...)
	op.End(errors.Join(errs...))
	return errs
}

// sealed are the messages of envelopes that can be published, with their places; for the others it fills in errs.
func sealed(envelopes []Envelope, errs []error) (outs []*publish.Message, places []int) {
	for i, e := range envelopes {
		if e.message == nil {
			errs[i] = refuse("forward", "%w", errNoEnvelope)
			continue
		}
		out := *e.message // attempts take notes in it
		out.Once = true
		if !out.Due.IsZero() { // and leave out the header of a time that has come
			out.Publishing.Headers = maps.Clone(out.Publishing.Headers)
		}
		outs, places = append(outs, &out), append(places, i)
	}
	return outs, places
}

// Envelope makes a copy of a received message, exactly as it came, for another exchange and routing key: to pass a
// message on, or to put one back that was parked. An empty exchange leads to the queue that the routing key names.
// Body, properties and headers, the standard ones included, are those that the broker delivered, also if m was changed
// since. Left out are only the user id, which only its owner may set, the headers CC and BCC, which route to further
// queues, and the broker's counts of deliveries. A message that no broker has delivered is refused ([ErrRefused]).
func (m *Message) Envelope(exchange, routingKey string) (Envelope, error) {
	if m.packed == nil {
		return Envelope{}, refuse("envelope", "message %q was not delivered by a broker", m.ID)
	}
	p, err := resend.AsItCame(m.packed)
	if err != nil {
		return Envelope{}, refuse("envelope", "message %q: %w", m.ID, err)
	}
	out := &publish.Message{
		Op: int8(OpForward), Exchange: exchange, Key: routingKey, Mandatory: true,
		Foreign: exchange != "", Several: exchange != "", Publishing: p,
	}
	if err := errors.Join(out.AddressFaults()...); err != nil {
		return Envelope{}, refuse("envelope", "%w", err)
	}
	return Envelope{out}, nil
}
