package harebus

import (
	"context"
	"time"
)

// Guard protects what a message carries: it encrypts or signs it as the last step on the way
// out, and opens or verifies it as the first step on the way in. Package seal has guards. A
// Guard is safe for concurrent use.
type Guard interface {
	// Protect changes the payload of a message that is sent, or leaves it as it is. id and
	// p are as the receiver will see them; compression is done. If Protect fails, the
	// message is not sent.
	Protect(ctx context.Context, id *Identity, p *Payload) error
	// Admit undoes what Protect has done, before a handler is chosen, or leaves the payload
	// as it is when the guard does not know it. A [*RejectError] parks the message. Any other
	// error is a failure of the message, which [NoRetry] and [Postpone] can qualify. Retries
	// and parked copies are made of the message as it came.
	Admit(ctx context.Context, id *Identity, p *Payload) error
}

// Identity is what a message says of itself, for a [Guard] that binds it to the payload. It
// is the same for the sender and for every receiver, also after retries, delays and parking.
// Guards must not change it.
type Identity struct {
	ID, CorrelationID, Type     string
	Intent                      Intent
	ReplyTo, OriginatingAddress string
	AppID                       string
	TimeSent                    time.Time
	Hops                        int
	// Headers are all of the message. Which ones stay the same on the way is for the guard
	// to know: CustomHeaders of a [Message] are those of the sender.
	Headers map[string]any

	// Exchange, RoutingKey and NotBefore are where a message is sent, and when it is due.
	// They are empty for Admit, because delays and retries change them.
	Exchange, RoutingKey string
	NotBefore            time.Time
	// Queue is, for Admit, the queue from which the message was received.
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
	// Confidential is set by Admit: then errors about the message reach the error queue, logs
	// and observers without their texts, which could quote it.
	Confidential bool
	// DueAt is set by Admit to the time before which the message must not be handled, if the
	// guard knows it better than the headers.
	DueAt time.Time
}
