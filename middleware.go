package harebus

import (
	"context"
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/guard"
)

// Middleware wraps the handlers of a setup. It sees the message before it is
// decoded and the error, or nil, that will decide what becomes of it. It may
// answer without calling next.
type Middleware func(next HandlerFunc) HandlerFunc

// SendFunc processes an outgoing message; [SendMiddleware] wraps it.
type SendFunc func(ctx context.Context, m *Outgoing) error

// SendMiddleware wraps the sending of messages by a bus. It may add headers or
// change the body before it calls next. If it returns an error, the message is not
// sent and the call returns that error. It runs during the call, so inside a
// transaction it runs before the commit. Retries and parked copies do not pass
// through it.
type SendMiddleware func(next SendFunc) SendFunc

// chain wraps a handler in middleware, the first one outermost.
func chain(middleware []Middleware, h HandlerFunc) (HandlerFunc, error) {
	return wrap("Handling.Middleware", middleware, h)
}

// chainSend makes one function of the send middleware.
func chainSend(middleware []SendMiddleware) (SendFunc, error) {
	return wrap("Publish.Middleware", middleware, func(context.Context, *Outgoing) error { return nil })
}

func wrap[F HandlerFunc | SendFunc, M ~func(F) F](name string, middleware []M, inner F) (F, error) {
	for i, m := range slices.Backward(middleware) {
		outer, err := guard.Apart(context.Background(), func() (F, error) { return m(inner), nil })
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", name, i, err)
		}
		if outer == nil {
			return nil, fmt.Errorf("%s[%d] returned nil", name, i)
		}
		inner = outer
	}
	return inner, nil
}

func (s *sender) runSendMiddleware(ctx context.Context, m *Outgoing) error {
	if m.Headers == nil {
		m.Headers = map[string]any{}
	}
	return s.endpoint.setup.sendChain(ctx, m)
}
