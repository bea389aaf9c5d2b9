package outbox

import (
	"context"
	"slices"
	"time"

	"github.com/harebus/harebus"
)

// lane is a numbered part of the table. One process reads it; its fields are guarded by
// Outbox.mu.
type lane struct {
	number int64
	// known are the rows that somebody here works on: those of a transaction about to
	// commit, handed over, being published, or being deleted.
	known map[int64]bool
	// fresh are rows that were handed over, in order, and freshBytes their size.
	fresh      []row
	freshBytes int
	// dirty says that the table may have rows that are not known.
	dirty bool
	// floor is the id above which reading begins, so that the database need not pass the rows
	// that were deleted below it. Every 2 s reading begins at 0 again, because a transaction
	// that took longer may commit rows with lower ids.
	floor   int64
	floored time.Time // when it last was 0
	// gone are published rows that are to be deleted.
	gone   []int64
	readAt time.Time // when it was last read
	// erased are deleted rows. They stay known until the next read begins: the snapshot of
	// a read that runs already may still have them.
	erased []int64
	// empty is since when reading has found nothing; zero if it has found something.
	empty time.Time
	busy  bool // one of its batches is being published
	// lost says that the lease is somebody else's.
	lost bool
}

func newLane(number int64) *lane { return &lane{number: number, known: map[int64]bool{}} }

// claim makes rows known before their transaction commits, so that no read takes them, too.
func (o *Outbox) claim(s *stored) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range s.rows {
		s.lane.known[r.id] = true
	}
}

// disclaim gives rows back to the table after a commit that failed, or may have.
func (o *Outbox) disclaim(s *stored) {
	if len(s.rows) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	s.lane.forget(s.rows)
	o.wake()
}

// forget makes rows unknown: the table decides what there is.
func (l *lane) forget(rows []row) {
	for _, r := range rows {
		delete(l.known, r.id)
	}
	l.dirty, l.floor = true, 0
}

// handOver gives committed rows to the relay, as far as there is room. The table has the rest.
func (o *Outbox) handOver(s *stored) {
	if len(s.rows) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l, size := s.lane, 0
	for _, r := range s.rows {
		size += r.size
	}
	if o.run == nil || l.lost || l != o.own || len(l.fresh)+len(s.rows) > handOverCount || l.freshBytes+size > handOverBytes {
		l.forget(s.rows)
	} else {
		l.fresh = append(l.fresh, s.rows...)
		l.freshBytes += size
	}
	o.wake()
}

// wake is called with o.mu held.
func (o *Outbox) wake() {
	if o.run != nil {
		o.run.wake()
	}
}

// Wake makes the outbox look at its table now. It is for code that knows that somebody else
// has committed messages; without it they are found within Config.Poll.
func (o *Outbox) Wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.run == nil {
		return
	}
	for _, l := range o.run.lanes {
		l.dirty = true
	}
	o.wake()
}

// expect is called when a transaction of somebody else has stored messages: it will probably
// commit soon.
func (o *Outbox) expect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.run != nil {
		o.run.expected = time.Now()
		o.own.dirty = true
		o.wake()
	}
}

// takeFresh takes handed over rows, as many as a batch may have.
func (l *lane) takeFresh(most int) []row {
	n, size := 0, 0
	for n < len(l.fresh) && n < most && (n == 0 || size+l.fresh[n].size <= batchBytes) {
		size += l.fresh[n].size
		n++
	}
	rows := slices.Clone(l.fresh[:n])
	l.fresh = slices.Delete(l.fresh, 0, n)
	l.freshBytes -= size
	return rows
}

// beginRead is called with o.mu held, before a read: what was deleted before cannot be in
// its snapshot.
func (l *lane) beginRead(now time.Time) (floor int64) {
	const fall = 2 * time.Second
	for _, id := range l.erased {
		delete(l.known, id)
	}
	l.erased, l.dirty, l.readAt = nil, false, now
	if now.Sub(l.floored) >= fall || l.number == refusedLane {
		l.floor, l.floored = 0, now
	}
	return l.floor
}

