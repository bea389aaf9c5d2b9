// Package migrate replaces a queue on a broker by one with another type or other arguments,
// while services go on publishing and consuming.
//
// Its bindings are led through an exchange, the gate. Unbinding the queue from the gate sends
// new messages into a holding queue, in one step, without a gap and without a copy. What is
// left in the queue is handled by its consumers or moved into the holding queue. Then the queue
// is deleted and declared anew, the gate is bound to it, its bindings return, and the holding
// queue is emptied into it. Each step can be repeated, and what has been done can be seen on
// the broker, so running it again after an interruption goes on (steps.go). Messages are moved
// one at a time: published, confirmed, acknowledged (mover.go).
package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// Options say what to do.
type Options struct {
	Broker access.Broker
	// Queue is the queue as it is to be.
	Queue topology.Queue
	// Bindings are those of the queue that the topology has.
	Bindings []topology.Binding
	// API, if not nil, tells of the bindings that the topology does not have, and of messages
	// that consumers or the broker's dead-lettering hold.
	API *management.Client
	// Drain is how long consumers may empty the queue before its messages are moved.
	Drain time.Duration
	// Settle is how long nothing may come back from consumers before the queue is deleted.
	Settle time.Duration
	// Hold is how long new messages may be kept from the consumers before the queue is replaced;
	// after it everything is put back.
	Hold time.Duration
	// DeadLetters accepts that dead letters on their way to another queue are not seen, and lost
	// with the old queue.
	DeadLetters bool
	// ByName accepts that messages published to the queue by the default exchange may be lost
	// at the moment of the replacement.
	ByName bool
	// Said is told what was done.
	Said func(format string, args ...any)
}

// Report says what was done.
type Report struct {
	Moved int           // messages that went through the holding queue
	Pause time.Duration // how long new messages were kept from the consumers
	Same  bool          // the queue was as wanted
}

// run is one run.
type run struct {
	Options

	again    bool // Run has tried before
	s        survey.Survey
	names    names
	bindings []topology.Binding // of the queue, to be led through the gate
	exit     topology.Topology  // of what was deferred to the queue; empty if there is none
	report   Report
	switched time.Time
}

// names are those of the objects that exist only during a migration.
type names struct{ holding, keep, gate, due, foreign, lock string }

func namesFor(name string) names {
	base := "harebus.migrate." + queue.ShortName(name)
	return names{base + ".holding", base + ".keep", base + ".gate", base + ".due", base + ".api", queue.LockName(name)}
}

// ErrByName is returned when messages are published to the queue by its name: RabbitMQ may
// confirm and lose one that comes in the moment of the replacement. A service of harebus does so when the direct exchange has
// returned a command, such as while the node of a classic queue is down, and believes that for a minute.
var ErrByName = errors.New("messages come to the queue through the default exchange, by its name; one that comes at the moment of the replacement can be lost although it is confirmed: have its publishers use an exchange, or stop them; if the queue or its node was away, services of harebus do so for a minute after that: run the same command again then")

// ErrDeadLetters is returned when the broker may hold messages of the queue that AMQP does not count.
var ErrDeadLetters = errors.New("the queue dead-letters at-least-once: the broker keeps such messages in it until they have arrived, AMQP does not count them, and they would be deleted with it: give -api, which tells them, or -accept-dead-letters if none is on its way")

// Run replaces the queue. Run again after an error, it goes on. The broker may still be busy with the last request of
// a run that was killed: a queue or an exchange that was just seen is gone (404), or, with RabbitMQ 4.0, cannot be asked
// for (541). Then Run goes on by itself, a few times.
func Run(ctx context.Context, o Options) (Report, error) {
	const most, pause = 4, time.Second
	var total Report
	for n := 1; ; n++ {
		report, err := once(ctx, o, n > 1)
		total.add(report)
		if n == most || !refusal.Missing(err) && !refusal.Internal(err) {
			return total, err
		}
		o.Said("trying again in %v: %v", pause, err)
		if !wait.Sleep(ctx, pause) {
			return total, err
		}
	}
}

