package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/wait"
)

// Stable is how long a session must have lived for its loss to be a new
// trouble. One that ends sooner continues the back-off of the last: a message
// that kills every connection must not cause a storm of them.
const Stable = 10 * time.Second

// Link keeps one connection up: a new session follows every one that ends, for
// as long as the link is open. It connects when first asked for a session.
type Link struct {
	name   string
	dialer *Dialer
	log    *zap.Logger
	waits  wait.Teller
	needs  atomic.Int64 // channels

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	running bool
	once    bool // a session has been up
	current *Session
	err     error         // why there is no session
	refused time.Time     // since when the broker has refused every connection; zero while it does not
	changed chan struct{} // closed and replaced whenever the above changes
}

// NewLink makes a link whose connections need so many channels.
func NewLink(name string, d *Dialer, needs int) *Link {
	l := &Link{name: name, dialer: d, log: d.cfg.Log.Named(name), waits: d.cfg.Waits, changed: make(chan struct{})}
	l.needs.Store(int64(needs))
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Need changes how many channels the connections need that the link makes from now on.
func (l *Link) Need(channels int) { l.needs.Store(int64(channels)) }

// Session returns the session that is up, waiting for one if need be. It fails
// when ctx ends, when the link is closed, and, before the first session, when
// the broker refuses for good.
func (l *Link) Session(ctx context.Context) (*Session, error) {
	for {
		l.mu.Lock()
		if l.current != nil && l.current.Alive() {
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
			return nil, l.NotConnected(ctx)
		}
	}
}

// With calls fn with a session, and again with the next one whenever the connection has
// ended meanwhile, so fn must be something that can be repeated. A refusal of the broker
// is an error at once. The session stays up when fn has returned nil.
func (l *Link) With(ctx context.Context, fn func(*Session) error) error {
	for {
		s, err := l.Session(ctx)
		if err != nil {
			return err
		}
		err = fn(s)
		if err == nil || s.Alive() || Permanent(err) || ctx.Err() != nil {
			return err
		}
	}
}

// gaveUp returns the reason for which a link gave up before its first session.
func (l *Link) gaveUp() error {
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

// NotConnected is the error of somebody who has waited for a session, or for what a
// session needs to be used.
func (l *Link) NotConnected(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.current.Alive() {
		return fmt.Errorf("the broker does not answer: %w", context.Cause(ctx))
	}
	if l.err != nil {
		return fmt.Errorf("not connected: %w: %w", context.Cause(ctx), l.err)
	}
	return fmt.Errorf("not connected: %w", context.Cause(ctx))
}

// Up returns the session, or the reason why there is none.
func (l *Link) Up() (*Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.current.Alive() {
		return l.current, nil
	}
	if l.err != nil {
		return nil, l.err
	}
	return nil, errors.New("not connected yet")
}

// Use has the link connect if it does not yet.
func (l *Link) Use() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running && l.ctx.Err() == nil {
		l.start()
	}
}

// RefusedFor is how long the broker has refused every connection.
func (l *Link) RefusedFor() (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused.IsZero() {
		return 0, nil
	}
	return time.Since(l.refused), l.err
}

// start is called with l.mu held.
func (l *Link) start() {
	l.running = true
	l.wg.Go(l.run)
}

// Spawn starts a goroutine that close waits for. It does not when the link is
// being closed, and says so.
func (l *Link) Spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.wg.Go(fn)
	return true
}

func (l *Link) run() {
	policy := wait.NewPauses(l.log, l.dialer.cfg.BackOff)
	told := false // that there is no connection
	tell := l.waits.While(l.waitsFor(), l.reason)
	defer func() { tell() }()
	for {
		s, err := l.connect()
		if err == nil {
			up := time.Now()
			tell()
			told = false
			<-s.closed
			tell = l.waits.While(l.waitsFor(), l.reason)
			err = s.Cause()
			l.dialer.had(s.address, trouble{at: time.Now()})
			if l.ctx.Err() == nil {
				l.log.Warn("connection lost", zap.Error(err))
			}
			s.Close()
			if time.Since(up) > Stable {
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
		if !wait.Sleep(l.ctx, wait.Next(policy)) {
			l.set(nil, ErrStopped)
			return
		}
	}
}

func (l *Link) waitsFor() string { return "the " + l.name + " connection to the broker" }

// reason is why there is no session, nil once the link is closed.
func (l *Link) reason() error {
	if l.ctx.Err() != nil {
		return nil //nolint:nilerr // a closed link waits for nothing
	}
	_, err := l.Up()
	return err
}

func (l *Link) connect() (*Session, error) {
	s, err := l.dialer.dial(l.ctx, l.name)
	if err == nil {
		err = l.enough(s)
	}
	if err != nil {
		return nil, err
	}
	l.dialer.cfg.connected(s)
	l.log.Info("connected", zap.String("broker", s.Version()))
	l.set(s, nil)
	// If Close was called in between, this session ends here, because Close did not
	// see it.
	if l.ctx.Err() != nil {
		s.Abort()
	}
	return s, nil
}

// Extra opens a connection beside that of the link. Its owner closes it; when the link is
// closed first, it ends.
func (l *Link) Extra(ctx context.Context, name string) (*Session, error) {
	s, err := l.dialer.dial(ctx, l.name+" "+name)
	if err != nil {
		return nil, err
	}
	l.dialer.cfg.connected(s)
	s.Spawn(func() {
		select {
		case <-l.ctx.Done():
			s.Abort()
		case <-s.closed:
		}
	})
	return s, nil
}

// enough returns an error if the session allows fewer channels than are needed.
func (l *Link) enough(s *Session) error {
	allowed, needed := int(s.conn.Config.ChannelMax), int(l.needs.Load())
	if allowed >= needed {
		const most = 128
		s.spare = make(chan struct{}, min(max(allowed-needed-1, 1), most))
		return nil
	}
	s.Close()
	return &channelsError{needed: needed, allowed: allowed}
}

// set publishes a new state and says whether run must end.
func (l *Link) set(s *Session, err error) (stop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stop = s == nil && (l.ctx.Err() != nil || (!l.once && Permanent(err)))
	l.current, l.err = s, err
	switch {
	case s != nil || !Permanent(err):
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

// Close ends the session and waits for everything the link started.
func (l *Link) Close() {
	l.mu.Lock()
	l.cancel()
	s := l.current
	l.mu.Unlock()
	if s != nil {
		s.Close()
	}
	l.wg.Wait()
}

// Name is the name of the link: "publish".
func (l *Link) Name() string { return l.name }

// Used says whether the link has connected, or has tried to.
func (l *Link) Used() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running || l.once || l.err != nil
}

// Context ends when the link is closed.
func (l *Link) Context() context.Context { return l.ctx }
