package harebus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
)

// Middleware wraps the handlers of a setup. It sees the message before it is decoded and the error, or nil, that will
// decide what becomes of it. It may answer without calling next.
type Middleware func(next HandlerFunc) HandlerFunc

// SendFunc processes an outgoing message; [SendMiddleware] wraps it.
type SendFunc func(ctx context.Context, m *Outgoing) error

// SendMiddleware wraps the sending of messages by a bus. It may add headers or change the body before it calls next. If
// it returns an error, the message is not sent and the call returns that error. It runs during the call, so inside a
// transaction it runs before the commit. Retries and parked copies do not pass through it.
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
		outer, err := foreign.Apart(context.Background(), func() (F, error) { return m(inner), nil })
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

// ReceiveFunc is called with a message before its handler is chosen. It is for messages of other buses, which describe
// type and id in their own way. It may set Type, ID, CorrelationID, ReplyTo, Intent, TimeSent, ContentType,
// ContentEncoding and Body; to change the body it sets a new slice. Retries and parked copies are made from the message
// as it came, so it is called again for each attempt and should set the same ID each time.
//
// Its error is treated as that of a handler: after nil the message is handled; after an error it is retried by
// Config.Retry; return [NoRetry] for a message that it cannot understand. ctx ends after Config.Handling.Timeout. A
// call that runs for long is logged, and counts in Stats.OldestInFlight and for Ready, as a handler does. It is called
// from many goroutines.
type ReceiveFunc func(ctx context.Context, m *Message) error

// translate calls Config.Handling.Receive and checks what it has set.
func (d *delivery) translate() error {
	receive, m := d.endpoint.cfg.Handling.Receive, d.message
	if receive == nil {
		return nil
	}
	encoding := m.ContentEncoding
	err := d.receive(receive, m)
	translated := m.ID
	d.came.translate(m)
	if err != nil {
		return failed(d.Context(), err)
	}
	for _, short := range []struct{ name, value string }{
		{"ID", translated}, {"Type", m.Type}, {"CorrelationID", m.CorrelationID}, {"ReplyTo", m.ReplyTo},
		{"ContentType", m.ContentType}, {"ContentEncoding", m.ContentEncoding},
	} {
		if len(short.value) > maxShortString || !utf8.ValidString(short.value) {
			return reject("bad-header", "Config.Handling.Receive set %s to %s, longer than %d bytes or not valid UTF-8",
				short.name, field.Quote(short.value), maxShortString)
		}
	}
	if limit := d.endpoint.setup.cfg.Payload.MaxBody; len(m.Body) > limit {
		return reject("too-large", "Config.Handling.Receive set a body of %d bytes, more than %d", len(m.Body), limit)
	}
	if m.ContentEncoding != encoding {
		return d.endpoint.expand(m)
	}
	return nil
}

// receive calls the hook, as a part of handling: with a timeout, and known to the watch.
func (d *delivery) receive(hook ReceiveFunc, m *Message) error {
	ctx := d.Context()
	if timeout := d.endpoint.cfg.Handling.Timeout; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, handlerTimeout(timeout))
		defer cancel()
	}
	came := d.came
	d.receiving.Store(&came)
	defer d.receiving.Store(nil)
	return foreign.Call(func() error { return hook(ctx, m) })
}

// Gate lets the messages of an endpoint to their handlers: [Registrar].Gate. Package fair has one.
type Gate interface {
	// Admit decides when a message is handled. It calls handle at most once and returns its error. It runs outside of
	// the transaction of Config.Handling.Transactor, of middleware and of time limits, so it may wait: until ctx ends,
	// because a stop or a pause begins or the connection is lost, whereupon the message goes back to its queue. bus
	// sends at once. [ErrMoved] is for a message that Admit has stored elsewhere; other results are those of a handler.
	// It is called from many goroutines.
	Admit(ctx context.Context, bus *Bus, m *Message, handle func() error) error
	// Ready says what is wrong, for [Setup.Ready]. It must not block.
	Ready() error
}

// Gate adds a gate to the endpoint, before Start. Beside those in handlers, each consumer takes up to room more
// messages, which wait in the gate, so that the order of the queue is not kept. A second gate is an error.
func (e *endpoint) Gate(g Gate, room int) error {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	var faults []error
	if g == nil || e.gate != nil || e.of != e {
		faults = append(faults, errors.New("the gate is nil, or the endpoint has one, or it is beside another one"))
	}
	if e.cfg.Consume.Stream != nil || e.SingleActive() {
		faults = append(faults, errors.New("the queue is a stream, or has a single active consumer, which keeps its order"))
	}
	if e.setup.started {
		faults = append(faults, ErrStarted)
	}
	faults = append(faults, field.Outside("room", room, 0, maxPrefetch-e.cfg.Consume.Prefetch)...)
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("harebus: gate: %w", err)
	}
	e.gate, e.room = g, room
	return nil
}

// pass has the handler called, by the gate of the endpoint if it has one.
func (d *delivery) pass() error {
	gate := d.endpoint.gate
	if gate == nil {
		return d.handleTimed()
	}
	began, waiting := false, consume.WithValues(d.Patient(), d.ctx)
	err := foreign.Call(func() error {
		return gate.Admit(waiting, &Bus{sender{endpoint: d.endpoint}}, d.message, func() error {
			began = true
			return d.handleTimed()
		})
	})
	if !began && err != nil && err != ErrMoved && waiting.Err() != nil { //nolint:errorlint // the gate returns it as it is
		d.elsewhere().RepublishWorn() // else it goes back to its queue
		return errWaited
	}
	return err
}

var errWaited = errors.New("the message waited when a stop or a pause began")
