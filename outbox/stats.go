package outbox

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// counters are of this process.
type counters struct {
	stored, published, refused, duplicates, conflicts atomic.Uint64
}

// Stats are numbers of an outbox.
type Stats struct {
	// Stored, Published and Refused are messages that this process has stored, published,
	// and set aside; Refused counts each attempt.
	Stored, Published, Refused uint64
	// Duplicates are messages that the inbox knew, and Conflicts transactions that were
	// tried again after a deadlock or a serialization failure, in this process.
	Duplicates, Conflicts uint64
	// Waiting are the messages in the table that are still to be published, of all
	// processes, and published ones whose rows are not deleted yet. That takes some
	// milliseconds, and longer while the database cannot delete. Of each lane at most 10,000
	// are counted.
	Waiting int
	// Oldest is the age of the oldest of them; 0 if there is none.
	Oldest time.Duration
	// SetAside are the messages that the broker refused, at most 10,000.
	SetAside int
}

// Stats looks into the table and at the counters.
func (o *Outbox) Stats(ctx context.Context) (Stats, error) {
	c := &o.counters
	s := Stats{
		Stored: c.stored.Load(), Published: c.published.Load(), Refused: c.refused.Load(),
		Duplicates: c.duplicates.Load(), Conflicts: c.conflicts.Load(),
	}
	fail := func(err error) (Stats, error) { return s, fmt.Errorf("harebus: outbox: stats: %w", err) }
	count, _, err := o.count(ctx, refusedLane)
	if err != nil {
		return fail(err)
	}
	s.SetAside = count
	for last := int64(0); ; {
		next := last
		err := o.db.query(ctx, o.sql("select lane from #outbox where lane > ? order by lane limit 1"), []any{last}, func(scan func(...any) error) error { return scan(&next) })
		if err != nil {
			return fail(err)
		}
		if next == last {
			return s, nil
		}
		last = next
		count, oldest, err := o.count(ctx, last)
		if err != nil {
			return fail(err)
		}
		s.Waiting, s.Oldest = s.Waiting+count, max(s.Oldest, oldest)
	}
}

// count is how many messages a lane has, and the age of its oldest.
func (o *Outbox) count(ctx context.Context, lane int64) (n int, oldest time.Duration, err error) {
	const most = 10_000
	var milliseconds int64
	text := "select count(*), coalesce(max(" + o.cfg.Dialect.age() + "), 0) from (select stored_at from #outbox where lane = ? order by id limit ?) waiting"
	err = o.db.query(ctx, o.sql(text), []any{lane, most}, func(scan func(...any) error) error { return scan(&n, &milliseconds) })
	return n, time.Duration(milliseconds) * time.Millisecond, err
}

// Refusal is a message that the broker refused, or a row that is no message. It stays in the
// table and is tried again, after 2 s at first and 10 minutes at most, until it is taken or
// discarded.
type Refusal struct {
	// ID is for [Outbox.Retry] and [Outbox.Discard].
	ID int64
	// MessageID, Type, Exchange and RoutingKey are those of the message.
	MessageID, Type, Exchange, RoutingKey string
	// Attempts is how often it was refused, and Reason why, the last time.
	Attempts int
	Reason   string
	// Age is the time since it was stored.
	Age time.Duration
}

// Refused returns at most n messages that the broker refused, the oldest first.
func (o *Outbox) Refused(ctx context.Context, n int) ([]Refusal, error) {
	var all []Refusal
	text := "select id, message_id, message_type, exchange, routing_key, attempts, coalesce(last_error, ''), " + o.cfg.Dialect.age() + " from #outbox where lane = -1 order by id limit ?"
	err := o.db.query(ctx, o.sql(text), []any{n}, func(scan func(...any) error) error {
		var r Refusal
		var milliseconds int64
		if err := scan(&r.ID, &r.MessageID, &r.Type, &r.Exchange, &r.RoutingKey, &r.Attempts, &r.Reason, &milliseconds); err != nil {
			return err
		}
		r.Age = time.Duration(milliseconds) * time.Millisecond
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("harebus: outbox: list refused messages: %w", err)
	}
	return all, nil
}

// Retry makes the relay try the refused messages with these ids now, instead of after their
// pause, and returns how many it has found. Other refused messages keep their pause.
func (o *Outbox) Retry(ctx context.Context, ids ...int64) (int, error) {
	among, args := o.cfg.Dialect.among(ids)
	n, err := o.onRefused(ctx, ids, "update #outbox set not_before = null where lane = -1 and "+among, args)
	if err != nil {
		return n, fmt.Errorf("harebus: outbox: retry refused messages: %w", err)
	}
	o.Wake()
	return n, nil
}

// Discard removes refused messages for good, and returns how many there were.
func (o *Outbox) Discard(ctx context.Context, ids ...int64) (int, error) {
	text, args := o.cfg.Dialect.deleteRows(refusedLane, ids)
	n, err := o.onRefused(ctx, ids, text, args)
	if err != nil {
		return n, fmt.Errorf("harebus: outbox: discard refused messages: %w", err)
	}
	return n, nil
}

func (o *Outbox) onRefused(ctx context.Context, ids []int64, text string, args []any) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	n, err := o.db.exec(ctx, o.sql(text), args...)
	return int(n), err
}
