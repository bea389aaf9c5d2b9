package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/internal/wire"
)

// ConfirmChannel is one AMQP channel in confirm mode that many goroutines
// publish on. A place in its window is held from before the publish until the
// outcome is known, also when the caller has stopped waiting.
//
// basic.return comes before its confirm, and the client hands the return over
// before it resolves the confirm: so a goroutine that sees a confirm resolved finds
// the return in the buffer. The buffer holds as many as the window, so it never
// fills up; a full one would make the client drop returns, and their messages would
// pass for delivered.
type ConfirmChannel struct {
	session *Session
	ch      *amqp.Channel
	cfg     ConfirmConfig
	window  chan struct{}
	returns chan amqp.Return

	// sending is held for reading by publishes and for writing by request, because
	// the frames of a request between those of a publish would end the whole
	// connection.
	sending  sync.RWMutex
	retired  chan struct{} // closed by Retire
	retiring sync.Once
	dead     atomic.Bool // no new messages
	epochs   [epochs]atomic.Int64
	epoch    atomic.Int64
	settled  atomic.Uint64 // messages that the broker has answered

	mu       sync.Mutex // guards what follows
	returned map[returnKey]int
	err      error // why the broker closed the channel
	closed   chan struct{}
	answered <-chan struct{} // closed when the latest request is over
}

// epochs divides the confirm timeout. Each message is counted in the epoch in which
// it was published. If an epoch is not empty when its number is used again, one of
// its messages is overdue. So no timer is needed for each message.
const epochs = 5

var errRetired = errors.New("the channel was replaced")

// returnKey identifies a returned message.
type returnKey struct{ messageID, exchange, key string }

// ConfirmConfig is how messages are published on a channel.
type ConfirmConfig struct {
	Window  int           // the most messages that are not confirmed yet
	Timeout time.Duration // after which a channel that does not confirm is replaced
	Log     *zap.Logger
	Waits   wait.Teller
	// Plain is called for each message that the client had to encode; always says
	// that the client encodes all of them.
	Plain func(always bool)
}

// Confirms is the configuration for a program that is no service: nobody counts the messages
// that the client had to encode.
func Confirms(window int, timeout time.Duration, log *zap.Logger) ConfirmConfig {
	return ConfirmConfig{Window: window, Timeout: timeout, Log: log, Waits: wait.Teller{Log: log}, Plain: func(bool) {}}
}

// Publishing is a message and where it goes.
type Publishing struct {
	Exchange, Key string
	Mandatory     bool
	Room          int // for what the broker adds to the headers on the way
	Message       amqp.Publishing
	// Table, if any, is an encoded table that takes the place of the headers of Message.
	Table wire.RawTable
}

// Flight is a message on its way.
type Flight struct {
	confirm *amqp.DeferredConfirmation
	key     returnKey
	epoch   int64
	err     error // it was not sent
	sent    bool  // a place in the window is held, or err is set
}

// Sent says whether the message has been handed to a channel, which knows its result.
func (f *Flight) Sent() bool { return f.sent }

