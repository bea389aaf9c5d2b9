package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/parked"
)

// Settle waits until every confirmed message has ended, or nothing has happened
// for patience; then a little longer, for what is being parked.
func (s *Service) Settle(ctx context.Context, patience time.Duration) error {
	const poll = 100 * time.Millisecond
	left, since := len(s.Book.Pending(s.attempts)), time.Now()
	for left > 0 && time.Since(since) < patience {
		if err := Wait(ctx, poll); err != nil {
			return err
		}
		if now := len(s.Book.Pending(s.attempts)); now != left {
			left, since = now, time.Now()
		}
	}
	return Wait(ctx, s.linger)
}

// Wait waits for d, or until ctx ends: then it returns why.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Drain empties the service's queues and their error queues with a plain client and
// writes down what it finds. The service must have been stopped.
func (s *Service) Drain(conn *amqp.Connection) error {
	return s.drainer()(conn.Channel, func() {})
}

// drainer is Drain on a connection of any kind, which can be called again on another when one was
// cut: a message whose acknowledgement was lost comes again and is written down once. It
// calls next before each request.
func (s *Service) drainer() func(open func() (*amqp.Channel, error), next func()) error {
	s.noteRepublished()
	seen := map[string]bool{}
	return func(open func() (*amqp.Channel, error), next func()) error {
		for _, l := range s.lanes {
			for queue, op := range map[string]ledger.Op{l.errors: ledger.Parked, l.queue: ledger.Drained} {
				if err := drain(open, next, queue, func(d *amqp.Delivery) {
					if s.stray != nil && s.stray(d) {
						return
					}
					s.unseal(d, l.queue)
					e := ledger.Event{Op: op, ID: identity(d, l.queue), Queue: queue}
					if d.Type == (Work{}).MessageType() {
						e.Sum = ledger.Sum(d.Body)
					}
					if key := queue + " " + e.ID; !seen[key] || !d.Redelivered {
						seen[key] = true
						s.Book.Record(e)
					}
				}); err != nil {
					return fmt.Errorf("proof: drain %s: %w", queue, err)
				}
			}
		}
		return nil
	}
}

// unseal opens the body of a message of a listener queue or of its error queue. What does not
// open stays as it is, and has then no identity that the ledger knows.
func (s *Service) unseal(d *amqp.Delivery, queue string) {
	if s.guard == nil {
		return
	}
	id, p := parked.Read("PikaBus.", d, queue)
	if err := s.guard.Admit(context.Background(), id, p); err == nil {
		d.Body = p.Body
	}
}

func drain(open func() (*amqp.Channel, error), next func(), queue string, take func(*amqp.Delivery)) error {
	next()
	ch, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	for {
		next()
		d, ok, err := ch.Get(queue, false)
		var missing *amqp.Error
		if errors.As(err, &missing) && missing.Code == amqp.NotFound && !strings.Contains(missing.Reason, "home node") {
			return nil // a queue of a node out of reach is not missing
		}
		if err != nil || !ok {
			return err
		}
		take(&d)
		if err := d.Ack(false); err != nil {
			return err
		}
	}
}

// identity is the id that a message has in the ledger: that of its body. queue is the
// listener queue of the endpoint that it was found at.
func identity(d *amqp.Delivery, queue string) string {
	var body struct {
		ID string `json:"ID"`
		To string `json:"To"`
	}
	if err := json.Unmarshal(d.Body, &body); err != nil || body.ID == "" {
		return "unreadable " + d.MessageId
	}
	if d.Type == (Work{}).MessageType() && body.ID != d.MessageId {
		return fmt.Sprintf("%s carrying %s", d.MessageId, body.ID)
	}
	return found(body.ID, body.To, queue)
}

// Expect is what a verdict on the service compares with.
func (s *Service) Expect() ledger.Expect {
	return ledger.Expect{Fails: MeantToFail, MaxAttempts: s.attempts, Slack: time.Millisecond}
}

var _ harebus.Observer = observer{}
