package harebus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/lazytimeout"
	"github.com/harebus/harebus/internal/wirename"
)

// HandlerFunc handles one message. Its result decides what happens to the message: nil means done; an error means a
// retry by the retry policy; [NoRetry], [RetryAfter] and Postpone change that. A panic is an error with a stack.
//
// Messages sent with bus are buffered. They are published when the handler has returned nil, before the incoming
// message is acknowledged, and discarded when the handler fails. The publishing takes at most six minutes, and ends
// when the message can no longer be acknowledged; then the attempt has failed. Do not use bus after the handler has
// returned. ctx ends after the handler timeout, or when a stop takes longer than the shutdown timeout.
type HandlerFunc func(ctx context.Context, bus *Bus, m *Message) error

// Named is implemented by message types. MessageType returns the wire name, which is the same in every program and
// language on the bus. It must not depend on the value, because it is called on a zero value.
type Named interface{ MessageType() string }

// Names that [Setup.HandleMessage] and [WithType] accept beside wire names.
const (
	// NoType stands for messages that carry no type.
	NoType = ""
	// AnyType stands for messages without a type and for all whose type has no
	// handler of its own.
	AnyType = "*"
)

// HandlerOption changes one handler. The functions of this package make them.
type HandlerOption interface{ forHandling(h *handler) }

type handlerOption func(*handler)

func (f handlerOption) forHandling(h *handler) { f(h) }

// WithTimeout replaces Config.Handling.Timeout for one handler. Zero means no timeout.
func WithTimeout(d time.Duration) HandlerOption {
	return handlerOption(func(h *handler) { h.timeout, h.limited = d, true })
}

// WithLease is for a handler that may run for longer than the broker waits for an acknowledgement, 30 minutes by
// default. Before it begins, a copy of the message, due after d, is confirmed, and the delivery is acknowledged. While
// it runs the copy is extended, three times in each d; when it has ended the copy is cancelled. If the process dies, or
// stands still, another instance gets the message within d: that counts as a failed attempt, and after the last one the
// message is parked. d is from 10 s to 24 h. The handler has no time limit unless [WithTimeout] is given. A queue with a
// single active consumer is refused. docs/endpoints.md says what is promised.
func WithLease(d time.Duration) HandlerOption {
	return handlerOption(func(h *handler) { h.lease, h.leased = d, true })
}

// WithRetry replaces Config.Retry for one handler. A zero field takes the value of Config.Retry. Config.Retry also
// applies to messages whose handler is not known, because they have an unknown type or cannot be read.
func WithRetry(policy RetryConfig) HandlerOption {
	return handlerOption(func(h *handler) { h.retry = &policy })
}

// handler is a registered handler.
type handler struct {
	handlerOptions

	messageType string
	named       bool
	origin      string       // its part of derived ids
	value       reflect.Type // of the message; nil for a handler of undecoded ones
	topic       string       // of an event
	run         HandlerFunc
	take        func(ctx context.Context, bus *Bus, message any) error // with a decoded message
	to          string                                                 // the type to which an upcast leads
	made        reflect.Type                                           // what it makes for that
}

// handlerOptions are those that an upcast takes over from the handler to which it leads.
type handlerOptions struct {
	timeout time.Duration
	expired error        // the cause of its context's end by the timeout
	retry   *RetryConfig // nil: the setup's
	// untransacted says that it runs without Config.Handling.Transactor.
	untransacted bool
	// transacted says that it must not run without one.
	transacted bool
	lease      time.Duration
	leased     bool // WithLease was given
	limited    bool // WithTimeout was given
	givenUp    []func(context.Context, *Bus, *Message, error) error
}

// Handle registers a handler for the messages of one type on a [Setup] or an [Endpoint]. After Start it applies to
// messages that are received from then on. The wire name is that of T's MessageType method or of [WithType]. It is not
// derived from the Go type, because such a name would change when the type is renamed. The body is decoded by the codec
// of its content type; one that cannot be decoded is parked at once. [Incoming] gives the handler the rest of the
// message.
//
// Faults, such as a second handler for a type, are reported by Start; those of a handler registered after Start by the
// log and by [Setup.Ready], and that handler is not used.
func Handle[T any](on Registrar, fn func(ctx context.Context, bus *Bus, message T) error, opts ...HandlerOption) {
	e := on.registrar()
	h := &handler{handlerOptions: handlerOptions{timeout: max(e.cfg.Handling.Timeout, 0)}, value: reflect.TypeFor[T]()}
	var err error
	h.messageType, err = wirename.Handled(wirename.Target[T]())
	h.named = err == nil
	h.apply(opts)
	if !h.named {
		e.addHandler(nil, fmt.Errorf("handler of %v: %w", reflect.TypeFor[T](), err))
		return
	}
	if fn != nil {
		h.run = func(ctx context.Context, bus *Bus, m *Message) error {
			message, err := decode[T](e.setup.codecs, m)
			if err != nil {
				return err
			}
			return fn(ctx, bus, message)
		}
		h.take = func(ctx context.Context, bus *Bus, message any) error { return fn(ctx, bus, message.(T)) } //nolint:forcetypeassert // value says so
	}
	e.addHandler(h, nil)
}

// HandleMessage registers a handler that gets the whole message, undecoded, for one wire name, [NoType] or [AnyType].
func (e *endpoint) HandleMessage(messageType string, fn HandlerFunc, opts ...HandlerOption) {
	h := &handler{handlerOptions: handlerOptions{timeout: max(e.cfg.Handling.Timeout, 0)}, messageType: messageType, named: true, run: fn}
	h.apply(opts)
	var err error
	if h.messageType != messageType {
		err = fmt.Errorf("handler of %s: WithType(%s) names another type; leave it out", field.Quote(messageType), field.Quote(h.messageType))
	}
	e.addHandler(h, err)
}