// read finds rows of a lane that nobody here works on, and makes them known.
func (r *relay) read(ctx context.Context, l *lane) ([]row, error) {
	o, d, most := r.outbox, r.outbox.cfg.Dialect, r.outbox.cfg.Batch
	o.mu.Lock()
	floor := l.beginRead(time.Now())
	o.mu.Unlock()
	var ids, sizes []int64
	text := "select id, " + d.bytes("head") + " + " + d.bytes("body") + " from #outbox where "
	args := []any{l.number, floor, l.number, most}
	switch {
	case l.number == refusedLane:
		text += "lane = ? and (not_before is null or not_before <= " + d.now() + ") order by id limit ?"
		args = []any{l.number, most}
	case d == Postgres: // with the usual condition, a table that was never analysed is sorted
		text += "(lane, id) > (?, ?) and lane <= ? order by lane, id limit ?"
	default:
		text += "lane = ? and id > ? order by id limit ?"
		args = []any{l.number, floor, most}
	}
	err := r.query(ctx, text, args, func(scan func(...any) error) error {
		var id, size int64
		err := scan(&id, &size)
		ids, sizes = append(ids, id), append(sizes, size)
		return err
	})
	if err != nil {
		r.redo(l, nil)
		return nil, err
	}
	wanted := r.choose(l, ids, sizes)
	if len(wanted) == 0 {
		return nil, nil
	}
	rows, err := r.load(ctx, l, wanted)
	if err != nil {
		r.redo(l, wanted)
		return nil, err
	}
	return rows, nil
}

// choose picks, of the rows that a read has found, the next batch: rows that are not known
// yet, up to batchBytes. It marks them as known.
func (r *relay) choose(l *lane, ids, sizes []int64) []row {
	o := r.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	var wanted []row
	total, full := int64(0), len(ids) == o.cfg.Batch
	for i, id := range ids {
		if l.known[id] {
			continue
		}
		if total += sizes[i]; total > batchBytes && len(wanted) > 0 {
			l.dirty, full = true, false // the next read begins where this one did
			break
		}
		l.known[id] = true
		wanted = append(wanted, row{id: id, size: int(sizes[i])})
	}
	if full && (len(wanted) > 0 || l.number != refusedLane) { // which has no floor
		l.dirty, l.floor = true, ids[len(ids)-1]
	}
	switch {
	case len(ids) > 0 || len(l.known) > 0:
		l.empty = time.Time{}
	case l.empty.IsZero():
		l.empty = time.Now()
	}
	return wanted
}

// load reads rows as messages. Those that are no longer there are forgotten.
func (r *relay) load(ctx context.Context, l *lane, wanted []row) ([]row, error) {
	ids := make([]int64, len(wanted))
	for i, w := range wanted {
		ids[i] = w.id
	}
	among, args := r.outbox.cfg.Dialect.among(ids)
	var rows []row
	err := r.query(ctx, "select id, exchange, routing_key, head, body, "+r.outbox.cfg.Dialect.age()+" from #outbox where lane = ? and "+among+" order by id", append([]any{l.number}, args...),
		func(scan func(...any) error) error {
			var (
				found         row
				exchange, key string
				head, body    []byte
				age           int64 // milliseconds
			)
			if err := scan(&found.id, &exchange, &key, &head, &body, &age); err != nil {
				return err
			}
			found.size, found.stored = len(head)+len(body), time.Now().Add(-time.Duration(age)*time.Millisecond)
			found.envelope, found.damage = harebus.OpenEnvelope(exchange, key, head, body)
			rows = append(rows, found)
			return nil
		})
	if err != nil || len(rows) == len(wanted) {
		return rows, err
	}
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	for _, id := range ids {
		if !slices.ContainsFunc(rows, func(found row) bool { return found.id == id }) {
			l.erased = append(l.erased, id)
		}
	}
	return rows, nil
}
