package harebus

import (
	"context"
	"slices"
)

// Middleware wraps the handlers of a setup. It sees the message before it is
// decoded and the error, or nil, that will decide what becomes of it. It may
// answer without calling next.
type Middleware func(next HandlerFunc) HandlerFunc

// SendFunc is a step in the way of an outgoing message.
type SendFunc func(ctx context.Context, m *Outgoing) error

// SendMiddleware wraps what leaves through a bus: it may add headers or change
// the body before next, or return an error, which the call then returns with
// nothing sent. It runs at the call, so inside a transaction before the commit.
// Retries and parked copies do not pass through it.
type SendMiddleware func(next SendFunc) SendFunc

func chain(middleware []Middleware, h HandlerFunc) HandlerFunc {
	for _, m := range slices.Backward(middleware) {
		h = m(h)
	}
	return h
}

func (s *Setup) runSendMiddleware(ctx context.Context, m *Outgoing) error {
	if m.Headers == nil {
		m.Headers = map[string]any{}
	}
	return s.sendChain(ctx, m)
}

func chainSend(middleware []SendMiddleware) SendFunc {
	send := func(context.Context, *Outgoing) error { return nil }
	for _, m := range slices.Backward(middleware) {
		send = m(send)
	}
	return send
}
