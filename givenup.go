package harebus

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/guard"
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
// the message.
func WithGivenUp(fn func(ctx context.Context, bus *Bus, m *Message, err error) error) HandlerOption {
	return handlerOption(func(h *handler) { h.givenUp = fn })
}

// giveUp calls the function of WithGivenUp and publishes what it sent. It returns
// false when nothing can be sent now; then the message must be delivered again.
func (d *delivery) giveUp(cause *failure) bool {
	if d.handler == nil || d.handler.givenUp == nil {
		return true
	}
	err := d.runGivenUp(cause)
	switch {
	case err == nil:
		return true
	case d.Context().Err() != nil || !d.Connected():
		return false
	default:
		d.Log().Error("the function of WithGivenUp failed; parking the message without what it sent",
			append(d.fields(), zap.Error(err))...)
		return true
	}
}

func (d *delivery) runGivenUp(cause *failure) error {
	const long = 5 * time.Minute
	h, timeout := d.handler, d.handler.timeout
	if timeout <= 0 {
		timeout = long
	}
	m := d.seen()
	scope := &scope{Incoming: m, ID: d.came.id, Origin: h.origin + "\x00given up"}
	bus := &Bus{sender{d.endpoint, scope}}
	ctx := inHandlerOf(d.ctx, bus, timeout, handlerTimeout(timeout))
	defer ctx.End()
	_, err := guard.Apart(ctx, func() (struct{}, error) {
		d.Enter()
		return struct{}{}, h.givenUp(ctx, bus, m, cause.shown())
	})
	outs, ended := scope.End()
	switch {
	case err != nil:
		return failed(d.Context(), err)
	case ended != nil || len(outs) == 0:
		return ended
	}
	eng, err := d.endpoint.setup.engine()
	if err != nil {
		return err
	}
	return eng.commit(ctx, outs)
}
