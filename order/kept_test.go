package order_test

import (
	"context"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
)

// TestKeptByAnotherOne: the broker has cancelled the consumer of somebody who keeps all that is parked, and the next owner begins
// without it. When it comes after all, it is taken up, and not for copies that came too late.
func TestKeptByAnotherOne(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Retry.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Hour) }
		first := r.serve(bad("a", 1))
		r.send("a1 a2 b1")
		r.rest(time.Second)
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer func() { r.try(conn.Close()) }()
		stranger, err := conn.Channel()
		r.try(err)
		_, err = stranger.Consume("steps.parked", "", false, false, false, false, nil)
		r.try(err)
		r.try(first.Close())
		r.rest(time.Second)
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		r.try(r.broker.CancelConsumers("steps.parked"))
		r.rest(time.Second)
		r.send("b2")
		r.rest(time.Second)
		r.wants("b", "1 2")
		r.wants("a", "")
		r.try(stranger.Close())
		r.rest(2 * time.Hour)
		r.wants("a", "1 2")
		r.send("a3 b3")
		r.rest(time.Second)
		r.wants("a", "1 2 3")
		r.wants("b", "1 2 3")
	})
}

// TestCancelledWhileHandling: the broker cancels the owner's consumer of the parking queue while a handler runs that does not heed its context.
// The next one handles nothing of the queue before it has what the owner has parked.
func TestCancelledWhileHandling(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Retry.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) }
		failed := false
		handler := func(_ context.Context, s step) error {
			switch {
			case s.Key == "b":
				time.Sleep(20 * time.Second)
			case s.N == 1 && !failed:
				failed = true
				return errBad
			}
			return nil
		}
		r.serve(handler)
		r.send("a1 a2 a3 b1")
		r.rest(time.Second)
		r.serve(handler)
		r.rest(time.Second)
		r.try(r.broker.CancelConsumers("steps.parked"))
		r.send("a4")
		r.rest(5 * time.Minute)
		r.wants("a", "1 2 3 4")
	})
}
