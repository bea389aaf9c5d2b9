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

const (
	// flights is how many batches are published at once; of a lane only one, so that the
	// messages of a transaction leave in order.
	flights = 4
	// eraseEvery and eraseMost are how often published rows are deleted, and how many at once.
	eraseEvery = 20 * time.Millisecond
	eraseMost  = 1000
	// fullFor is how long messages to a queue that nacks are set aside without an attempt:
	// the publisher is patient with such a queue, and the others would have to wait.
	fullFor = 10 * time.Second
	// grace is how long a stop waits for messages that are being published.
	grace = 5 * time.Second
	// expectFor is how long a transaction of somebody else is expected to commit.
	expectFor = 5 * time.Second
	// leastPatience is how long a statement of the relay may take, at least.
	leastPatience = 10 * time.Second
)

type destination struct{ exchange, key string }

// relay publishes what lies in the lanes that this process has leased.
type relay struct {
	outbox *Outbox
	bus    *harebus.Bus
	// sending ends when a stop can wait no longer.
	sending context.Context
	slots   chan struct{} // one for each flight
	group   sync.WaitGroup
	woken   chan struct{}
	erasing chan struct{}

	// lanes and what follows are guarded by Outbox.mu.
	lanes    []*lane
	expected time.Time // when somebody else's transaction stored something
	toErase  map[*lane]bool
	full     map[destination]time.Time // queues that nack, and until when they are left alone
	failures int                       // in a row
	resumeAt time.Time                 // after a failure

	// Only the goroutine of leases uses these.
	healthy int // renewals in a row
	cleaned time.Time
}

// Run implements [harebus.Transactor]: it publishes until ctx ends. Then it publishes what
// was handed over to it in memory, for some seconds at most, and gives back its lanes, so
// that others can go on with the rest.
func (o *Outbox) Run(ctx context.Context, bus *harebus.Bus) error {
	sending, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(nil)
	r := &relay{
		outbox: o, bus: bus, sending: sending, slots: make(chan struct{}, flights),
		woken: make(chan struct{}, 1), erasing: make(chan struct{}, 1), toErase: map[*lane]bool{}, full: map[destination]time.Time{},
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, func() { abandon(harebus.ErrStopped) }) })
	defer stop()
	over, end := context.WithCancel(context.WithoutCancel(ctx))
	var leases, eraser sync.WaitGroup
	leases.Go(func() { r.keepWatching(over) })
	leases.Go(func() { r.keepLeases(over) })
	eraser.Go(func() { r.keepErasing(over) })
	r.move(ctx)
	r.drain()
	end()
	leases.Wait()
	eraser.Wait()
	return r.giveBack(context.WithoutCancel(ctx))
}

