package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// all keys, in a topic exchange
const every = "#"

// seen refuses to go on when nobody tells what the old queue holds beside what waits in it.
func (r *run) seen(ctx context.Context, old survey.Queue) error {
	strict := old.Type == topology.Quorum && old.Arguments["x-dead-letter-strategy"] == "at-least-once" && !r.DeadLetters
	switch {
	case !old.Exists:
		return nil
	case r.API == nil && strict:
		return ErrDeadLetters
	case r.API == nil:
		return nil
	}
	const first = 20 * time.Second // a new queue was counted after 9 s, by RabbitMQ 3.10.8 and 4.3.6
	for late := time.Now().Add(min(first, r.Hold)); ; {
		queues, err := r.API.Queues(ctx)
		q := queues[old.Name]
		switch {
		case err != nil || q.Unacknowledged != nil && (q.DeadLetters != nil || !strict):
			return err
		case time.Now().After(late) && q.Unacknowledged == nil:
			return errors.New("the management API does not tell how many messages consumers hold: its statistics are switched off (management_agent.disable_metrics_collector); switch them on, or give -only-these and -settle instead of -api")
		case time.Now().After(late):
			return fmt.Errorf("the management API does not tell messages_dlx: %w", ErrDeadLetters)
		case !wait.Sleep(ctx, often):
			return context.Cause(ctx)
		}
	}
}

// prepare declares what exists only during the migration, and learns the bindings. The holding
// queue dead-letters as the old one does, because a message can expire in it.
func (r *run) prepare(ctx context.Context, old survey.Queue, holds bool) error {
	if err := errors.Join(r.try(ctx), r.learn(ctx)); err != nil {
		return err
	}
	caught := map[string]any{"alternate-exchange": r.names.keep}
	t := topology.Topology{
		Exchanges: []topology.Exchange{
			{Name: r.names.keep, Kind: topology.Fanout},
			{Name: r.names.gate, Kind: topology.Topic, Arguments: caught},
			{Name: r.names.due, Kind: topology.Topic, Arguments: caught},
		},
		Bindings: []topology.Binding{{Exchange: r.names.keep, Queue: r.names.holding}},
	}
	if r.API != nil {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: r.names.foreign, Kind: topology.Fanout})
	}
	if !holds {
		holding := topology.Queue{Name: r.names.holding, Arguments: map[string]any{"x-delivery-limit": topology.LookLimit}}
		for _, name := range []string{"x-dead-letter-exchange", "x-dead-letter-routing-key"} {
			if value, ok := old.Arguments[name]; ok {
				holding.Arguments[name] = value
			}
		}
		t.Queues = []topology.Queue{holding}
	}
	if err := r.channel(ctx, func(ch *amqp.Channel) error { return t.Declare(ch) }); err != nil {
		return err
	}
	r.Said("holding queue %q is ready", r.names.holding)
	return nil
}

// try declares a queue like the wanted one and deletes it: after the old queue is deleted it
// is too late to learn that the broker does not take the arguments. It has another name each time:
// RabbitMQ 4.0 answers 541 to who declares a queue that a killed run is just making or deleting. One that
// is left behind expires.
func (r *run) try(ctx context.Context) error {
	const digits = 6
	like, id := r.Queue, messageid.New()
	like.Name = r.names.holding + ".try." + id[len(id)-digits:]
	if _, expires := like.Arguments["x-expires"]; !expires && like.Type != topology.Stream {
		like.Arguments = maps.Clone(like.Arguments)
		if like.Arguments == nil {
			like.Arguments = map[string]any{}
		}
		like.Arguments["x-expires"] = int64(time.Minute / time.Millisecond)
	}
	return r.channel(ctx, func(ch *amqp.Channel) error {
		if err := (topology.Topology{Queues: []topology.Queue{like}}).Declare(ch); err != nil {
			return err
		}
		_, err := ch.QueueDelete(like.Name, false, false, false)
		return err
	})
}

// learn finds the bindings of the queue and of the exit of what is deferred to it.
func (r *run) learn(ctx context.Context) error {
	r.exit = topology.Delays{}.Exit("", r.Queue.Name)
	if there, err := r.exists(ctx, r.exit.Queues[0].Name); err != nil || !there {
		if r.exit = (topology.Topology{}); err != nil {
			return err
		}
	}
	all := topology.Topology{Bindings: r.Bindings}
	if r.API == nil {
		if there, err := r.exchanged(ctx, r.names.foreign); err != nil || there {
			return errors.Join(err, fmt.Errorf("an earlier run was given -api and was interrupted; it may have led bindings through %q that FILE does not have, so give -api again", r.names.gate))
		}
	} else {
		bound, err := r.API.Bindings(ctx)
		if err != nil {
			return err
		}
		for _, b := range bound {
			if b.ToExchange == r.names.gate { // an earlier run has led it there
				b.Queue, b.ToExchange = r.Queue.Name, ""
			}
			if b.Queue == r.Queue.Name && b.Exchange != r.names.gate {
				all = topology.Join(all, topology.Topology{Bindings: []topology.Binding{b}})
			}
		}
	}
	var err error
	if r.bindings, err = r.sourced(ctx, all.Bindings); err == nil {
		r.exit.Bindings, err = r.sourced(ctx, r.exit.Bindings)
	}
	return err
}

