package harebus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
)

// stable is how long a session must have lived for its loss to be a new
// trouble. One that ends sooner continues the back-off of the last: a message
// that kills every connection must not cause a storm of them.
const stable = 10 * time.Second

// link keeps one connection up: a new session follows every one that ends, for
// as long as the link is open. It connects when first asked for a session.
type link struct {
	name    string
	dialer  *dialer
	backoff func() backoff.BackOff
	log     *zap.Logger
	waits   waiter
	needs   int // channels
	trace   tracer
	stats   *counters

	frameMax *atomic.Int64 // where the setup looks for it

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	running bool
	once    bool // a session has been up
	current *session
	err     error         // why there is no session
	refused time.Time     // since when the broker has refused every connection; zero while it does not
	changed chan struct{} // closed and replaced whenever the above changes
}

// newLink makes a link whose connections need so many channels.
func newLink(name string, s *Setup, needs int) *link {
	l := &link{
		name:     name,
		dialer:   s.dialer,
		backoff:  s.cfg.Connect.BackOff,
		waits:    s.waits,
		needs:    needs,
		log:      s.log.Named(name),
		trace:    s.trace,
		stats:    &s.counters,
		frameMax: &s.latestFrameMax,
		changed:  make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// session returns the session that is up, waiting for one if need be. It fails
// when ctx ends, when the link is closed, and, before the first session, when
// the broker refuses for good.
func (l *link) session(ctx context.Context) (*session, error) {
	for {
		l.mu.Lock()
		if l.current != nil && l.current.alive() {
			s := l.current
			l.mu.Unlock()
			return s, nil
		}
		if l.ctx.Err() != nil {
			l.mu.Unlock()
			return nil, ErrStopped
		}
		started := !l.running
		if started {
			l.start()
		}
		changed := l.changed
		l.mu.Unlock()

		select {
		case <-changed:
			if err := l.gaveUp(); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, l.notConnected(ctx)
		}
	}
}

// gaveUp returns the reason for which a link gave up before its first session.
func (l *link) gaveUp() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running || l.current != nil {
		return nil
	}
	if l.ctx.Err() != nil {
		return ErrStopped
	}
	return l.err
}

// notConnected is the error of somebody who has waited for a session, or for what a
// session needs to be used.
func (l *link) notConnected(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.current.alive() {
		return fmt.Errorf("the broker does not answer: %w", context.Cause(ctx))
	}
	if l.err != nil {
		return fmt.Errorf("not connected: %w: %w", context.Cause(ctx), l.err)
	}
	return fmt.Errorf("not connected: %w", context.Cause(ctx))
}

// up returns the session, or the reason why there is none.
func (l *link) up() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.current.alive() {
		return l.current, nil
	}
	if l.err != nil {
		return nil, l.err
	}
	return nil, errors.New("not connected yet")
}

// use has the link connect if it does not yet.
func (l *link) use() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running && l.ctx.Err() == nil {
		l.start()
	}
}

// refusedFor is how long the broker has refused every connection.
func (l *link) refusedFor() (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused.IsZero() {
		return 0, nil
	}
	return time.Since(l.refused), l.err
}

// start is called with l.mu held.
func (l *link) start() {
	l.running = true
	l.wg.Go(l.run)
}

// spawn starts a goroutine that close waits for. It does not when the link is
// being closed, and says so.
func (l *link) spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.wg.Go(fn)
	return true
}

func (l *link) run() {
	policy := newPauses(l.log, l.backoff)
	told := false // that there is no connection
	tell := l.waits.while(l.waitsFor(), l.reason)
	defer func() { tell() }()
	for {
		s, err := l.connect()
		if err == nil {
			up := time.Now()
			tell()
			told = false
			<-s.closed
			tell = l.waits.while(l.waitsFor(), l.reason)
			err = s.cause()
			l.dialer.had(s.address, trouble{at: time.Now()})
			if l.ctx.Err() == nil {
				l.log.Warn("connection lost", zap.Error(err))
			}
			s.close()
			if time.Since(up) > stable {
				policy.Reset()
			}
		}
		if l.set(nil, err) {
			return
		}
		if s == nil && !told {
			told = true
			l.log.Warn("no connection to the broker; trying again", zap.Error(err))
		}
		if !sleep(l.ctx, next(policy)) {
			l.set(nil, ErrStopped)
			return
		}
	}
}

func (l *link) waitsFor() string { return "the " + l.name + " connection to the broker" }

// reason is why there is no session, nil once the link is closed.
func (l *link) reason() error {
	if l.ctx.Err() != nil {
		return nil //nolint:nilerr // a closed link waits for nothing
	}
	_, err := l.up()
	return err
}

func (l *link) connect() (*session, error) {
	ctx, end := l.trace.startApart(l.ctx, TraceEvent{Operation: OpConnect, Connection: l.name})
	s, err := l.dialer.dial(ctx, l.name)
	if err == nil {
		err = l.enough(s)
	}
	end(err)
	if err != nil {
		return nil, err
	}
	l.stats.connections.Add(1)
	l.log.Info("connected", zap.String("broker", fmt.Sprint(s.conn.Properties["version"])))
	l.frameMax.Store(int64(s.frameMax))
	l.set(s, nil)
	// Close may have come between: it ends the session that it did not see.
	if l.ctx.Err() != nil {
		_ = s.sock.Abort()
	}
	return s, nil
}

// extra opens a connection beside that of the link. Its owner closes it; when the link is
// closed first, it ends.
func (l *link) extra(ctx context.Context, name string) (*session, error) {
	s, err := l.dialer.dial(ctx, l.name+" "+name)
	if err != nil {
		return nil, err
	}
	l.stats.connections.Add(1)
	s.spawn(func() {
		select {
		case <-l.ctx.Done():
			_ = s.sock.Abort()
		case <-s.closed:
		}
	})
	return s, nil
}

// enough refuses a session that has not the channels that are needed.
func (l *link) enough(s *session) error {
	allowed := int(s.conn.Config.ChannelMax)
	if allowed >= l.needs {
		return nil
	}
	s.close()
	return &channelsError{needed: l.needs, allowed: allowed}
}

// set publishes a new state and says whether run must end.
func (l *link) set(s *session, err error) (stop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stop = s == nil && (l.ctx.Err() != nil || (!l.once && permanent(err)))
	l.current, l.err = s, err
	switch {
	case s != nil || !permanent(err):
		l.refused = time.Time{}
	case l.refused.IsZero():
		l.refused = time.Now()
	}
	l.once = l.once || s != nil
	l.running = !stop
	close(l.changed)
	l.changed = make(chan struct{})
	return stop
}

// close ends the session and waits for everything the link started.
func (l *link) close() {
	l.mu.Lock()
	l.cancel()
	s := l.current
	l.mu.Unlock()
	if s != nil {
		s.close()
	}
	l.wg.Wait()
}

// next asks a policy for a pause; one that has come to its end starts anew.
func next(policy backoff.BackOff) time.Duration {
	d := policy.NextBackOff()
	if d == backoff.Stop {
		policy.Reset()
		d = policy.NextBackOff()
	}
	return max(d, 0)
}

// sleep waits for d and says whether it did: false means that ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