// OpenConfirmChannel opens a channel of a session.
func OpenConfirmChannel(ctx context.Context, s *Session, cfg ConfirmConfig) (*ConfirmChannel, error) {
	c := &ConfirmChannel{
		session:  s,
		cfg:      cfg,
		window:   make(chan struct{}, cfg.Window),
		returns:  make(chan amqp.Return, cfg.Window),
		returned: map[returnKey]int{},
		retired:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
	var closes chan *amqp.Error
	err := s.RPC(ctx, func() error {
		ch, err := s.conn.Channel()
		if err != nil {
			return err
		}
		if err := ch.Confirm(false); err != nil {
			_ = ch.Close()
			return err
		}
		ch.NotifyReturn(c.returns)
		closes = ch.NotifyClose(make(chan *amqp.Error, 1))
		c.ch = ch
		if ctx.Err() != nil { // no call waits for it any more
			_ = ch.Close()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !s.Spawn(func() { c.watch(closes) }) {
		return nil, s.Cause()
	}
	return c, nil
}

// watch follows the channel to its end.
func (c *ConfirmChannel) watch(closes <-chan *amqp.Error) {
	tick := time.NewTicker(c.cfg.Timeout / (epochs - 1))
	defer tick.Stop()
	tell := func() {}
	defer func() { tell() }()
	retired := c.retired
	for {
		select {
		case err := <-closes:
			c.dead.Store(true)
			c.mu.Lock()
			if err != nil {
				c.err = err
			}
			close(c.closed)
			c.mu.Unlock()
			return
		case <-retired:
			retired = nil
			c.session.Spawn(c.drainAndClose)
		case <-tick.C:
			tell()
			tell = func() {}
			if c.slow() {
				tell = c.cfg.Waits.While("confirms of the broker", c.unconfirmed)
				c.probe()
			}
			if c.overdue() {
				c.cfg.Log.Warn("the broker does not confirm; replacing the channel",
					zap.Duration("confirm_timeout", c.cfg.Timeout))
				c.Retire()
				c.close()
			}
		}
	}
}

// overdue starts a new epoch and says whether the one whose place it takes
// still has messages. Time does not pass while the broker blocks publishers: it
// has not read them yet.
func (c *ConfirmChannel) overdue() bool {
	if c.session.BlockedReason() != "" {
		return false
	}
	next := c.epoch.Load() + 1
	late := c.epochs[next%epochs].Load() > 0
	if !late {
		c.epoch.Store(next)
	}
	return late
}

// slow says whether a message is unconfirmed for longer than an epoch.
func (c *ConfirmChannel) slow() bool {
	for n := range int64(epochs) {
		if n != c.epoch.Load()%epochs && c.epochs[n].Load() > 0 {
			return c.session.BlockedReason() == ""
		}
	}
	return false
}

// unconfirmed returns the number of unconfirmed messages.
func (c *ConfirmChannel) unconfirmed() error {
	return fmt.Errorf("%d messages are not confirmed yet%s", len(c.window), c.jam())
}

// jam says, as the end of a text, that the network takes no more. It is not wrapped as
// an error: what was handed to the socket may have been sent.
func (c *ConfirmChannel) jam() string {
	if c.session.sock.Full() {
		return ", " + wire.ErrFull.Error()
	}
	return ""
}

// cutShort is the error of a call whose context has ended before the confirm came.
func (c *ConfirmChannel) cutShort(ctx context.Context) error {
	if reason := c.session.BlockedReason(); reason != "" {
		return fmt.Errorf("no confirm, the broker blocks publishers (%s): %w", reason, context.Cause(ctx))
	}
	return fmt.Errorf("no confirm%s: %w", c.jam(), context.Cause(ctx))
}

// probe sends a request on the channel and ends the connection if no answer comes. It
// detects a stuck channel of the broker: the first message to a queue with
// reject-publish, as delay queues have, makes RabbitMQ's channel wait for the queue's
// leader. If the leader freezes at that moment, everything on the channel waits, for up
// to 65 s.
func (c *ConfirmChannel) probe() {
	answered := make(chan struct{})
	defer close(answered)
	c.request(func() {
		if c.session.Spawn(func() { c.expect(answered) }) {
			_ = c.ch.Qos(0, 0, false) // has no effect on a channel without consumers; if it fails, the channel has ended
		}
	})
}

// expect ends the connection unless an answer or a confirm comes on the channel in
// time. The time begins when everything written before has been sent, because a slow
// network is no fault. It begins again with each confirm on the channel, and does not
// run while the broker blocks publishers, because it reads nothing then.
func (c *ConfirmChannel) expect(answered <-chan struct{}) {
	const looks = 10
	limit := max(c.cfg.Timeout/3, time.Second)
	look := time.NewTicker(limit / looks)
	defer look.Stop()
	before, settled := c.session.sock.Queued(), c.settled.Load()
	for left := looks; left > 0; left-- {
		select {
		case <-answered:
			return
		case <-look.C:
		}
		now := c.settled.Load()
		if now != settled || c.session.sock.Sent() < before || c.session.BlockedReason() != "" {
			settled, left = now, looks
		}
	}
	c.cfg.Log.Warn("a channel of the broker does not answer; connecting again", zap.Duration("waited", limit))
	c.session.Abort()
}

// drainAndClose waits until every message has an outcome, then closes.
func (c *ConfirmChannel) drainAndClose() {
	for range cap(c.window) {
		select {
		case c.window <- struct{}{}:
		case <-c.session.closed:
			return
		case <-c.closed:
			return
		}
	}
	c.close()
}

// close asks the broker to close the channel; the outcome of every unconfirmed
// message is then unknown.
func (c *ConfirmChannel) close() {
	c.request(func() { _ = c.session.RPC(context.Background(), c.ch.Close) })
}

// request runs fn, which asks the broker something on the channel, between
// publishes.
func (c *ConfirmChannel) request(fn func()) {
	answered := make(chan struct{})
	defer close(answered)
	c.mu.Lock()
	c.answered = answered
	c.mu.Unlock()
	c.sending.Lock()
	defer c.sending.Unlock()
	fn()
}

// Retire takes the channel out of use. What is out is still waited for.
func (c *ConfirmChannel) Retire() {
	c.dead.Store(true)
	c.retiring.Do(func() { close(c.retired) })
}

// Usable says whether the channel takes messages.
func (c *ConfirmChannel) Usable() bool {
	return !c.dead.Load() && !c.ch.IsClosed() && c.session.Alive()
}

// Acquire takes a place in the window. It fails when the channel is taken out of
// use: its places are then never free again.
func (c *ConfirmChannel) Acquire(ctx context.Context) error {
	select {
	case c.window <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.window <- struct{}{}:
		return nil
	case <-c.retired:
		return errRetired
	case <-c.closed:
		return errRetired
	case <-c.session.closed:
		return c.session.Cause()
	case <-ctx.Done():
		return fmt.Errorf("no place for another message: %w: %w", c.unconfirmed(), c.cutShort(ctx))
	}
}

// TryAcquire is Acquire if there is a place now.
func (c *ConfirmChannel) TryAcquire() bool {
	select {
	case c.window <- struct{}{}:
		return true
	default:
		return false
	}
}

// Publish sends a message; the caller has acquired a place in the window. While the
// network takes no more, it calls relieve until that has nothing to do, and then waits.
func (c *ConfirmChannel) Publish(ctx context.Context, p *Publishing, relieve func() bool) Flight {
	f := Flight{sent: true, key: returnKey{p.Message.MessageId, p.Exchange, p.Key}}
	if f.confirm, f.err = c.send(ctx, p, relieve); f.err != nil {
		<-c.window
		return f
	}
	f.epoch = c.epoch.Load() % epochs // the time that it waited above does not count
	c.epochs[f.epoch].Add(1)
	return f
}

// send publishes the message: the client counts an empty message, and our
// connection sends the real one instead. If that fails, the client encodes the
// message.
func (c *ConfirmChannel) send(ctx context.Context, p *Publishing, relieve func() bool) (confirm *amqp.DeferredConfirmation, err error) {
	m, err := wire.EncodeWith(p.Table, p.Exchange, p.Key, p.Mandatory, &p.Message, c.session.frameMax)
	if err != nil {
		return nil, err
	}
	defer m.Free()
	if size, most := m.HeaderFrame(), c.session.frameMax-p.Room; size > most {
		return nil, wire.UnsentError{Err: fmt.Errorf("%w: %w", ErrRefused, TooLong(size, most, c.session.frameMax))}
	}
	for {
		if err := c.hold(ctx); err != nil {
			return nil, err
		}
		replaced, err := c.session.sock.Instead(m, func() (err error) {
			confirm, err = c.ch.PublishWithDeferredConfirm("", "", false, false, amqp.Publishing{})
			return err
		}, func() (err error) {
			if p.Table != nil {
				return wire.UnsentError{Err: errors.New("the AMQP client cannot send a table that it cannot read")}
			}
			confirm, err = c.ch.PublishWithDeferredConfirm(p.Exchange, p.Key, p.Mandatory, false, p.Message)
			return err
		})
		c.sending.RUnlock()
		if !replaced && err == nil {
			c.cfg.Plain(c.session.sock.Plain())
		}
		if !errors.Is(err, wire.ErrFull) {
			return confirm, err
		}
		if relieve() {
			continue
		}
		if err := c.session.room(ctx); err != nil {
			return nil, err
		}
	}
}

// hold begins a publish. During a request, whose answer may never come, it waits
// until ctx ends.
func (c *ConfirmChannel) hold(ctx context.Context) error {
	for !c.sending.TryRLock() {
		c.session.sock.Admit() // there may be room, and another can use it
		c.mu.Lock()
		answered := c.answered
		c.mu.Unlock()
		select {
		case <-answered:
		case <-ctx.Done():
			return wire.UnsentError{Err: fmt.Errorf("the broker does not answer on the channel: %w", context.Cause(ctx))}
		}
	}
	return nil
}

// Wait returns the result of a message; its verdict is Unknown when ctx ends first.
func (c *ConfirmChannel) Wait(ctx context.Context, f Flight) Result {
	if f.err != nil {
		if errors.Is(f.err, ErrRefused) {
			return Result{Verdict: NotSent, Err: f.err, Final: true}
		}
		if errors.Is(f.err, amqp.ErrClosed) || errors.As(f.err, new(wire.UnsentError)) {
			return Result{Verdict: NotSent, Err: f.err}
		}
		if errors.Is(f.err, wire.ErrUnencodable) {
			return Result{Verdict: Refused, Err: f.err, Final: true}
		}
		return Result{Verdict: Unknown, Err: f.err}
	}
	select {
	case <-f.confirm.Done():
		return c.resolve(f)
	default:
	}
	select {
	case <-f.confirm.Done():
		return c.resolve(f)
	case <-ctx.Done():
		// Its place is taken until the broker has spoken.
		c.session.Spawn(func() {
			<-f.confirm.Done()
			c.resolve(f)
		})
		return Result{Verdict: Unknown, Err: c.cutShort(ctx)}
	}
}

// resolve reads the outcome of a message whose confirm is done.
func (c *ConfirmChannel) resolve(f Flight) Result {
	c.epochs[f.epoch].Add(-1)
	<-c.window
	if f.confirm.Acked() {
		c.settled.Add(1)
		if c.wasReturned(f.key) {
			return Result{Verdict: Returned}
		}
		return Result{Verdict: Confirmed}
	}
	// The client reports a nack and the end of the channel alike.
	if c.ch.IsClosed() {
		return c.lost(f)
	}
	c.settled.Add(1)
	c.Retire()
	return Result{Verdict: Nacked}
}

// lost is the result of a message that was unconfirmed when its channel ended.
func (c *ConfirmChannel) lost(f Flight) Result {
	err := c.reason()
	broker := errors.As(err, new(*amqp.Error))
	if !c.session.Alive() {
		return Result{Verdict: Unknown, Err: err, Ended: Suspicion(err)}
	}
	// All before it were answered, and none came after it.
	lone := c.settled.Load() == f.confirm.DeliveryTag-1 && c.ch.GetNextPublishSeqNo() == f.confirm.DeliveryTag+1
	return Result{Verdict: Unknown, Err: err, Raised: broker, Lone: broker && lone}
}

// reason returns why the channel is closed.
func (c *ConfirmChannel) reason() error {
	select {
	case <-c.closed:
	case <-c.session.closed:
		return c.session.Cause()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return errors.New("the channel was closed before the confirm")
}

// wasReturned drains the returns that have come so far and says whether one of
// them is this message.
func (c *ConfirmChannel) wasReturned(key returnKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		select {
		case r, ok := <-c.returns:
			if ok {
				c.returned[returnKey{r.MessageId, r.Exchange, r.RoutingKey}]++
				continue
			}
		default:
		}
		break
	}
	n := c.returned[key]
	if n > 1 {
		c.returned[key]--
	} else {
		delete(c.returned, key)
	}
	return n > 0
}

// Session is the session of the channel.
func (c *ConfirmChannel) Session() *Session { return c.session }