// sourced leaves out the bindings whose exchange does not exist: they do not exist either, and
// cannot be made.
func (r *run) sourced(ctx context.Context, bindings []topology.Binding) (left []topology.Binding, err error) {
	exists := map[string]bool{}
	for _, b := range bindings {
		there, asked := exists[b.Exchange]
		if !asked {
			if there, err = r.exchanged(ctx, b.Exchange); err != nil {
				return nil, err
			}
			if exists[b.Exchange] = there; !there {
				r.Said("exchange %q does not exist; harebus topology apply declares it and its bindings", b.Exchange)
			}
		}
		if there {
			left = append(left, b)
		}
	}
	return left, nil
}

// exchanged says whether an exchange exists. One at which the user may not look counts as there.
func (r *run) exchanged(ctx context.Context, exchange string) (bool, error) {
	err := r.channel(ctx, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(exchange, string(topology.Direct), true, false, false, false, nil)
	})
	if refusal.Missing(err) {
		return false, nil
	}
	if refusal.Forbidden(err) {
		err = nil
	}
	return err == nil, err
}

// through are bindings with a gate in the place of their queue.
func through(gate string, bindings []topology.Binding) (led []topology.Binding) {
	for _, b := range bindings {
		b.Queue, b.ToExchange = "", gate
		led = append(led, b)
	}
	return led
}

// open binds the queue, and the exit, to their gates: all that comes there goes to them.
func (r *run) open() []topology.Binding {
	opened := []topology.Binding{{Exchange: r.names.gate, Key: every, Queue: r.Queue.Name}}
	for _, q := range r.exit.Queues {
		opened = append(opened, topology.Binding{Exchange: r.names.due, Key: every, Queue: q.Name})
	}
	return opened
}

// led are the bindings of the gates, and direct those of the queue and of the exit.
func (r *run) led() []topology.Binding {
	return append(through(r.names.gate, r.bindings), through(r.names.due, r.exit.Bindings)...)
}

func (r *run) direct() []topology.Binding { return slices.Concat(r.bindings, r.exit.Bindings) }

// apart removes the direct bindings. Services declare theirs again once or twice a minute, so it
// is done again and again while messages are held: by a direct binding and by that of the gate
// each message would come twice.
func (r *run) apart(ctx context.Context) error { return r.unbind(ctx, r.direct()) }

func (r *run) bind(ctx context.Context, bindings []topology.Binding) error {
	return r.channel(ctx, func(ch *amqp.Channel) error { return topology.Topology{Bindings: bindings}.Declare(ch) })
}

