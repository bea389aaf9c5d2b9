// Package replies keeps the reply queue of a service. It declares the queue when somebody
// first expects a reply, consumes from it on one session after the other, and hands each
// reply to the call that waits for it. It knows no codec and no meaning of a reply.
package replies

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/internal/wire"
)

// Config is what a reply queue needs. No field is optional.
type Config struct {
	// Link has the sessions that the queue is consumed on.
	Link    *session.Link
	BackOff func() backoff.BackOff
	Log     *zap.Logger
	// Name makes the name of a reply queue, another one at each call.
	Name func() string
	// Declare creates the queue and what leads to it.
	Declare func(ctx context.Context, on *session.Session, queue string) error
	// ID is the correlation id of a reply.
	ID func(*amqp.Delivery) string
	// Late counts the replies that no call waits for.
	Late *atomic.Uint64
}

// ErrLost is the error of a call whose reply queue is gone.
var ErrLost = errors.New("the reply queue is gone, and the reply with it")

// errTaken is the error of a second call with the id of another one.
var errTaken = fmt.Errorf("%w: a request with this correlation id waits for its reply already", session.ErrRefused)

// Queue is the reply queue of one service. A queue outlives the connection, so a reply that
// comes while there is none waits for the next one. When the queue itself is gone, every
// call that waits fails at once, and the next call has a queue with another name.
type Queue struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	running bool
	ended   chan struct{} // closed when run has returned; nil before the first run
	name    string        // of the queue that calls may name; empty while there is none
	err     error         // why the latest attempt to consume has ended
	changed chan struct{} // closed and replaced when name or running changes
	calls   map[string]*Call
}

// New makes a reply queue. Nothing is declared before the first Expect.
func New(cfg Config) *Queue {
	q := &Queue{cfg: cfg, changed: make(chan struct{}), calls: map[string]*Call{}}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

// Expect returns a call that waits for the reply with a correlation id. It declares the
// queue if there is none yet, and waits for the connection until ctx ends. A refusal of the
// broker is an error at once.
func (q *Queue) Expect(ctx context.Context, id string) (*Call, error) {
	for {
		c, changed, err := q.expect(id)
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-changed:
			if err := q.stopped(); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, errors.Join(q.cfg.Link.NotConnected(ctx), q.latest())
		}
	}
}

// latest is why the latest attempt to consume has failed.
func (q *Queue) latest() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// expect returns a call, or what tells of the next change if there is no queue yet.
func (q *Queue) expect(id string) (*Call, <-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.ctx.Err() != nil:
		return nil, nil, session.ErrStopped
	case q.calls[id] != nil:
		return nil, nil, errTaken
	case q.name != "":
		c := &Call{queue: q, id: id, address: q.name, done: make(chan struct{})}
		q.calls[id] = c
		return c, nil, nil
	case q.running:
		return nil, q.changed, nil
	}
	ended := make(chan struct{})
	if !q.cfg.Link.Spawn(func() { q.run(ended) }) {
		return nil, nil, session.ErrStopped
	}
	q.running, q.ended, q.err = true, ended, nil
	return nil, q.changed, nil
}

// stopped is why nothing runs, or nil while something does.
func (q *Queue) stopped() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running {
		return nil
	}
	return q.err
}

// Close ends every call with session.ErrStopped, and deletes the queue if there is a
// connection. Otherwise the broker deletes it later.
func (q *Queue) Close() {
	q.cancel()
	q.lose(session.ErrStopped)
	q.mu.Lock()
	ended := q.ended
	q.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// run consumes until Close, or until the broker refuses it.
func (q *Queue) run(ended chan<- struct{}) {
	defer close(ended)
	pauses := wait.NewPauses(q.cfg.Log, q.cfg.BackOff)
	for {
		began := time.Now()
		err := q.consume()
		switch {
		case q.ctx.Err() != nil || errors.Is(err, session.ErrStopped):
			q.end(session.ErrStopped)
			return
		case session.Permanent(err):
			q.cfg.Log.Error("the broker refuses the reply queue; the next request tries again", zap.Error(err))
			q.lose(errors.Join(ErrLost, err))
			q.end(err)
			return
		}
		q.note(err)
		if time.Since(began) > session.Stable {
			pauses.Reset()
		}
		wait.Sleep(q.ctx, wait.Next(pauses))
	}
}

// consume consumes on one session until that ends, or the consumer does.
func (q *Queue) consume() error {
	on, err := q.cfg.Link.Session(q.ctx)
	if err != nil {
		return err
	}
	name := q.current()
	if name != "" {
		name = q.look(on, name)
	}
	if name == "" {
		name = q.cfg.Name()
		if err := q.cfg.Declare(q.ctx, on, name); err != nil {
			return err
		}
	}
	s, err := q.subscribe(on, name)
	if err != nil {
		return err
	}
	q.set(name)
	return s.follow()
}

// look says whether the queue of the session before is still there. Its replies are lost if
// it is not, or if its node is down.
func (q *Queue) look(on *session.Session, name string) string {
	err := on.WithChannel(q.ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	if !refusal.Missing(err) {
		return name // or consuming tells
	}
	q.cfg.Log.Warn("the reply queue is gone; requests that wait for their reply fail", zap.String("queue", name), zap.Error(err))
	q.lose(errors.Join(ErrLost, err))
	return ""
}

// Waiting is how many calls wait for their replies.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls)
}

func (q *Queue) current() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.name
}

// set lets calls name the queue.
func (q *Queue) set(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.name = name
	q.tell()
}

// note keeps why an attempt to consume has ended, and logs it.
func (q *Queue) note(err error) {
	q.cfg.Log.Warn("the replies to requests are not consumed; resuming", zap.Error(err))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

// end notes that nothing runs any more.
func (q *Queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running, q.err = false, err
	q.tell()
}

// tell is called with q.mu held.
func (q *Queue) tell() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// lose forgets the queue and ends every call with err.
func (q *Queue) lose(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.name = ""
	for id, c := range q.calls {
		c.err = err
		delete(q.calls, id)
		close(c.done)
	}
}

// hand gives a reply to its call.
func (q *Queue) hand(raw amqp.Delivery) error {
	r := &Reply{Raw: raw, Packed: raw.Body}
	if err := wire.Unpack(&r.Raw); err != nil && !errors.As(err, &r.Unreadable) {
		return err
	}
	id := q.cfg.ID(&r.Raw)
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.calls[id]
	if c == nil {
		q.cfg.Late.Add(1)
		return nil
	}
	c.reply = r
	delete(q.calls, id)
	close(c.done)
	return nil
}