// add adds what another try has done.
func (r *Report) add(next Report) {
	r.Moved += next.Moved
	r.Pause += next.Pause
	r.Same = next.Same
}

// once is one try, with a connection of its own: 541 ends it.
func once(ctx context.Context, o Options, again bool) (Report, error) {
	link, err := o.Broker.Link("migrate")
	if err != nil {
		return Report{}, err
	}
	defer link.Close()
	on, err := link.Session(ctx)
	if err != nil {
		return Report{}, err
	}
	r := &run{Options: o, again: again, s: survey.Survey{On: on}, names: namesFor(o.Queue.Name)}
	if err := r.lock(ctx); err != nil {
		return r.report, err
	}
	return r.report, r.all(ctx)
}

// lock takes a queue that ends with the connection, so that two migrations of a queue never
// run at once.
func (r *run) lock(ctx context.Context) error {
	const long = 2 * time.Second // for the broker to notice that an interrupted run has ended
	err := queue.Lock(ctx, r.s.On, r.names.lock, long)
	if refusal.Locked(err) {
		return fmt.Errorf("somebody else works on the queue: %q is locked", r.names.lock)
	}
	return err
}

// channel asks the broker for something. What has been asked for is awaited, also when ctx ends: else what is left
// of it would come after the first steps of undo, and remove a binding that undo has restored.
func (r *run) channel(ctx context.Context, do func(*amqp.Channel) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
	defer cancel()
	return r.s.On.WithChannel(ctx, do)
}

// all does what is left to do.
func (r *run) all(ctx context.Context) error {
	found, err := r.s.Queue(ctx, r.Queue)
	if err != nil {
		return err
	}
	holding, err := r.exists(ctx, r.names.holding)
	same := found.Exists && plan.Queues(found.Queue, r.Queue) == ""
	switch {
	case err != nil:
		return err
	case found.Hidden != "":
		return fmt.Errorf("look at queue %q: %s", r.Queue.Name, found.Hidden)
	case !holding && same && !r.again: // else exchanges may be left
		r.report.Same = true
		return nil
	case !holding && !found.Exists:
		return fmt.Errorf("there is no queue %q; harebus topology apply declares it", r.Queue.Name)
	case holding:
		r.Said("an earlier run was interrupted; going on")
	}
	if err := r.seen(ctx, found); !same && err != nil {
		return err
	}
	if err := r.prepare(ctx, found, holding); err != nil {
		return err
	}
	if !same {
		if err := r.replace(ctx, found.Exists); err != nil {
			return r.undo(ctx, err)
		}
	}
	if err := r.back(ctx); err != nil {
		return fmt.Errorf("%w; the queue is as wanted, and %q may hold messages: run the same command again", err, r.names.holding)
	}
	return nil
}

func (r *run) exists(ctx context.Context, queue string) (bool, error) {
	_, err := r.state(ctx, queue)
	if refusal.Missing(err) {
		return false, nil
	}
	return err == nil, err
}

func (r *run) state(ctx context.Context, queue string) (state amqp.Queue, err error) {
	err = r.channel(ctx, func(ch *amqp.Channel) (err error) {
		state, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	return state, err
}

// undo leaves the queue as it was found, after an error that came before it was replaced.
// When the connection is lost, running again goes on.
func (r *run) undo(ctx context.Context, cause error) error {
	const long = 5 * time.Minute
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), long)
	defer cancel()
	there, err := r.exists(ctx, r.Queue.Name)
	if err == nil && there {
		r.Said("giving up; everything goes back into the old queue")
		err = r.back(ctx)
	} else if err == nil {
		err = errors.New("the queue does not exist at the moment")
	}
	if err != nil {
		return fmt.Errorf("%w; new messages are kept in %q: run the same command again (%w)", cause, r.names.holding, err)
	}
	return fmt.Errorf("%w; the queue is as it was", cause)
}
