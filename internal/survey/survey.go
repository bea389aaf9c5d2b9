// Package survey asks a broker what it has, over AMQP alone and without changing anything:
// the properties and arguments of queues and exchanges (question.go) and what a user may do
// (permission.go).
package survey

import (
	"context"
	"errors"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Survey asks the broker of one session.
type Survey struct{ On *session.Session }

// Queue is what the broker has under the name of a queue.
type Queue struct {
	topology.Queue

	Exists           bool
	Ready, Consumers int
	// Hidden says why the broker does not tell the properties. Then Queue has only the name.
	Hidden string
}

// Exchange is what the broker has under the name of an exchange.
type Exchange struct {
	topology.Exchange

	Exists bool
	Hidden string // as that of a Queue
}

// Queue asks about a queue. The closer like is to what the broker has, the fewer questions
// it takes: two if it is equal.
func (s Survey) Queue(ctx context.Context, like topology.Queue) (Queue, error) {
	found := Queue{Queue: topology.Queue{Name: like.Name}}
	var err error
	found.Exists, found.Hidden, err = s.look(ctx, func(ch *amqp.Channel) error {
		state, err := ch.QueueDeclarePassive(like.Name, true, false, false, false, nil)
		found.Ready, found.Consumers = state.Messages, state.Consumers
		return err
	})
	if err != nil || found.Hidden != "" || !found.Exists {
		return found, err
	}
	q := ask(like)
	found.Hidden, err = s.agree(ctx, q, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(like.Name, q.flags["durable"], q.flags["auto_delete"], q.flags["exclusive"], false, q.arguments)
		return err
	})
	if err == nil && found.Hidden == "" {
		found.Queue = q.queue(like.Name)
	}
	return found, err
}

// Exchange asks about an exchange, as [Survey.Queue] does about a queue.
func (s Survey) Exchange(ctx context.Context, like topology.Exchange) (Exchange, error) {
	found := Exchange{Exchange: topology.Exchange{Name: like.Name}}
	var err error
	found.Exists, found.Hidden, err = s.look(ctx, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(like.Name, string(topology.Direct), true, false, false, false, nil)
	})
	if err != nil || found.Hidden != "" || !found.Exists {
		return found, err
	}
	q := askExchange(like)
	found.Hidden, err = s.agree(ctx, q, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(like.Name, q.kind, q.flags["durable"], q.flags["auto_delete"], q.flags["internal"], false, q.arguments)
	})
	if err == nil && found.Hidden == "" {
		found.Exchange = q.exchange(like.Name)
	}
	return found, err
}

// look declares an object passively, and says whether it exists, or why the broker does not tell.
func (s Survey) look(ctx context.Context, passive func(*amqp.Channel) error) (exists bool, reason string, err error) {
	answer := s.On.WithChannel(ctx, passive)
	reason, err = hidden(answer)
	return answer == nil || reason != "", reason, err
}

// agree asks until the broker agrees with the question: it is corrected by each refusal.
func (s Survey) agree(ctx context.Context, q *question, declare func(*amqp.Channel) error) (unknown string, err error) {
	const most = 100 // more than there are arguments
	for range most {
		err := s.On.WithChannel(ctx, declare)
		switch {
		case err == nil:
			return "", nil
		case !refusal.Differs(err):
			return hidden(err)
		}
		var answer *amqp.Error
		if !errors.As(err, &answer) || !q.correct(answer.Reason) {
			return "the broker's answer does not name the difference: " + err.Error(), nil
		}
	}
	return "the broker names no end of differences", nil
}

// hidden says why the broker does not tell about an object that may exist. Both are empty
// for one that does not exist, and for one that it tells about.
func hidden(err error) (reason string, _ error) {
	var answer *amqp.Error
	switch {
	case err == nil:
		return "", nil
	case refusal.Missing(err):
		if errors.As(err, &answer) && strings.Contains(answer.Reason, "down or inaccessible") {
			return "the node that has it is down", nil
		}
		return "", nil
	case refusal.Locked(err):
		return "it is exclusive to another connection", nil
	case refusal.Forbidden(err):
		return "the user has no configure permission for this name", nil
	default:
		return "", err
	}
}
