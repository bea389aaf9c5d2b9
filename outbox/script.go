package outbox

import (
	"fmt"
	"strconv"
	"strings"
)

// Script is the SQL of a task, for whoever looks after the database with its own tools:
//
//   - schema makes the tables: [Schema]. It can be run again, and brings older tables to the
//     present version.
//   - check says whether the tables have the version that this package works with.
//   - status counts the messages of each lane. Lane -1 has the refused ones.
//   - refused lists refused messages, the oldest 100.
//   - retry has refused messages tried again, and discard removes them for good: those with
//     these ids, or all of them if there is no id.
//
// `harebus outbox sql` prints it. Other tasks, dialects and prefixes are an error.
func Script(d Dialect, prefix, task string, ids ...int64) (string, error) {
	schema := Schema(d, prefix)
	if schema == "" {
		return "", fmt.Errorf("harebus: outbox: script: %s with the prefix %q: the dialect is unknown, or the prefix is not the beginning of a name", d, prefix)
	}
	which := "lane = -1"
	if len(ids) > 0 {
		texts := make([]string, len(ids))
		for i, id := range ids {
			texts[i] = strconv.FormatInt(id, 10)
		}
		which += " and id in (" + strings.Join(texts, ", ") + ")"
	}
	var text string
	switch task {
	case "schema":
		return schema, nil
	case "check":
		text = fmt.Sprintf(`select case
	when max(version) > %d then 'newer than this harebus: update harebus'
	when max(version) = %[1]d then 'good'
	else 'older, or empty: run the SQL of the task schema'
end as verdict, max(version) as version from #schema`, schemaVersion)
	case "status":
		text = "select lane, count(*) as messages, max(" + d.age() + ") as oldest_ms from #outbox group by lane order by lane"
	case "refused":
		text = "select id, message_id, message_type, exchange, routing_key, attempts, last_error, " + d.age() + " as age_ms from #outbox where lane = -1 order by id limit 100"
	case "retry":
		text = "update #outbox set not_before = null where " + which
	case "discard":
		text = "delete from #outbox where " + which
	default:
		return "", fmt.Errorf("harebus: outbox: script: there is no task %q; there are schema, check, status, refused, retry and discard", task)
	}
	return d.statement(prefix, text) + ";\n", nil
}

// ParseDialect is the dialect of this name: postgres, mysql, mariadb or sqlite.
func ParseDialect(name string) (Dialect, error) {
	for d := Postgres; d <= SQLite; d++ {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("harebus: outbox: there is no dialect %q; there are postgres, mysql, mariadb and sqlite", name)
}
