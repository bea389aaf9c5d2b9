package fair

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus"
)

const (
	// longest is how long a message waits here, so that the broker's consumer timeout does not pass.
	longest = 5 * time.Minute
	// again is how long a message is put off that has waited for so long and cannot be moved.
	again = time.Second
	// settled is how long after the latest message that was one too many a tenant's messages go on to move
	// to the backlog, so that they stay behind those that are there.
	settled = 10 * time.Second
	// stuck is after what time without a handler that begins or ends something is wrong.
	stuck = 15 * time.Minute
	// least and most are the weights that there can be.
	least, most = 0.001, 1000
)

var errLong = errors.New("fair: the message has waited for five minutes; a smaller Share, or more handlers at once, would keep it in the queue meanwhile")

// Scheduler shares an endpoint between tenants: [New] makes one. It has no goroutine.
type Scheduler struct {
	cfg   Config
	on    harebus.Registrar
	seed  maphash.Seed
	moves moves

	returned, untold, badWeights atomic.Uint64

	mu      sync.Mutex // guards what follows
	tenants map[uint64]*tenant
	sweepAt int     // with so many tenants those of whom nothing has to be known are forgotten
	turns   turns   // of the tenants with messages that wait
	now     float64 // the time of the latest turn
	latest  float64 // the latest time of all
	count   uint64
	running int
	waiting int
	main    int       // messages of the queue itself that wait or are handled
	changed time.Time // when a handler has last begun or ended
}

// file is what the scheduler knows of a message.
type file struct {
	key     uint64
	weight  float64
	backlog bool // it comes from there
}

// place is that of a message in this process.
type place struct {
	tenant  *tenant
	backlog bool
	ready   chan struct{} // closed when it may be handled
	gone    bool          // it does not wait any more
}

func newScheduler(cfg Config, on harebus.Registrar) *Scheduler {
	return &Scheduler{cfg: cfg, on: on, seed: maphash.MakeSeed(), tenants: map[uint64]*tenant{}, sweepAt: 1000}
}

// fileOf asks the functions of the user, whose panics fail no message. Names can be long, so they are not
// kept: tenants are told apart by 64 bits.
func (s *Scheduler) fileOf(m *harebus.Message) file {
	f := file{weight: 1, backlog: m.Exchange == "" && m.RoutingKey == s.cfg.Backlog}
	name := guarded("", func() string { return s.cfg.By(m) })
	if name == "" {
		s.untold.Add(1)
	}
	f.key = maphash.String(s.seed, name)
	if s.cfg.Weight != nil {
		f.weight = guarded(0, func() float64 { return s.cfg.Weight(name) })
		if !(f.weight >= least && f.weight <= most) { // a NaN is neither
			s.badWeights.Add(1)
			f.weight = 1
		}
	}
	if f.backlog {
		s.returned.Add(1)
	}
	return f
}

// guarded returns otherwise if fn panics.
func guarded[T any](otherwise T, fn func() T) (result T) {
	defer func() {
		if recover() != nil {
			result = otherwise
		}
	}()
	return fn()
}

// enter gives the message a place, or nil if its tenant has too many. What comes from the backlog has one.
func (s *Scheduler) enter(f file, now time.Time) *place {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenant(f, now)
	if !f.backlog && s.tooMany(t, now) {
		return nil
	}
	return s.add(t, f)
}

// stay gives the message a place although its tenant has too many.
func (s *Scheduler) stay(f file) *place {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(s.tenant(f, time.Now()), f)
}

// tooMany says whether another message of the tenant moves to the backlog: it has its share in memory, or
// had lately. When memory becomes scarce, the share is what is left of it. Then each of n tenants that flood
// has a (n+1)th, and as much is free for others. A tenth is kept for messages on their way to the backlog.
// mu is held.
func (s *Scheduler) tooMany(t *tenant, now time.Time) bool {
	left := s.cfg.Waiting - s.main - s.cfg.Waiting/10
	if t.held() >= min(s.cfg.Share, left) {
		if t.held() > 0 {
			t.settles = now.Add(settled)
		}
		return true
	}
	return now.Before(t.settles)
}

