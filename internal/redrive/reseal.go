package redrive

import (
	"context"
	"errors"
	"fmt"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/parked"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
)

// reseal has Options.Reseal protect again what a message carries, and says whether it did. p is
// the message as it is to be moved to a queue.
func (o Options) reseal(ctx context.Context, l *queue.Message, to string, p *session.Publishing) (bool, error) {
	if o.Reseal == nil {
		return false, nil
	}
	id, payload := parked.Read(o.HeaderPrefix, l.Delivery, to)
	done, err := o.Reseal(ctx, id, payload)
	switch {
	case err != nil:
		return false, fmt.Errorf("it cannot be sealed again: %w", err)
	case !done:
		return false, nil
	case l.Table != nil:
		return false, errors.New("it cannot be sealed again: the AMQP client cannot read all of its headers")
	}
	p.Message.Body = payload.Body
	if payload.Signature != "" {
		p.Message.Headers[o.HeaderPrefix+harebus.HeaderSignature] = payload.Signature
	}
	return true, nil
}
