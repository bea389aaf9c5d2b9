package harebus

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/topology"
)

// delayer sends messages into the delay infrastructure, which it declares when
// the first one needs it: once per session, as is the exit queue of each
// destination.
type delayer struct {
	setup  *Setup
	delays topology.Delays

	declaring chan struct{} // held while declaring

	mu    sync.Mutex           // guards what follows
	on    *session             // the session everything below has been declared on
	exits map[string]time.Time // when each was declared; "" is what all share
}

const (
	// maxExits bounds the memory of a program that defers to ever new queues.
	maxExits = 10_000
	// exitAge is how long an exit is believed to exist: a message whose exit
	// queue somebody has deleted is caught, but not delivered.
	exitAge = time.Minute
)

func newDelayer(s *Setup) *delayer {
	return &delayer{setup: s, declaring: make(chan struct{}, 1)}
}

// route makes the routed form of a message that is due after wait.
func (d *delayer) route(s *session, out *outgoing, wait time.Duration) (routed, error) {
	to, err := d.delays.Route(wait, out.finalExchange(), out.key)
	if err != nil { // nothing here depends on the broker: it ends the same way each time
		return routed{}, &PublishError{Outcome: NotSent, Err: err}
	}
	room := delayRoom(s.frameMax, to.HeaderRoom()) + deathRoom(out.exchange, out.key)
	if out.copied {
		d.setup.dialect.fit(&out.msg, s.frameMax, room)
		room = 0 // whatever there is
	}
	msg := out.msg
	msg.Headers = maps.Clone(out.msg.Headers)
	if len(to.CC) > 0 {
		cc := make([]any, len(to.CC))
		for i, key := range to.CC {
			cc[i] = key
		}
		msg.Headers["CC"] = cc
	}
	return routed{exchange: to.Exchange, key: to.Key, mandatory: true, delayed: true, room: room, msg: msg}, nil
}

// finalExchange is where a delayed message goes in the end: to its queue by way
// of the default exchange, unless the caller named another.
func (o *outgoing) finalExchange() string {
	if o.foreign {
		return o.exchange
	}
	return ""
}

// prepare makes sure that a delayed message can go all its way.
func (d *delayer) prepare(ctx context.Context, s *session, out *outgoing) error {
	exchange, key := out.finalExchange(), out.key
	exit := exchange + "\x00" + key
	if d.known(s, exit) {
		return nil
	}
	select { // one at a time: the others find it done
	case d.declaring <- struct{}{}:
		defer func() { <-d.declaring }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if d.known(s, exit) {
		return nil
	}
	if !d.known(s, "") {
		if err := d.setup.establish(ctx, s, d.delays.Topology()); err != nil {
			return fmt.Errorf("delay infrastructure: %w", err)
		}
		d.remember(s, "")
	}
	if err := d.checkDestination(ctx, s, exchange, key); err != nil {
		return err
	}
	if err := d.setup.establish(ctx, s, d.delays.Exit(exchange, key)); err != nil {
		return fmt.Errorf("delay exit: %w", err)
	}
	d.remember(s, exit)
	return nil
}

// checkDestination refuses a deferral that could never arrive. A destination
// that is deleted later makes its messages wait in its exit queue.
func (d *delayer) checkDestination(ctx context.Context, s *session, exchange, key string) error {
	err := s.withChannel(ctx, func(ch *amqp.Channel) error {
		if exchange != "" {
			return ch.ExchangeDeclarePassive(exchange, string(topology.Direct), true, false, false, false, nil)
		}
		_, err := ch.QueueDeclarePassive(key, true, false, false, false, nil)
		return err
	})
	if unreachable(err) || forbidden(err) {
		return nil // it is there, or may be, and takes the message later
	}
	if missing(err) {
		return &PublishError{Outcome: Returned, Err: err}
	}
	return err
}

func (d *delayer) known(s *session, exit string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.on != s {
		return false
	}
	declared, ok := d.exits[exit]
	return ok && (exit == "" || time.Since(declared) < exitAge)
}

func (d *delayer) remember(s *session, exit string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.on != s || len(d.exits) >= maxExits {
		shared, same := d.exits[""], d.on == s
		d.on, d.exits = s, map[string]time.Time{}
		if same {
			d.exits[""] = shared
		}
	}
	d.exits[exit] = time.Now()
}

// forget makes the next delayed message declare everything again.
func (d *delayer) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.on, d.exits = nil, nil
}