func (h *handler) apply(opts []HandlerOption) {
	for _, opt := range opts {
		if opt != nil {
			opt.forHandling(h)
		}
	}
}

// complete wraps the handler in the middleware and fills in its retry policy.
func (h *handler) complete(cfg *EndpointConfig) error {
	if h.run == nil {
		return fmt.Errorf("handler of %s is nil", field.Quote(h.messageType))
	}
	if h.transacted && h.transactor(cfg) == nil {
		return fmt.Errorf("handler of %s: it needs a transaction: set Handling.Transactor of its endpoint, for example to an outbox, and do not pass WithoutTransaction", field.Quote(h.messageType))
	}
	if h.leased {
		if err := cfg.listener().LeaseFault(h.lease); err != nil {
			return fmt.Errorf("handler of %s: %w", field.Quote(h.messageType), err)
		}
		if !h.limited {
			h.timeout = 0
		}
	}
	h.expired = handlerTimeout(h.timeout)
	var err error
	if h.run, err = chain(cfg.Handling.Middleware, h.run); err != nil {
		return fmt.Errorf("handler of %s: %w", field.Quote(h.messageType), err)
	}
	if h.retry != nil {
		policy := h.retry.withDefaults(cfg.Retry)
		h.retry = &policy
		err = errors.Join(policy.validate("WithRetry")...)
	}
	if err != nil {
		return fmt.Errorf("handler of %s: %w", field.Quote(h.messageType), err)
	}
	return nil
}

// addHandler registers a handler, or notes the fault. A fault while the service runs is logged and reported by Ready,
// and not by the next Start.
func (e *endpoint) addHandler(h *handler, err error) {
	if err == nil {
		err = h.complete(&e.cfg) // which calls foreign code, so without the lock
	}
	e.setup.mu.Lock()
	if err = e.register(h, err); err == nil {
		e.setup.mu.Unlock()
		return
	}
	started := e.setup.started
	if started {
		e.late = append(e.late, err)
	} else {
		e.faults = append(e.faults, err)
	}
	e.setup.mu.Unlock()
	if started {
		e.setup.log.Error("cannot register a handler", zap.Error(err))
	}
}

// register is called with the setup's mu held.
func (e *endpoint) register(h *handler, err error) error {
	switch {
	case err != nil:
	case e.of != e:
		err = fmt.Errorf("handler of %q: the messages of the queue %s are handled by those of %s", h.messageType, field.Quote(e.queue), field.Quote(e.of.queue))
	case e.known[h.messageType] != nil:
		err = fmt.Errorf("handler of %q: there is one already", h.messageType)
	case h.timeout < 0:
		err = fmt.Errorf("handler of %q: timeout %v is negative", h.messageType, h.timeout)
	case len(h.messageType) > maxShortString:
		err = fmt.Errorf("handler of %s: the name is longer than %d bytes", field.Quote(h.messageType), maxShortString)
	default:
		if h.retry != nil {
			e.retries.Store(max(e.retries.Load(), int64(h.retry.most())))
		}
		h.origin = e.queue + "\x00" + h.messageType
		e.known[h.messageType] = h
		if h.messageType != AnyType {
			e.counts.Type(h.messageType) // before strangers fill the list
		}
		if e.setup.started {
			err = e.settle()
		}
		if err != nil {
			delete(e.known, h.messageType)
		}
	}
	return err
}

// handlerFor finds the handler of a message, by a look-up and nothing else: type names come from the network.
func (e *endpoint) handlerFor(m *Message) (*handler, error) {
	handlers := *e.handlers.Load()
	if h, ok := handlers[m.Type]; ok && m.Type != AnyType {
		return h, nil
	}
	if h, ok := handlers[AnyType]; ok {
		return h, nil
	}
	if m.Type == NoType {
		return nil, e.unhandled("no-type", "the message has no type and there is no handler for NoType or AnyType")
	}
	return nil, e.unhandled("unknown-type", "no handler for messages of type %s", field.Quote(m.Type))
}

// unhandled makes the error for a message that has no handler here.
func (e *endpoint) unhandled(reason, format string, args ...any) error {
	return &RejectError{Reason: reason, Err: fmt.Errorf(format, args...), curable: e.cfg.Handling.Unhandled != UnhandledPark}
}

// invoke runs a handler and turns panics into errors. What it returns after its timeout says so.
func (h *handler) invoke(parent context.Context, bus *Bus, m *Message) error {
	ctx := inHandlerOf(parent, bus, h.timeout, h.expired)
	defer ctx.End()
	err := foreign.Call(func() error { return h.run(ctx, bus, m) })
	if err != nil && ctx.Expired() {
		return &timeoutError{err, handlerTimeout(h.timeout)}
	}
	return err
}

// handlerTimeout is why the context of a handler ended.
type handlerTimeout time.Duration //nolint:errname // a duration that is a cause

func (t handlerTimeout) Error() string {
	return fmt.Sprintf("handler timeout of %v", time.Duration(t))
}

// inHandlerOf makes the context of one run of a handler: it leads to the handler's bus, and ends with the timeout. The
// caller calls End.
func inHandlerOf(parent context.Context, bus *Bus, timeout time.Duration, cause error) *lazytimeout.Context {
	return lazytimeout.New(parent, handlingKey{}, bus, timeout, cause)
}

// timeoutError is the error of a handler whose timeout had passed.
type timeoutError struct {
	err     error
	timeout handlerTimeout
}

func (e *timeoutError) Error() string   { return e.err.Error() + ": " + e.timeout.Error() }
func (e *timeoutError) Unwrap() []error { return []error{e.err, e.timeout} }
