package harebus

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/resend"
)

// WithGivenUp calls fn when a message of the handler is about to be moved to the
// error queue, with the error of the last attempt. For example, it can report the
// failure to the service that waits for the result.
//
// Messages that fn sends with bus are published before the message is parked. If fn
// fails, panics, or takes longer than the handler timeout (5 minutes if the handler
// has none), that is logged, its messages are discarded, and the message is parked
// all the same. A crash in between repeats both, with the same message ids. fn is
// not called for a message without a handler, nor when an [ErrorHandler] discards
// the message. With the option several times all functions are called, in that order.
func WithGivenUp(fn func(ctx context.Context, bus *Bus, m *Message, err error) error) HandlerOption {
	return handlerOption(func(h *handler) {
		if fn != nil {
			h.givenUp = append(h.givenUp, fn)
		}
	})
}

// Failed is a message that is about to be moved to the error queue, for Config.Handling.GivenUp.
type Failed struct {
	// Message is as far as it could be read.
	*Message
	// Kind and Group are the headers ErrorKind and ErrorGroup of the parked copy, which package
	// errorqueue explains. They hold nothing of the message.
	Kind, Group string
}

// giveUp calls the functions for messages that are given up. It returns false when nothing can
// be sent now; then the message must be delivered again.
func (d *delivery) giveUp(cause *failure) bool {
	h, all := d.handler, d.endpoint.cfg.Handling
	for i := 0; h != nil && i < len(h.givenUp); i++ {
		if !d.tell("WithGivenUp", h.origin+strings.Repeat("\x00", i), h.timeout, func(ctx context.Context, bus *Bus, m *Message) error {
			return h.givenUp[i](ctx, bus, m, d.felt.shown())
		}) {
			return false
		}
	}
	return all.GivenUp == nil || d.tell("Config.Handling.GivenUp", d.endpoint.queue+"\x00\x00", all.Timeout, func(ctx context.Context, bus *Bus, m *Message) error {
		kind, group := resend.Group(cause)
		return all.GivenUp(ctx, bus, Failed{m, kind, group})
	})
}

// tell calls a function for a message that is given up, and publishes what it sent.
func (d *delivery) tell(name, origin string, timeout time.Duration, fn HandlerFunc) bool {
	err := d.runGivenUp(origin, timeout, fn)
	switch {
	case err == nil:
		return true
	case d.Context().Err() != nil || !d.Connected():
		return false
	default:
		d.Log().Error("the function of "+name+" failed; parking the message without what it sent",
			append(d.fields(), zap.Error(d.told(err)))...)
		return true
	}
}

func (d *delivery) runGivenUp(origin string, timeout time.Duration, fn HandlerFunc) error {
	const long = 5 * time.Minute
	if timeout <= 0 {
		timeout = long
	}
	m := d.seen()
	scope := &scope{Incoming: m, ID: d.came.id, Origin: origin + "\x00given up"}
	bus := &Bus{sender{d.endpoint, scope}}
	ctx := inHandlerOf(d.ctx, bus, timeout, handlerTimeout(timeout))
	defer ctx.End()
	_, err := foreign.Apart(ctx, func() (struct{}, error) {
		d.Enter()
		return struct{}{}, fn(ctx, bus, m)
	})
	outs, ended := scope.End()
	switch {
	case err != nil:
		return failed(d.Context(), err)
	case ended != nil || len(outs) == 0:
		return ended
	}
	return d.endpoint.commit(ctx, outs)
}

// fault is the body of the reply that says that a request was given up. The headers say all.
type fault struct{}

func (fault) MessageType() string { return faultType }

const faultType = "harebus.Fault"

// answer tells whoever waits for a reply to the message that it is given up.
func (d *delivery) answer(cause *failure) {
	m := *d.seen()
	m.ReplyTo = d.peer.FaultsTo(m.ReplyTo)
	if !d.peer.Awaits() && d.elsewhere().ReplyBy().IsZero() || m.ReplyTo == "" {
		return
	}
	scope := &scope{Incoming: &m, ID: d.came.id, Origin: d.endpoint.queue + "\x00fault"}
	to := &sender{d.endpoint, scope}
	err := to.Reply(d.ackable(), fault{}, Immediately(), NonMandatory(), sendOption(func(o *sendOptions) { o.fault = cause }))
	if err != nil {
		d.Log().Warn("cannot tell the sender of a request that it is given up", append(d.fields(), zap.Error(err))...)
	}
}

// awaited says whether the sender of the message waits for a reply.
func (m *Message) awaited(d *header.Dialect) bool {
	_, ok := m.Headers[d.Names.ReplyBy]
	return ok || m.peer.Awaits()
}

// replyBy is until when the sender of the message waits for a reply; zero if it does not, or does not say.
func (d *delivery) replyBy() time.Time {
	if d.peer.Awaits() {
		return d.peer.Expires
	}
	return d.elsewhere().ReplyBy()
}

// code is the reason for which a request was given up; empty in other replies.
func (f *failure) code() string {
	switch {
	case f == nil:
		return ""
	case f.rejected != nil:
		return f.rejected.Reason
	default:
		return "failed"
	}
}

// details are the text that the parked message has, too. The stack of a panic stays there.
func (f *failure) details() string {
	if f == nil {
		return ""
	}
	text, _, _ := strings.Cut(header.ErrorDetails(f), foreign.StackMark)
	return text
}
