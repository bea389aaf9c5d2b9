package harebus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/publish"
)

// Invocation is the result of [Setup.Invoke].
type Invocation struct {
	// Message is what the handler was given.
	Message *Message
	// Err is the error of the handler, or the reason why no handler was called; nil means that the message would be
	// acknowledged.
	Err error
	// Decision is the decision about the message when Err is not nil.
	Decision Decision
	// Sent are the messages that would be published, in the order of the calls. If the handler failed, they are only
	// those that it sent with [Immediately].
	Sent []Sent
}

// Sent is a message that a handler has sent, as its receiver will see it. Exchange and RoutingKey are its destination,
// DeferredUntil is its due time. ID is the one derived from the incoming message.
type Sent struct {
	// Operation is OpSend, OpPublish, OpDefer, OpReply or OpCancel.
	Operation Operation
	*Message
}

// Invoke calls the handler of a message without a broker, and returns what the handler sent and the decision about the
// message. It is for unit tests of handlers. The handler runs as in a consumer, inside its middleware, with its timeout
// and with [Incoming]; nothing is connected, retried, counted, traced or logged. With Config.Handling.Transactor it
// runs inside a transaction, which is committed without the messages that the handler sent.
//
// The message is encoded as [Bus.Send] does, with its options, and decoded again. A [*Message] is used as it is, for
// tests that set bytes of other programs, Attempt or Redelivered. If its ID, Queue, Attempt or ContentType is empty,
// Invoke fills it in.
//
// Messages that the handler sends by a bus of another setup, or with context.Background(), are really sent. Invoke
// returns an error if the message could not be made, or if a registration is faulty.
func (e *endpoint) Invoke(ctx context.Context, message any, opts ...SendOption) (*Invocation, error) {
	fail := func(err error) (*Invocation, error) { return nil, fmt.Errorf("harebus: invoke: %w", err) }
	if e.queue == "" {
		return fail(ErrNoQueue)
	}
	e.setup.mu.Lock()
	faults := errors.Join(append(slices.Clip(e.faults), e.settle())...)
	e.setup.mu.Unlock()
	if faults != nil {
		return fail(faults)
	}
	d := &delivery{endpoint: e}
	d.Rehearse(ctx, e.setup.log)
	d.ctx = ctx
	if err := d.rehearse(ctx, message, opts); err != nil {
		return fail(err)
	}
	d.came = factsOf(d.message)
	i := &Invocation{Message: d.message}
	outs, scope, err := d.rehearsed()
	if err != nil && !d.ignored(err) {
		f := failed(ctx, err)
		i.Err, i.Decision = f.shown(), d.decide(f)
	}
	for _, out := range outs {
		if sent, err := e.received(out); err != nil {
			return fail(err)
		} else if i.Err == nil || scope.SentNow(out) {
			i.Sent = append(i.Sent, Sent{Operation(out.Op), sent})
		}
	}
	return i, nil
}

// rehearse makes the delivery's message.
func (d *delivery) rehearse(ctx context.Context, message any, opts []SendOption) error {
	s := d.endpoint.setup
	if m, ok := message.(*Message); ok {
		given := *m
		fill(&given.ID, NewMessageID())
		fill(&given.Queue, d.endpoint.queue)
		fill(&given.Attempt, 1)
		fill(&given.ContentType, "application/json")
		given.prefix = s.dialect.Prefix
		d.plain = true
		d.message = &given
		return nil
	}
	o := newSendOptions(opts)
	out, err := (&sender{endpoint: d.endpoint}).compose(ctx, address{op: OpSend, exchange: s.routing.Direct, key: d.endpoint.queue}, message, &o)
	if err != nil {
		return err
	}
	d.Raw = *out.AsDelivered()
	return d.read()
}

// rehearsed runs the handler and returns what it sent, also when it failed.
func (d *delivery) rehearsed() ([]*publish.Message, *scope, error) {
	if err := d.choose(); err != nil {
		return nil, nil, err
	}
	ctx := d.ctx
	run := func(ctx context.Context) (outs []*publish.Message, sc *scope, err error) {
		sc = &scope{Incoming: d.message, ID: d.came.id, Origin: d.handler.origin, Rehearsal: true}
		err = d.handler.invoke(ctx, &Bus{sender{d.endpoint, sc}}, d.message)
		outs, ended := sc.End()
		if err == nil {
			err = ended
		}
		return outs, sc, err
	}
	t := d.handler.transactor(&d.endpoint.cfg)
	if t == nil {
		return run(ctx)
	}
	var outs []*publish.Message
	sc := &scope{}
	err := d.transact(ctx, t, func(ctx context.Context) (none []Envelope, err error) {
		outs, sc, err = run(ctx)
		return nil, err
	})
	return outs, sc, err
}

// received is the message as its receiver sees it.
func (e *endpoint) received(out *publish.Message) (*Message, error) {
	return readMessage(e.setup.peers, e.setup.routing.Topic, "", out.AsDelivered())
}
