package outbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// firstLane leases the lane that this process has stored in so far. If another process has
// taken it over, or it was given back by a stop, it leases a new one.
func (r *relay) firstLane(ctx context.Context, own *lane) (*lane, error) {
	o := r.outbox
	o.mu.Lock()
	lost := own.lost
	o.mu.Unlock()
	if !lost {
		if leased, err := r.lease(ctx, own); err != nil || leased {
			return own, err
		}
	}
	return r.newLane(ctx)
}

// newLane leases a lane with a new number.
func (r *relay) newLane(ctx context.Context) (*lane, error) {
	l := newLane(r.outbox.nextID(1))
	leased, err := r.lease(ctx, l)
	if err == nil && !leased {
		err = fmt.Errorf("lane %d exists", l.number)
	}
	return l, err
}

// lease enters a lane in the table, and says whether it was not there yet.
func (r *relay) lease(ctx context.Context, l *lane) (bool, error) {
	o := r.outbox
	insert, ignore := o.cfg.Dialect.insertNew()
	n, err := r.exec(ctx, insert+"#lane (lane, owner, until) values (?, ?, "+o.cfg.Dialect.in()+")"+ignore, l.number, o.owner, o.cfg.Lease.Milliseconds())
	if err != nil {
		return false, fmt.Errorf("open a lane: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l.dirty = true
	return n > 0, nil
}

// keepLeases renews the leases, takes over lanes whose owner is gone, and looks after the
// table, until over ends.
func (r *relay) keepLeases(over context.Context) {
	const renewals = 3 // in the time of a lease
	cfg := &r.outbox.cfg
	renew, look := time.NewTicker(cfg.Lease/renewals), time.NewTicker(cfg.Poll)
	defer renew.Stop()
	defer look.Stop()
	r.healthy = 1
	r.adopt(over)
	for {
		var err error
		select {
		case <-renew.C:
			if err = r.renew(over); err != nil {
				r.healthy = 0
				break
			}
			r.healthy++
			r.adopt(over)
			err = r.remove(over)
		case <-look.C:
			err = r.steward(over)
		case <-over.Done():
			return
		}
		if err != nil && over.Err() == nil {
			r.outbox.log.Warn("outbox: cannot look after the lanes; trying again", zap.Error(err))
		}
	}
}

// renew extends the leases. A lane that somebody else has taken is given up; the own one is
// replaced by a new one, because two processes must not go on with the same lane.
func (r *relay) renew(ctx context.Context) error {
	o := r.outbox
	o.mu.Lock()
	lanes, own := slices.Clone(r.lanes), o.own
	o.mu.Unlock()
	for _, l := range lanes {
		n, err := r.exec(ctx, "update #lane set until = "+o.cfg.Dialect.in()+" where lane = ? and owner = ?", o.cfg.Lease.Milliseconds(), l.number, o.owner)
		if err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		o.log.Warn("outbox: another process has taken over a lane", zap.Int64("lane", l.number))
		fresh := (*lane)(nil)
		if l == own {
			if fresh, err = r.newLane(ctx); err != nil {
				return err
			}
		}
		r.drop(l, fresh)
	}
	return nil
}

// drop gives up a lane. If it was the own one, fresh takes its place.
func (r *relay) drop(l, fresh *lane) {
	o := r.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	l.lost = true
	l.forget(l.fresh)
	l.fresh, l.freshBytes = nil, 0
	r.lanes = slices.DeleteFunc(r.lanes, func(each *lane) bool { return each == l })
	if fresh != nil {
		o.own = fresh
		r.lanes = append(r.lanes, fresh)
	}
}

// adopt takes over lanes without an owner: those that were given back, and those whose lease
// has run out. It takes the latter only after this process has renewed its own leases twice
// in a row: after an outage of the database all leases have run out, and the owners get this
// time to renew theirs.
func (r *relay) adopt(ctx context.Context) {
	const enough = 2
	o := r.outbox
	free := "owner = ''"
	if r.healthy >= enough {
		free = "until < " + o.cfg.Dialect.now()
	}
	var numbers []int64
	err := r.query(ctx, "select lane from #lane where "+free, nil, func(scan func(...any) error) error {
		var n int64
		err := scan(&n)
		numbers = append(numbers, n)
		return err
	})
	for _, number := range numbers {
		if r.has(number) { // its renewal is late
			continue
		}
		var n int64
		if n, err = r.exec(ctx, "update #lane set owner = ?, until = "+o.cfg.Dialect.in()+" where lane = ? and "+free, o.owner, o.cfg.Lease.Milliseconds(), number); err != nil {
			break
		}
		if n == 0 { // somebody else was faster
			continue
		}
		l := newLane(number)
		l.dirty = true
		o.mu.Lock()
		r.lanes = append(r.lanes, l)
		r.wake()
		o.mu.Unlock()
	}
	if err != nil && ctx.Err() == nil {
		o.log.Warn("outbox: cannot take over lanes; trying again", zap.Error(err))
	}
}

// has says whether this process has leased a lane.
func (r *relay) has(number int64) bool {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	return slices.ContainsFunc(r.lanes, func(l *lane) bool { return l.number == number })
}

// remove deletes lanes that this process has taken over from others and that have been empty
// for the time of a lease.
func (r *relay) remove(ctx context.Context) error {
	o := r.outbox
	o.mu.Lock()
	var idle []*lane
	for _, l := range r.lanes {
		if l != o.own && l.number != refusedLane && !l.empty.IsZero() && time.Since(l.empty) > o.cfg.Lease && len(l.known) == 0 {
			idle = append(idle, l)
		}
	}
	o.mu.Unlock()
	for _, l := range idle {
		// Rows that come later are found as those of a lane that nobody has.
		if _, err := r.exec(ctx, "delete from #lane where lane = ? and owner = ?", l.number, o.owner); err != nil {
			return err
		}
		r.drop(l, nil)
	}
	return nil
}

// steward does what one process does for all: the one that has the lane of refused messages.
func (r *relay) steward(ctx context.Context) error {
	if !r.has(refusedLane) {
		return nil
	}
	if err := r.findLanes(ctx); err != nil {
		return err
	}
	const every = time.Minute
	if time.Since(r.cleaned) < every {
		return nil
	}
	r.cleaned = time.Now()
	if err := r.clean(ctx, "#inbox", "handled_at"); err != nil {
		return err
	}
	return r.clean(ctx, "#saga", "done_at")
}

// findLanes looks for rows whose lane is not in the table of lanes, enters these lanes there,
// and takes them over. Such rows are left by processes that store without Run, and by
// processes that still store in a lane that they have lost.
func (r *relay) findLanes(ctx context.Context) error {
	o := r.outbox
	there := map[int64]bool{}
	number := func(into func(int64)) func(scan func(...any) error) error {
		return func(scan func(...any) error) error {
			var n int64
			err := scan(&n)
			into(n)
			return err
		}
	}
	if err := r.query(ctx, "select lane from #lane", nil, number(func(n int64) { there[n] = true })); err != nil {
		return err
	}
	found := false
	for last := int64(0); ; { // one look into the index for each lane
		next := last
		if err := r.query(ctx, "select lane from #outbox where lane > ? order by lane limit 1", []any{last}, number(func(n int64) { next = n })); err != nil {
			return err
		}
		if next == last {
			break
		}
		if last = next; there[last] {
			continue
		}
		found = true
		insert, ignore := o.cfg.Dialect.insertNew()
		if _, err := r.exec(ctx, insert+"#lane (lane, owner, until) values (?, '', "+o.cfg.Dialect.now()+")"+ignore, last); err != nil {
			return err
		}
	}
	if found {
		r.adopt(ctx)
	}
	return nil
}

// clean removes rows of a table whose time in the given column is longer ago than
// Config.Keep.
func (r *relay) clean(ctx context.Context, table, column string) error {
	const most = 5000
	d := r.outbox.cfg.Dialect
	old := column + " < " + d.before()
	text := "delete from " + table + " where " + old + " limit ?"
	switch d {
	case Postgres:
		text = "delete from " + table + " where ctid = any(array(select ctid from " + table + " where " + old + " limit ?))"
	case SQLite:
		text = "delete from " + table + " where rowid in (select rowid from " + table + " where " + old + " limit ?)"
	}
	for {
		n, err := r.exec(ctx, text, r.outbox.cfg.Keep.Milliseconds(), most)
		if d.conflict(err) { // a handler uses one of the rows: next time
			return nil
		}
		if err != nil || n < most {
			return err
		}
	}
}

// giveBack lets others have the lanes at once.
func (r *relay) giveBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	o := r.outbox
	if _, err := r.exec(ctx, "update #lane set owner = '', until = "+o.cfg.Dialect.now()+" where owner = ?", o.owner); err != nil {
		return fmt.Errorf("harebus: outbox: give lanes back: %w", err)
	}
	return nil
}