func (r *run) unbind(ctx context.Context, bindings []topology.Binding) error {
	return r.channel(ctx, func(ch *amqp.Channel) error {
		for _, b := range bindings {
			var err error
			if b.ToExchange != "" {
				err = ch.ExchangeUnbind(b.ToExchange, b.Key, b.Exchange, false, amqp.Table(b.Arguments))
			} else {
				err = ch.QueueUnbind(b.Queue, b.Key, b.Exchange, amqp.Table(b.Arguments))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// replace leads new messages into the holding queue, empties the queue and makes it anew. The
// queue may be gone: an earlier run was killed between deleting and declaring it.
func (r *run) replace(ctx context.Context, there bool) error {
	if there {
		if err := r.divert(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Hold, fmt.Errorf("new messages were held for %v, and messages still come into queue %q, or its consumers still hold some: stop instances of its services, or give -hold more time", r.Hold, r.Queue.Name))
	defer cancel()
	var began time.Time
	var err error
	for came := there; ; came = true {
		if came {
			if err := r.empty(ctx); err != nil {
				return err
			}
		}
		began = time.Now()
		if err = r.anew(ctx); !errors.Is(err, errCame) {
			break
		}
	}
	if err != nil {
		return err
	}
	r.Said("replaced queue %q in %v", r.Queue.Name, time.Since(began).Round(time.Millisecond))
	return nil
}

// divert sends what is published from now on into the holding queue. A message that comes to
// a queue by two ways is one copy, so leading the bindings through the gate makes none, and
// before the switch a binding that a service declares again does no harm.
func (r *run) divert(ctx context.Context) error {
	for _, step := range []func() error{
		func() error { return r.bind(ctx, r.open()) },
		func() error { return r.bind(ctx, r.led()) },
		func() error { return r.drained(ctx) },
		func() error { return r.apart(ctx) },
		func() error { return r.unbind(ctx, r.open()) }, // this is the switch
	} {
		if err := step(); err != nil {
			return err
		}
	}
	r.switched = time.Now()
	r.Said("switched: new messages go into the holding queue")
	return nil
}

// drained waits until consumers have emptied the queue, for as long as they may.
func (r *run) drained(ctx context.Context) error {
	late := time.Now().Add(r.Drain)
	for {
		state, err := r.state(ctx, r.Queue.Name)
		if err != nil || state.Messages == 0 || state.Consumers == 0 || time.Now().After(late) {
			return err
		}
		if !wait.Sleep(ctx, often) {
			return context.Cause(ctx)
		}
	}
}

// often is how often the broker is asked for something that has to be waited for.
const often = 50 * time.Millisecond

// empty moves what is left into the holding queue, until nothing has come for the time that
// consumers need to finish what they hold. They get nothing meanwhile.
func (r *run) empty(ctx context.Context) error {
	m, err := r.mover(ctx, r.Queue.Name, r.names.keep)
	if err != nil {
		return err
	}
	m.refuse, m.meanwhile = r.refused, r.apart
	if err := m.run(ctx, r.Settle, func() (bool, error) { return r.free(ctx) }); err != nil {
		return err
	}
	r.report.Moved += m.moved
	r.Said("emptied: %d messages were moved, and nothing came for %v", m.moved, r.Settle)
	return nil
}

// refused says why the queue cannot be replaced while such messages come to it.
func (r *run) refused(d *amqp.Delivery) error {
	if r.ByName || d.Exchange != "" || d.Redelivered {
		return nil
	}
	if deaths, ok := d.Headers["x-death"].([]any); ok && len(deaths) > 0 {
		return nil // the broker has passed it on, from the exit of delays or another queue
	}
	return ErrByName
}

// free says whether consumers hold nothing, as far as it can be known.
func (r *run) free(ctx context.Context) (bool, error) {
	for _, q := range r.exit.Queues {
		if state, err := r.state(ctx, q.Name); err != nil || state.Messages > 0 {
			return false, err
		}
	}
	if r.API == nil {
		return true, nil
	}
	queues, err := r.API.Queues(ctx)
	q := queues[r.Queue.Name]
	return q.Unacknowledged != nil && *q.Unacknowledged == 0 && (q.DeadLetters == nil || *q.DeadLetters == 0), err
}

var errCame = errors.New("messages came into the queue at the last moment")

// anew deletes the queue and declares it, in one breath. A service that declares it as it was
// can come between; then it is done again.
func (r *run) anew(ctx context.Context) error {
	const most = 50
	fresh := topology.Topology{Queues: []topology.Queue{r.Queue}}
	for range most {
		err := r.channel(ctx, func(ch *amqp.Channel) error { return fresh.Declare(ch) })
		if !refusal.Differs(err) {
			return err
		}
		var state amqp.Queue
		if err = r.apart(ctx); err == nil {
			state, err = r.state(ctx, r.Queue.Name)
		}
		switch {
		case err != nil && !refusal.Missing(err):
			return err
		case state.Messages > 0:
			return errCame
		}
		err = r.channel(ctx, func(ch *amqp.Channel) error {
			if _, err := ch.QueueDelete(r.Queue.Name, false, false, true); err != nil {
				return err
			}
			return fresh.Declare(ch)
		})
		if !refusal.Differs(err) {
			return err
		}
		if !wait.Sleep(ctx, often) {
			return context.Cause(ctx)
		}
	}
	return errors.New("another program declares the queue as it was, again and again; deploy its new version, or stop it")
}

// back leads new messages to the queue again, restores its bindings, empties the holding queue
// into it and removes what was needed.
func (r *run) back(ctx context.Context) error {
	for _, step := range []func() error{
		func() error { return r.bind(ctx, r.open()) },
		func() error { return r.bind(ctx, r.direct()) },
		func() error { return r.unbind(ctx, r.led()) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if !r.switched.IsZero() {
		r.report.Pause = time.Since(r.switched)
	}
	m, err := r.mover(ctx, r.names.holding, r.names.gate)
	if err != nil {
		return err
	}
	m.key = r.key
	const quiet = 500 * time.Millisecond
	if err := m.run(ctx, quiet, func() (bool, error) { return true, nil }); err != nil {
		return err
	}
	r.Said("back: %d messages were moved into queue %q", m.moved, r.Queue.Name)
	return r.clear(ctx)
}

// key is the routing key of a message in the holding queue. What was due comes from an exchange of
// the delays, and would have got that of the queue in its exit.
func (r *run) key(d *amqp.Delivery) string {
	if strings.HasPrefix(d.Exchange, topology.DefaultDelayPrefix+".") {
		return r.Queue.Name
	}
	return d.RoutingKey
}

// clear removes what exists only during a migration. The gates go first, so nothing can come
// into the holding queue any more when it is seen to be empty.
func (r *run) clear(ctx context.Context) error {
	if err := r.channel(ctx, func(ch *amqp.Channel) error {
		for _, exchange := range []string{r.names.gate, r.names.due, r.names.keep, r.names.foreign} {
			if err := ch.ExchangeDelete(exchange, false, false); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	state, err := r.state(ctx, r.names.holding)
	if err != nil {
		return err
	}
	if state.Messages > 0 {
		return fmt.Errorf("%d messages came into %q at the last moment; run the same command again", state.Messages, r.names.holding)
	}
	return r.channel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(r.names.holding, false, false, false)
		return err
	})
}
