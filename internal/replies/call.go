package replies

import (
	"context"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// Reply is a message that has come for a call.
type Reply struct {
	Raw amqp.Delivery
	// Packed are the properties and the body, as they came; Unreadable is not nil when the
	// headers cannot be read.
	Packed     []byte
	Unreadable *wire.UnreadableError
}

// Call waits for one reply.
type Call struct {
	queue       *Queue
	id, address string

	// What follows is set before done is closed.
	reply *Reply
	err   error
	done  chan struct{}
}

// Address is the queue that the reply has to be sent to.
func (c *Call) Address() string { return c.address }

// Done is closed when the call has its reply, or cannot get one any more.
func (c *Call) Done() <-chan struct{} { return c.done }

// Wait returns the reply. It fails with ErrLost, or session.ErrStopped, or the cause of ctx.
func (c *Call) Wait(ctx context.Context) (*Reply, error) {
	select {
	case <-c.done:
		return c.reply, c.err
	default: // first, because select chooses at random
	}
	select {
	case <-c.done:
		return c.reply, c.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// End forgets the call. A reply that comes later is one that nobody waits for.
func (c *Call) End() {
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	if c.queue.calls[c.id] == c {
		delete(c.queue.calls, c.id)
	}
}
