package answers

import (
	"context"
	"fmt"

	"github.com/harebus/harebus"
)

// header asks for an acknowledgement.
const header = "Harebus.WhenHandled"

// Handled says that a command was handled: its handler has returned nil, and what it sent is on its way. Its correlation id is that of
// the command.
type Handled struct {
	// MessageID and Type are those of the command.
	MessageID string `json:"messageId"`
	Type      string `json:"type"`
}

// MessageType is the wire name harebus.Handled.
func (Handled) MessageType() string { return "harebus.Handled" }

// WhenHandled asks the receiver of a command for a [Handled], which comes to the listener queue of the sender, or to the queue of
// [harebus.WithReplyTo]; handle it like any message. harebus.Request[answers.Handled] waits for it. The receiver needs
// [Acknowledge]; others ignore the option. A setup without a queue needs WithReplyTo as well: without it Acknowledge parks the command
// before it is handled. There is no word of a command that fails: see package failed, or use Request.
func WhenHandled() harebus.SendOption { return harebus.WithHeader(header, true) }

var errNoAddress = fmt.Errorf("answers: acknowledge: %w; its sender has no queue and must pass WithReplyTo", harebus.ErrNoReplyAddress)

// Acknowledge is a middleware for receivers: it replies with a [Handled] to the commands that ask for it, when their handler has
// returned nil. The reply is published with what the handler sent, before the command is acknowledged: so it may come twice, with
// one id, and never without the rest. Nobody needs to take it: a sender that has gone does not make the handler fail. An address
// that Config.Reply does not allow does, as with [harebus.Bus.Reply]. Let it be the innermost middleware. It is for handlers that do not reply themselves.
func Acknowledge(next harebus.HandlerFunc) harebus.HandlerFunc {
	return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		id, of := m.ID, m.Type
		asked, _ := m.Headers[header].(bool)
		if asked && m.ReplyTo == "" {
			return harebus.NoRetry(errNoAddress)
		}
		if err := next(ctx, bus, m); err != nil || !asked {
			return err
		}
		return bus.Reply(ctx, Handled{MessageID: id, Type: of}, harebus.NonMandatory())
	}
}
