package outbox

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Dialect is the SQL of a database.
type Dialect int8

// The dialects. MySQL is for version 8, MariaDB for 10.5 and later.
const (
	Postgres Dialect = iota + 1
	MySQL
	MariaDB
	SQLite
)

// String is the name in lower case.
func (d Dialect) String() string {
	switch d {
	case Postgres:
		return "postgres"
	case MySQL:
		return "mysql"
	case MariaDB:
		return "mariadb"
	case SQLite:
		return "sqlite"
	}
	return fmt.Sprintf("dialect %d", int8(d))
}

func (d Dialect) mysql() bool { return d == MySQL || d == MariaDB }

// All times are read from the clock of the database, and none is the time at which a
// transaction began.

// now is the current time, as the tables keep times.
func (d Dialect) now() string {
	switch {
	case d == Postgres:
		return "clock_timestamp()"
	case d.mysql():
		return "utc_timestamp(6)"
	default:
		return "cast((julianday('now') - 2440587.5) * 86400000 as integer)"
	}
}

// in is the time in as many milliseconds as a parameter says.
func (d Dialect) in() string {
	switch {
	case d == Postgres:
		return "clock_timestamp() + ?::bigint * interval '1 millisecond'"
	case d.mysql():
		return "date_add(utc_timestamp(6), interval ? * 1000 microsecond)"
	default:
		return d.now() + " + ?"
	}
}

// age is how long ago a row was stored, in milliseconds.
func (d Dialect) age() string {
	const column = "stored_at"
	switch {
	case d == Postgres:
		return "cast(extract(epoch from clock_timestamp() - " + column + ") * 1000 as bigint)"
	case d.mysql():
		return "timestampdiff(microsecond, " + column + ", utc_timestamp(6)) div 1000"
	default:
		return d.now() + " - " + column
	}
}

// before is the time as many milliseconds ago as a parameter says. PostgreSQL's now() is
// constant in a statement, so the planner can use an index; clock_timestamp() is not.
func (d Dialect) before() string {
	switch {
	case d == Postgres:
		return "now() - ?::bigint * interval '1 millisecond'"
	case d.mysql():
		return "date_sub(utc_timestamp(6), interval ? * 1000 microsecond)"
	default:
		return d.now() + " - ?"
	}
}

// bytes is the length of a column of bytes.
func (d Dialect) bytes(column string) string {
	if d == Postgres {
		return "octet_length(" + column + ")"
	}
	return "length(" + column + ")"
}

// insertNew is the beginning and the end of an insert that leaves out a row whose key exists.
func (d Dialect) insertNew() (head, tail string) {
	if d.mysql() {
		return "insert ignore into ", ""
	}
	return "insert into ", " on conflict do nothing"
}

// among is the condition that the column id is one of ids, and its arguments.
func (d Dialect) among(ids []int64) (string, []any) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatInt(id, 10)
	}
	list := strings.Join(texts, ",")
	if d == Postgres { // one statement for any number, which is planned once
		return "id = any(?::bigint[])", []any{"{" + list + "}"}
	}
	return "id in (" + list + ")", nil
}

// deleteRows is the statement that deletes messages of a lane, and its arguments. MySQL finds each
// row of the join by its key. With "id in" it would read the whole table if that is small, and
// wait for every row that an open transaction has stored.
func (d Dialect) deleteRows(lane int64, ids []int64) (string, []any) {
	if !d.mysql() {
		among, args := d.among(ids)
		return "delete from #outbox where lane = ? and " + among, append([]any{lane}, args...)
	}
	var list strings.Builder
	for i, id := range ids {
		if i > 0 {
			list.WriteString(" union all ")
		}
		list.WriteString("select " + strconv.FormatInt(id, 10) + " as id")
	}
	return "delete o from (" + list.String() + ") ids straight_join #outbox o force index (primary) on o.lane = ? and o.id = ids.id", []any{lane}
}

// statement replaces each ? by what the database wants, and each # by the prefix of the
// tables. The texts of this package have neither in any other place.
func (d Dialect) statement(prefix, text string) string {
	text = strings.ReplaceAll(text, "#", prefix+"harebus_")
	if d != Postgres {
		return text
	}
	var b strings.Builder
	for n, part := range strings.Split(text, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
	}
	return b.String()
}

// conflict says whether err is a deadlock, a serialization failure or a lock that was waited
// for too long, after which the same transaction can be tried again at once.
func (d Dialect) conflict(err error) bool {
	if err == nil {
		return false
	}
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState() == "40001" || state.SQLState() == "40P01"
	}
	var sqlite interface{ Code() int }
	// Errors of a handler can have such a method, too.
	if d == SQLite && errors.As(err, &sqlite) && strings.Contains(fmt.Sprintf("%T", sqlite), "sqlite") {
		const busy, locked = 5, 6
		code := sqlite.Code() & 0xff
		return code == busy || code == locked
	}
	return conflictText.MatchString(err.Error())
}

// conflictText is how drivers without such methods say it: lib/pq before 1.11, MySQL, mattn/go-sqlite3.
var conflictText = regexp.MustCompile(`Error (1213|1205)\b|database (table )?is locked|\((40001|40P01)\)`)

// answered says whether the database itself has refused a commit. Any other error, such as
// a lost connection, leaves open whether it has committed.
func (d Dialect) answered(err error) bool {
	if d.conflict(err) {
		return true
	}
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		class := state.SQLState()
		return !strings.HasPrefix(class, "08") && !strings.HasPrefix(class, "57") && !strings.HasPrefix(class, "XX") && class != ""
	}
	return strings.Contains(err.Error(), "commit unexpectedly resulted in rollback") // of pgx
}

// prefixText is what a prefix may be: part of a name, or a schema with a dot.
var prefixText = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)?([A-Za-z_][A-Za-z0-9_]*)?$`)
