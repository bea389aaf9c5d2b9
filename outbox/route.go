package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// Router is a [harebus.Transactor] with several databases, such as one for each tenant. A
// message is handled in the one that is chosen for it, and the messages of all are published.
// It belongs to one setup, and is safe for concurrent use.
type Router struct {
	choose func(m *harebus.Message) (*Outbox, error)

	mu      sync.Mutex // guards what follows
	members []*member
	start   func(*member) // nil unless Run is running
}

// member is one of the outboxes.
type member struct {
	*Outbox

	mu     sync.Mutex
	sound  bool  // its tables have been checked
	reason error // why it does not run
}

var _ harebus.Transactor = (*Router)(nil)

// Route makes a Router. choose returns the outbox of a message. It must return the same
// *Outbox each time for the same database. If it returns an error, the message is retried or
// parked as if its handler had returned that error; wrap it with [harebus.NoRetry] if there is
// no such tenant. Errors have the [Config.Name] of their outbox.
//
// The Router publishes what is stored in the outboxes of first from the start on, and in
// others once choose has returned them or [Router.Add] was called. So give it all that are
// known: another process may have left messages there.
func Route(choose func(m *harebus.Message) (*Outbox, error), first ...*Outbox) *Router {
	r := &Router{choose: choose}
	for _, ob := range first {
		r.members = append(r.members, &member{Outbox: ob})
	}
	return r
}

// Check implements [harebus.Transactor]. It fails if none of the outboxes can work. One that
// cannot is left out until it can: its messages fail with the reason, and Ready names it.
func (r *Router) Check(ctx context.Context) error {
	if r.choose == nil {
		return errors.New("harebus: outbox: route: the function that chooses is nil")
	}
	r.mu.Lock()
	members := slices.Clone(r.members)
	r.mu.Unlock()
	var faults []error
	for i, m := range members {
		if err := distinct(members[:i], m.Outbox); err != nil {
			return err
		}
		if err := m.check(ctx); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) == len(members) {
		return errors.Join(faults...)
	}
	return nil
}

// distinct returns an error if ob is nil, or if one of members uses the same tables.
func distinct(members []*member, ob *Outbox) error {
	if ob == nil {
		return errors.New("harebus: outbox: route: the outbox is nil")
	}
	for _, m := range members {
		if m.cfg.Prefix == ob.cfg.Prefix && (m.db == ob.db || m.cfg.DB != nil && m.cfg.DB == ob.cfg.DB) {
			return fmt.Errorf("harebus: outbox: route%s: two outboxes have the same tables; make one for each database, and return that each time", ob.name())
		}
	}
	return nil
}

// check checks the tables, until they were right once.
func (m *member) check(ctx context.Context) error {
	m.mu.Lock()
	sound := m.sound
	m.mu.Unlock()
	if sound {
		return nil
	}
	err := m.Outbox.Check(ctx)
	if err != nil {
		err = fmt.Errorf("harebus: outbox: route%s: %w", m.name(), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sound, m.reason = err == nil, err
	return err
}

// Add has the messages in an outbox published that the Router does not know yet. It fails if
// the tables are not as they should be.
func (r *Router) Add(ctx context.Context, ob *Outbox) error {
	_, err := r.member(ctx, ob)
	return err
}

// member is the outbox as a member, which runs if the Router does.
func (r *Router) member(ctx context.Context, ob *Outbox) (*member, error) {
	r.mu.Lock()
	found := slices.IndexFunc(r.members, func(m *member) bool { return m.Outbox == ob })
	if found < 0 {
		if err := distinct(r.members, ob); err != nil {
			r.mu.Unlock()
			return nil, err
		}
		found = len(r.members)
		r.members = append(r.members, &member{Outbox: ob})
		if r.start != nil {
			r.start(r.members[found])
		}
	}
	m := r.members[found]
	r.mu.Unlock()
	return m, m.check(ctx)
}

// Transact implements [harebus.Transactor]: that of the outbox that is chosen.
func (r *Router) Transact(ctx context.Context, m *harebus.Message, run func(ctx context.Context) ([]harebus.Envelope, error)) error {
	ob, err := r.choose(m)
	if err != nil {
		return fmt.Errorf("harebus: outbox: route: %w", err)
	}
	chosen, err := r.member(ctx, ob)
	if err != nil {
		return err
	}
	return chosen.Transact(ctx, m, run)
}

// Run implements [harebus.Transactor]: it publishes what is stored in all outboxes.
func (r *Router) Run(ctx context.Context, bus *harebus.Bus) error {
	var group sync.WaitGroup
	r.mu.Lock()
	if r.start != nil {
		r.mu.Unlock()
		return fmt.Errorf("harebus: outbox: run: %w", ErrRunning)
	}
	r.start = func(m *member) { group.Go(func() { m.keepRunning(ctx, bus) }) }
	for _, m := range r.members {
		r.start(m)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.start = nil
	r.mu.Unlock()
	group.Wait()
	return nil
}

// keepRunning runs the outbox until ctx ends. If it cannot run it is tried again.
func (m *member) keepRunning(ctx context.Context, bus *harebus.Bus) {
	const least, most = time.Second, time.Minute
	for wait := least; ; wait = min(2*wait, most) {
		err := m.check(ctx)
		if err == nil {
			m.mu.Lock()
			m.reason = nil
			m.mu.Unlock()
			err = m.Outbox.Run(ctx, bus)
		}
		if ctx.Err() != nil {
			if err != nil {
				m.log.Warn("outbox: it has not ended in order", zap.Error(err))
			}
			return
		}
		m.mu.Lock()
		m.reason = err
		m.mu.Unlock()
		m.log.Error("outbox: it cannot run; trying again", zap.Duration("in", wait), zap.Error(err))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// Ready fails if one of the outboxes cannot work or is behind, and names it.
func (r *Router) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var faults []error
	for _, m := range r.members {
		m.mu.Lock()
		reason := m.reason
		m.mu.Unlock()
		if reason != nil {
			faults = append(faults, reason)
			continue
		}
		faults = append(faults, m.Outbox.Ready())
	}
	return errors.Join(faults...)
}