// open makes this process's lane.
func (r *relay) open(ctx context.Context) error {
	o := r.outbox
	o.mu.Lock()
	running, own := o.run != nil, o.own
	o.mu.Unlock()
	if running {
		return fmt.Errorf("harebus: outbox: run: %w", ErrRunning)
	}
	l, err := r.firstLane(ctx, own)
	if err != nil {
		o.blind(err)
		return fmt.Errorf("harebus: outbox: run: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.run != nil {
		return fmt.Errorf("harebus: outbox: run: %w", ErrRunning)
	}
	o.own, o.run, r.lanes = l, r, []*lane{l}
	return nil
}

func (r *relay) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// move starts a flight for whatever there is, until ctx ends.
func (r *relay) move(ctx context.Context) {
	poll := time.Now()
	for ctx.Err() == nil {
		r.pause(ctx)
		if time.Since(poll) >= r.outbox.cfg.Poll {
			poll = time.Now()
			r.outbox.Wake()
		}
		if r.round(ctx) {
			continue
		}
		t := time.NewTimer(r.untilNext(poll))
		select {
		case <-r.woken:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// untilNext is how long move waits before it looks at the table again: until the next poll,
// or, while a transaction of [Outbox.Join] is expected to commit, 1, 2, 4 ms and so on.
func (r *relay) untilNext(poll time.Time) time.Duration {
	o := r.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	wait := max(time.Until(poll.Add(o.cfg.Poll)), 0)
	if since := time.Since(r.expected); since < expectFor {
		o.own.dirty = true
		wait = min(wait, max(since, time.Millisecond))
	}
	return wait
}

// pause waits after a failure.
func (r *relay) pause(ctx context.Context) {
	r.outbox.mu.Lock()
	wait := time.Until(r.resumeAt)
	r.outbox.mu.Unlock()
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// round starts at most one flight for each lane, and says whether there may be more to do.
func (r *relay) round(ctx context.Context) bool {
	r.outbox.mu.Lock()
	lanes := slices.Clone(r.lanes)
	r.outbox.mu.Unlock()
	more := false
	for _, l := range lanes {
		if !r.waiting(l) {
			continue
		}
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		rows, err := r.next(ctx, l)
		if err != nil && ctx.Err() == nil {
			r.failed("cannot read messages from the table", err)
		}
		if len(rows) == 0 {
			<-r.slots
			more = more || r.waiting(l)
			continue
		}
		r.setBusy(l, true)
		r.group.Go(func() {
			r.fly(l, rows)
			<-r.slots
			r.setBusy(l, false)
			r.wake()
		})
	}
	return more
}

func (r *relay) setBusy(l *lane, busy bool) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	l.busy = busy
}

func (r *relay) waiting(l *lane) bool {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	return !l.lost && !l.busy && (l.dirty || len(l.fresh) > 0)
}

// next is the next batch of a lane: what was handed over, or, from time to time also when
// that does not end, what the table has.
func (r *relay) next(ctx context.Context, l *lane) ([]row, error) {
	o := r.outbox
	o.mu.Lock()
	var rows []row
	if overdue := l.dirty && time.Since(l.readAt) >= o.cfg.Poll; !overdue {
		rows = l.takeFresh(o.cfg.Batch)
	}
	o.mu.Unlock()
	if len(rows) > 0 {
		return rows, nil
	}
	return r.read(ctx, l)
}

// fly publishes rows and sorts them by what became of them.
func (r *relay) fly(l *lane, rows []row) {
	var envelopes []harebus.Envelope
	var sound []row
	for _, found := range rows {
		if found.damage == nil && l.number != refusedLane && r.isFull(found.envelope) {
			found.damage = errFull
		}
		if found.damage != nil {
			r.setAside(l, found, found.damage)
			continue
		}
		envelopes, sound = append(envelopes, found.envelope), append(sound, found)
	}
	var gone []int64
	var again []row
	var last error
	var longest time.Duration
	for i, err := range r.bus.Forward(r.sending, envelopes) {
		switch {
		case err == nil || errors.Is(err, harebus.ErrTooLate): // a cancellation that nobody waits for
			gone, longest = append(gone, sound[i].id), max(longest, time.Since(sound[i].stored))
		case hopeless(err):
			if errors.Is(err, harebus.ErrNacked) {
				r.setFull(sound[i].envelope)
			}
			r.setAside(l, sound[i], err)
		default:
			again, last = append(again, sound[i]), err
		}
	}
	r.outbox.counters.published.Add(uint64(len(gone)))
	r.erase(l, gone, longest)
	if len(again) > 0 {
		r.redo(l, again)
		r.failed("cannot publish messages", last)
		return
	}
	r.outbox.mu.Lock()
	r.failures = 0
	r.outbox.mu.Unlock()
}

var errFull = errors.New("the queue has just refused other messages; it was not tried")

func (r *relay) setFull(e harebus.Envelope) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	for at, until := range r.full {
		if time.Now().After(until) {
			delete(r.full, at)
		}
	}
	r.full[destination{e.Exchange(), e.RoutingKey()}] = time.Now().Add(fullFor)
}

func (r *relay) isFull(e harebus.Envelope) bool {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	return time.Now().Before(r.full[destination{e.Exchange(), e.RoutingKey()}])
}

// hopeless says whether the broker, or this library, has refused a message, so that trying
// it again at once would only hold up the others.
func hopeless(err error) bool {
	return errors.Is(err, harebus.ErrUnroutable) || errors.Is(err, harebus.ErrNacked) || errors.Is(err, harebus.ErrRefused)
}

// redo gives rows back to the table, to be read again.
func (r *relay) redo(l *lane, rows []row) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	l.forget(rows)
}

// failed makes the relay pause, longer after each failure in a row.
func (r *relay) failed(text string, err error) {
	const least, most = 100 * time.Millisecond, 5 * time.Second
	r.outbox.mu.Lock()
	wait := min(least<<min(r.failures, 10), most) //nolint:mnd // more would overflow
	r.failures++
	r.resumeAt = time.Now().Add(wait)
	r.outbox.mu.Unlock()
	r.outbox.log.Warn("outbox: "+text+"; trying again", zap.Duration("in", wait), zap.Error(err))
}

// drain waits for the flights, and publishes what was handed over and not begun.
func (r *relay) drain() {
	r.group.Wait()
	o := r.outbox
	for {
		o.mu.Lock()
		rows := o.own.takeFresh(o.cfg.Batch)
		if len(rows) == 0 || r.sending.Err() != nil || r.failures > 0 {
			o.run = nil // nothing is handed over any more
			o.own.lost = true
			o.mu.Unlock()
			return
		}
		own := o.own
		o.mu.Unlock()
		r.fly(own, rows)
	}
}

// erase notes published rows, which keepErasing deletes. longest is the longest time from
// storing one of them to its confirmation.
func (r *relay) erase(l *lane, ids []int64, longest time.Duration) {
	if len(ids) == 0 {
		return
	}
	r.outbox.mu.Lock()
	r.outbox.confirmed(longest)
	l.gone = append(l.gone, ids...)
	r.outbox.mu.Unlock()
	r.pending(l)
}

// query reads with the time limit of the relay's statements.
func (r *relay) query(ctx context.Context, text string, args []any, each func(scan func(dest ...any) error) error) error {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	return r.outbox.db.query(ctx, r.outbox.sql(text), args, each)
}

func (r *relay) exec(ctx context.Context, text string, args ...any) (int64, error) {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	return r.outbox.db.exec(ctx, r.outbox.sql(text), args...)
}

func (r *relay) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, max(r.outbox.cfg.Lease, leastPatience))
}
