package outbox_test

import (
	"database/sql"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestOutage: all leases run out while a database is away. The first process that is back does
// not take the lanes of the others at once: it renews its own lease twice before, and so
// leaves the others time to come back.
func TestOutage(t *testing.T) {
	t.Parallel()
	r, seen := traced(t, database.Own(t, "postgres"))
	const other, refused = 78, -1
	s := r.setup(r.outbox(outbox.Config{Lease: 900 * time.Millisecond}), "")
	r.start(s)
	r.eventually("it has both lanes", func() bool { return r.number("select count(*) from harebus_lane where owner <> ''") == 2 })
	r.exec("insert into harebus_lane (lane, owner, until) values (78, 'another process', clock_timestamp() + interval '3 seconds')")
	r.data.Kill()
	<-time.After(3 * time.Second) // all leases run out
	before := len(seen.all())
	r.data.Restart(t)
	r.eventually("the lane of the other, which does not come back, is taken over", func() bool {
		renewals, took := renewals(seen.all()[before:], refused, other)
		if took && renewals < 2 {
			t.Fatalf("a lane was taken over after %d renewals", renewals)
		}
		return took
	})
}

// renewals counts how often the lease of a lane was renewed before another lane was taken over.
func renewals(done []statement, own, other int64) (n int, took bool) {
	for _, one := range done {
		switch {
		case strings.HasPrefix(one.text, "update harebus_lane set until") && one.number(1) == own:
			n++
		case strings.HasPrefix(one.text, "update harebus_lane set owner") && len(one.args) == 3 && one.number(2) == other:
			return n, true
		}
	}
	return n, false
}

// TestHeldSnapshot: while somebody holds an old snapshot, PostgreSQL can remove no deleted row.
// The relay passes them only from time to time, not with each batch, and PostgreSQL does not sort
// the backlog, also if the table was never analysed.
func TestHeldSnapshot(t *testing.T) {
	t.Parallel()
	r, seen := traced(t, database.Need(t, "postgres"))
	r.exec("alter table harebus_outbox set (autovacuum_enabled = false)")
	silent := r.outbox(outbox.Config{})
	r.store(silent, r.setup(silent, ""), "out")
	const messages, lane = 20_000, 5
	r.exec("insert into harebus_outbox select 5, n, 'm' || n, message_type, exchange, routing_key, head, body, now(), 0 " +
		"from harebus_outbox, generate_series(1, 20000) n")
	snapshot, err := r.db.BeginTx(r.ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = snapshot.Rollback() }()
	var n int
	if err := snapshot.QueryRowContext(r.ctx, "select count(*) from harebus_outbox").Scan(&n); err != nil || n != messages+1 {
		t.Fatal(n, err)
	}
	r.start(r.setup(r.outbox(outbox.Config{}), ""))
	r.awaitAtLeast("out", messages+1)
	r.empty()

	var low, high *statement
	for _, one := range seen.all() {
		if !strings.HasPrefix(one.text, "select id, octet_length") || len(one.args) != 4 || one.number(0) != lane {
			continue
		}
		if low == nil {
			low = &one // the first one begins at 0
		}
		if high == nil || one.number(1) > high.number(1) {
			high = &one
		}
	}
	if low == nil || low.number(1) != 0 || high.number(1) < messages*3/4 {
		t.Fatalf("reads began from %+v to %+v: the floor does not rise", low, high)
	}
	rest := r.pages(high)
	r.exec("vacuum harebus_outbox")
	whole := r.pages(low)
	t.Logf("a read touches %d pages from 0 and %d from %d", whole, rest, high.number(1))
	if whole < 100 || rest*5 > whole {
		t.Errorf("a read touches %d pages from 0 and %d from %d", whole, rest, high.number(1))
	}
}

// pages is how many pages PostgreSQL touches for a statement. It must use an index and not sort.
func (r *rig) pages(s *statement) int {
	r.t.Helper()
	rows, err := r.db.QueryContext(r.ctx, "explain (analyze, buffers, timing off) "+s.text, s.args...)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			r.t.Fatal(err)
		}
		lines = append(lines, line)
	}
	plan := strings.Join(lines, "\n")
	found := regexp.MustCompile(`shared hit=(\d+)(?: read=(\d+))?`).FindStringSubmatch(plan)
	if err := rows.Err(); err != nil || found == nil || !strings.Contains(plan, "Index Scan") || strings.Contains(plan, "Sort") {
		r.t.Fatalf("%v, the plan is\n%s", err, plan)
	}
	hit, err1 := strconv.Atoi(found[1])
	read, err2 := strconv.Atoi("0" + found[2])
	if err := errors.Join(err1, err2); err != nil {
		r.t.Fatal(err)
	}
	return hit + read
}
