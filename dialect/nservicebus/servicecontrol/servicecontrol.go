// Package servicecontrol tells ServiceControl, the server behind ServicePulse, that a message which it has sent back was handled. Without that ServicePulse shows the retry as
// pending for ever.
package servicecontrol

import (
	"context"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
)

// The headers of a message that ServiceControl sends back, and of the confirmation.
const (
	failure    = "ServiceControl.Retry.UniqueMessageId"
	confirmTo  = "ServiceControl.Retry.AcknowledgementQueue"
	successful = "ServiceControl.Retry.Successful"
	control    = "NServiceBus.ControlMessage"
)

// Confirm is a middleware for receivers: when the handler of a message that ServiceControl has sent back has returned nil, it sends the confirmation to queue, the error queue that ServiceControl reads.
// A message that names another queue, as any sender could write, is not confirmed. The confirmation is published with what the handler sent, before the message is
// acknowledged: so it may come twice, with one id, which does not matter to ServiceControl. If the queue is gone, nothing is said.
func Confirm(queue string) harebus.Middleware {
	return func(next harebus.HandlerFunc) harebus.HandlerFunc {
		return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			id := field.Said(m.Headers[failure])
			asked := id != "" && queue != "" && field.Said(m.Headers[confirmTo]) == queue
			if err := next(ctx, bus, m); err != nil || !asked {
				return err
			}
			return bus.Send(ctx, queue, struct{}{}, harebus.WithType("ServiceControl.RetryConfirmation"), harebus.As(confirmation{id}), harebus.NonMandatory())
		}
	}
}

// confirmation writes the message, which has no body and no type.
type confirmation struct{ id string }

// Name is nservicebus.
func (confirmation) Name() string { return "nservicebus" }

// Read reads nothing.
func (confirmation) Read(*dialect.Wire) (*dialect.Envelope, bool, error) { return nil, false, nil }

// Write writes the headers alone.
func (c confirmation) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	w.Properties.MessageID = e.ID
	w.Headers["NServiceBus.MessageId"], w.Headers[control], w.Headers[failure] = e.ID, "True", c.id
	w.Headers[successful] = strings.Replace(time.Now().UTC().Format("2006-01-02 15:04:05.000000 Z"), ".", ":", 1)
	return w, nil
}
