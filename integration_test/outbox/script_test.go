package outbox_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestScript: the SQL that is printed for people does on each database what the methods of
// Outbox do: it makes and checks tables, lists refused messages, and retries or discards some.
func TestScript(t *testing.T) {
	for _, kind := range database.Kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, database.Need(t, kind))
			prefix := "shop_"
			text := func(task string, ids ...int64) string {
				text, err := outbox.Script(r.data.Dialect, prefix, task, ids...)
				if err != nil {
					t.Fatal(err)
				}
				return text
			}
			for range 2 { // it can be run again
				for statement := range strings.SplitSeq(text("schema"), ";\n") {
					if statement != "" {
						r.exec(statement)
					}
				}
			}
			check := func(want string) {
				t.Helper()
				var verdict string
				var version sql.NullInt64
				if err := r.db.QueryRowContext(r.ctx, text("check")).Scan(&verdict, &version); err != nil || !strings.HasPrefix(verdict, want) {
					t.Errorf("%q, %v, %v, want %s", verdict, version, err, want)
				}
			}
			check("good")
			r.exec("update shop_harebus_schema set version = 2")
			check("newer")
			r.exec("delete from shop_harebus_schema")
			check("older, or empty")
			r.exec("insert into shop_harebus_schema values (1)")

			ob := r.outbox(outbox.Config{Prefix: prefix})
			s := r.setup(ob, "")
			r.start(s)
			r.store(ob, s, "nobody", "later", "later")
			r.eventually("they are set aside", func() bool {
				stats, err := ob.Stats(r.ctx)
				return err == nil && stats.SetAside == 3
			})
			refused, err := ob.Refused(r.ctx, 9)
			if err != nil {
				t.Fatal(err)
			}
			listed := r.table(text("refused"))
			for n, one := range refused {
				want := []string{fmt.Sprint(one.ID), one.MessageID, one.Type, one.Exchange, one.RoutingKey, fmt.Sprint(one.Attempts), one.Reason}
				if got := listed[n][:len(want)]; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("listed %v, want %v", got, want)
				}
			}
			if status := r.table(text("status")); len(status) != 1 || status[0][0] != "-1" || status[0][1] != "3" {
				t.Errorf("status %v", status)
			}
			r.exec(text("discard", refused[0].ID))
			future := map[string]string{"sqlite": "stored_at + 1e9", "postgres": "stored_at + interval '1 day'", "mariadb": "stored_at + interval 1 day"}[kind]
			r.exec("update shop_harebus_outbox set not_before = " + future + " where lane = -1")
			r.queue("later")
			r.exec(text("retry"))
			r.await("later", 2)
			r.eventually("the table is empty", func() bool { return r.number("select count(*) from shop_harebus_outbox") == 0 })
		})
	}
	for _, bad := range []struct{ prefix, task string }{{"a;b", "schema"}, {"", "drop"}} {
		if text, err := outbox.Script(outbox.SQLite, bad.prefix, bad.task); err == nil {
			t.Errorf("%v: %s", bad, text)
		}
	}
	if text, err := outbox.Script(9, "", "schema"); err == nil {
		t.Error(text)
	}
}

// table is what a query returns, as text.
func (r *rig) table(text string) [][]string {
	r.t.Helper()
	rows, err := r.db.QueryContext(r.ctx, text)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		r.t.Fatal(err)
	}
	var all [][]string
	for rows.Next() {
		row := make([]string, len(columns))
		into := make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
	return all
}