// add has a message wait. mu is held.
func (s *Scheduler) add(t *tenant, f file) *place {
	p := &place{tenant: t, backlog: f.backlog, ready: make(chan struct{})}
	if !p.backlog {
		s.main++
	}
	t.weight = f.weight
	t.places = append(t.places, p)
	s.waiting++
	if t.waits++; t.waits == 1 {
		s.count++
		t.next, t.order = max(t.next, s.now), s.count
		heap.Push(&s.turns, t)
	}
	return p
}

// await waits until the message may be handled. After an error it has no place any more.
func (s *Scheduler) await(ctx context.Context, p *place) error {
	s.hand()
	select {
	case <-p.ready:
		return nil
	default:
	}
	long := time.NewTimer(longest)
	defer long.Stop()
	err := errLong
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-long.C:
	}
	if !s.drop(p) { // it was its turn at the same time
		s.leave(p)
	}
	return err
}

// drop takes a message back that waits. It returns false if it may be handled.
func (s *Scheduler) drop(p *place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-p.ready:
		return false
	default:
	}
	p.gone = true
	t := p.tenant
	if s.waiting--; !p.backlog {
		s.main--
	}
	if t.waits--; t.waits == 0 {
		heap.Remove(&s.turns, t.at)
		t.places = nil
	}
	return true
}

// leave ends the handling of a message.
func (s *Scheduler) leave(p *place) {
	s.mu.Lock()
	p.tenant.runs--
	if s.running--; !p.backlog {
		s.main--
	}
	s.changed = time.Now()
	s.mu.Unlock()
	s.hand()
}

// hand lets messages begin, as many as may be handled at once.
func (s *Scheduler) hand() {
	of := s.on.Consumption()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.running < of.Concurrency*of.Consumers && len(s.turns) > 0 {
		p := s.next()
		s.waiting--
		s.running++
		p.tenant.runs++
		s.changed = time.Now()
		close(p.ready)
	}
}

// next is the message whose turn it is. mu is held, and a message waits.
func (s *Scheduler) next() *place {
	t := s.turns[0]
	s.now = t.next
	t.next += 1 / t.weight
	s.latest = max(s.latest, t.next)
	s.count++
	t.order = s.count
	p := t.take()
	if t.waits--; t.waits == 0 {
		heap.Pop(&s.turns)
		t.places = nil
	} else {
		heap.Fix(&s.turns, 0)
	}
	if len(s.turns) == 0 { // whoever comes now waits for nobody
		s.now = s.latest
	}
	return p
}

// Ready is for the bus, and a part of [harebus.Setup.Ready]: it fails while the backlog takes no messages,
// and when no handler has begun or ended for a quarter of an hour although messages wait.
func (s *Scheduler) Ready() error {
	if err := s.moves.trouble(s.cfg.Backlog); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if past := time.Since(s.changed); s.waiting > 0 && past > stuck {
		return fmt.Errorf("fair: no handler has begun or ended for %v, and %d messages wait", past.Round(time.Second), s.waiting)
	}
	return nil
}

// Stats are counts of a [Scheduler].
type Stats struct {
	// Waiting, Running and Tenants are now: messages that wait in this process, those in handlers, and the
	// tenants with messages that wait.
	Waiting, Running, Tenants int
	// Moved is how many messages this process has moved to the backlog, Returned how many it has got
	// from there, and Refused how often the backlog did not take one.
	Moved, Returned, Refused uint64
	// Untold is how many messages had no tenant, because By returned "" or panicked, and BadWeights for
	// how many Weight returned what is no weight, or panicked.
	Untold, BadWeights uint64
}

// Stats returns the current counts. It may be called at any time.
func (s *Scheduler) Stats() Stats {
	stats := Stats{Returned: s.returned.Load(), Untold: s.untold.Load(), BadWeights: s.badWeights.Load()}
	s.moves.mu.Lock()
	stats.Moved, stats.Refused = s.moves.moved, s.moves.refused
	s.moves.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Waiting, stats.Running, stats.Tenants = s.waiting, s.running, len(s.turns)
	return stats
}
