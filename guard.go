package harebus

import (
	"errors"
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/coding"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wire"

	"context"
	"time"
)

// Guard protects what a message carries: it encrypts or signs it as the last step on the way out, and opens or verifies
// it as the first step on the way in. Package seal has guards. A Guard is safe for concurrent use.
type Guard interface {
	// Protect changes the payload of a message that is sent, or leaves it as it is. id and p are as the receiver will
	// see them; compression is done. If Protect fails, the message is not sent.
	Protect(ctx context.Context, id *Identity, p *Payload) error
	// Admit undoes what Protect has done, before a handler is chosen, or leaves the payload as it is when the guard
	// does not know it. A [*RejectError] parks the message. Any other error is a failure of the message, which
	// [NoRetry] and [Postpone] can qualify. Retries and parked copies are made of the message as it came.
	Admit(ctx context.Context, id *Identity, p *Payload) error
}

// Identity is what a message says of itself, for a [Guard] that binds it to the payload. All but the last five fields
// are the same for the sender and for every receiver, also after retries, delays and parking. Guards must not change
// it.
type Identity struct {
	ID, CorrelationID, Type     string
	Intent                      Intent
	ReplyTo, OriginatingAddress string
	AppID                       string
	TimeSent                    time.Time
	Hops                        int
	// Headers are all of the message. Bind single ones by their names, and not all: the broker, retries and observers
	// (a trace context) add headers, and a copy of a message too large to be parked can lack some, but none that a
	// method Bound() []string of the Guard names while others can go.
	Headers map[string]any

	// Exchange, RoutingKey and NotBefore are where a message is sent, and when it is due. They are empty for Admit,
	// because delays and retries change them.
	Exchange, RoutingKey string
	NotBefore            time.Time
	// Queue is, for Admit, the queue from which the message was received. For Protect it is the queue to which a
	// command is sent by its name, and empty for other messages.
	Queue string
}

// Payload is what a message carries.
type Payload struct {
	// ContentType and ContentEncoding describe Body.
	ContentType, ContentEncoding string
	// Body is replaced and never changed in place.
	Body []byte
	// Signature is a proof that travels beside the body, in the header PikaBus.Signature.
	Signature string
	// Confidential is set by Admit: then errors about the message reach the error queue, logs and observers without
	// their texts, which could quote it. Code of this process gets them: the retry policy, the ErrorHandler, the
	// function of WithGivenUp, the caller of Request.
	Confidential bool
	// DueAt is set by Admit to the time before which the message must not be handled, if the protected payload contains
	// it.
	DueAt time.Time
}

// identityOf is what a message on the wire says of itself.
func (e *endpoint) identityOf(in *wire.Delivery) Identity {
	h, _, _ := e.setup.peers.Read(in) // a fault leaves the field empty, for both sides
	return Identity{
		ID: h.ID, CorrelationID: h.CorrelationID, Type: h.Type, Intent: Intent(h.Intent),
		ReplyTo: h.ReplyTo, OriginatingAddress: h.OriginatingAddress, AppID: in.AppId,
		TimeSent: h.TimeSent, Hops: h.Hops, Headers: in.Headers,
	}
}

// protect has the guards protect an outgoing message.
func (e *endpoint) protect(ctx context.Context, out *publish.Message) error {
	guards := e.setup.cfg.Payload.Guards
	if len(guards) == 0 {
		return nil
	}
	id := e.identityOf(out.AsDelivered())
	id.Exchange, id.RoutingKey, id.NotBefore = out.Exchange, out.Key, out.Due
	if id.Intent != IntentEvent && !out.Foreign {
		id.Queue = out.Key
	}
	msg := &out.Publishing
	p := Payload{ContentType: msg.ContentType, ContentEncoding: msg.ContentEncoding, Body: msg.Body}
	for _, g := range guards {
		if err := g.Protect(ctx, &id, &p); err != nil {
			return err
		}
	}
	msg.Body = p.Body
	e.setup.dialect.Describe(msg, p.ContentType, p.ContentEncoding, p.Signature)
	return nil
}

// opened is what the guards have reported.
type opened struct {
	confidential bool
	dueAt        time.Time
}

// open undoes what the sender's guards and compression have done with a message. in is how it came.
func (e *endpoint) open(ctx context.Context, m *Message, in *wire.Delivery, queue string) (opened, error) {
	guards := e.setup.cfg.Payload.Guards
	var o opened
	if len(guards) > 0 {
		id := e.identityOf(in)
		id.Queue = queue
		p := Payload{ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, Body: m.Body}
		p.Signature, _ = field.Text(in.Headers[e.setup.dialect.Names.Signature])
		for _, g := range slices.Backward(guards) {
			if err := foreign.Call(func() error { return g.Admit(ctx, &id, &p) }); err != nil {
				return opened{confidential: p.Confidential}, err
			}
		}
		m.ContentType, m.ContentEncoding, m.Body = p.ContentType, p.ContentEncoding, p.Body
		o = opened{p.Confidential, p.DueAt}
	}
	if err := e.expand(m); err != nil {
		return o, err
	}
	if limit := e.setup.cfg.Payload.MaxBody; len(m.Body) > limit {
		return o, reject("too-large", "the body has %d bytes, more than %d", len(m.Body), limit)
	}
	return o, nil
}

// expand decompresses the body of a message.
func (e *endpoint) expand(m *Message) error {
	if m.ContentEncoding == "" || m.ContentEncoding == "utf-8" {
		return nil
	}
	name, charset := coding.Split(m.ContentEncoding, func(name string) bool { return e.setup.codings[name] != nil })
	if name == "" {
		return nil
	}
	limit := e.setup.cfg.Payload.MaxBody
	var body []byte
	err := foreign.Call(func() (err error) {
		body, err = e.setup.codings[name].Decompress(m.Body, limit)
		return err
	})
	switch {
	case err == nil && len(body) <= limit:
		m.Body, m.ContentEncoding = body, charset
		return nil
	case err == nil, errors.Is(err, ErrBodyTooLarge):
		return reject("too-large", "the %s body has more than %d bytes when it is decompressed", name, limit)
	case errors.Is(err, ErrNoDictionary):
		return fmt.Errorf("harebus: decompress the body with %s: %w", name, err)
	default:
		return reject("bad-payload", "decompress the body with %s: %w", name, err)
	}
}
