package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// LockName is the name of the queue that keeps operators of a queue apart.
func LockName(queue string) string { return "harebus.operator." + ShortName(queue) }

// ShortName is the name of a queue, or a hash of a long one: there is room for what stands before
// and after it in the name of another queue.
func ShortName(queue string) string {
	const most = 200
	if len(queue) <= most {
		return queue
	}
	sum := sha256.Sum256([]byte(queue))
	return hex.EncodeToString(sum[:])
}

// Lock declares an exclusive queue: no other connection can declare it, and it is gone with the
// one that has. While somebody else has it, Lock tries again for as long as patience: the broker
// takes a moment to notice that a process was killed.
func Lock(ctx context.Context, s *session.Session, name string, patience time.Duration) error {
	const pause = 50 * time.Millisecond
	for late := time.Now().Add(patience); ; {
		err := s.WithChannel(ctx, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, false, false, true, false, nil)
			return err
		})
		if !refusal.Locked(err) || time.Now().After(late) {
			return err
		}
		if !wait.Sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}
