package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// schemaVersion is that of the tables which this package works with.
const schemaVersion = 1

// The lane of messages that the broker refused. Whoever has it also looks after the table:
// it finds lanes that nobody has, and removes old rows of the inbox.
const refusedLane = -1

// Schema is the SQL that makes the tables, for tools that migrate databases. The names of
// the tables start with prefix, for example "billing." for a schema of PostgreSQL. Statements
// end with a semicolon and a new line. It can be run again. The text is empty for a dialect
// that this package does not know.
func Schema(d Dialect, prefix string) string {
	if d.String() == fmt.Sprintf("dialect %d", int8(d)) || !prefixText.MatchString(prefix) {
		return ""
	}
	return strings.Join(statements(d, prefix), ";\n") + ";\n"
}

func statements(d Dialect, prefix string) []string {
	var all []string
	types := map[string]string{"@text": "text", "@short": "text", "@bytes": "bytea", "@time": "timestamptz"}
	tail := map[string]string{}
	switch {
	case d.mysql():
		// Binary, because message ids that differ only in case, or in spaces at the end, differ.
		types = map[string]string{"@text": "text character set utf8mb4", "@short": "varbinary(255)", "@bytes": "longblob", "@time": "datetime(6)"}
	case d == SQLite:
		types = map[string]string{"@text": "text", "@short": "text", "@bytes": "blob", "@time": "integer"}
	}
	if d == Postgres {
		tail["#outbox"] = ` with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
	autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000)`
	}
	for _, table := range []struct{ name, columns string }{
		{"#outbox", `
	lane bigint not null, id bigint not null,
	message_id @short not null, message_type @short not null, exchange @short not null, routing_key @short not null,
	head @bytes not null, body @bytes not null,
	stored_at @time not null, attempts int not null, not_before @time, last_error @text,
	primary key (lane, id)
`},
		{"#lane", "lane bigint not null primary key, owner @short not null, until @time not null"},
		{"#inbox", "message_id @short not null, queue @short not null, handled_at @time not null, primary key (message_id, queue)" + inboxIndex(d)},
		{"#saga", `
	saga @short not null, instance @short not null, version bigint not null, run @short not null,
	format int not null, done_at @time, state @bytes not null,
	primary key (saga, instance)` + sagaKey(d) + `
`},
		{"#schema", "version int not null primary key"},
	} {
		text := "create table if not exists " + table.name + " (" + table.columns + ")" + tail[table.name]
		for name, own := range types {
			text = strings.ReplaceAll(text, name, own)
		}
		all = append(all, text)
	}
	_, name, found := strings.Cut(prefix, ".")
	if !found {
		name = prefix
	}
	inbox, saga := name+"harebus_inbox_handled_at", name+"harebus_saga_done_at" // in the schemas of their tables
	switch d {
	case Postgres:
		all = append(all, "create index if not exists "+inbox+" on #inbox using brin (handled_at)")
	case SQLite:
		all = append(all, "create index if not exists "+inbox+" on #inbox (handled_at)")
	}
	if !d.mysql() {
		all = append(all, "create index if not exists "+saga+" on #saga (done_at) where done_at is not null")
	}
	insert, ignore := d.insertNew()
	all = append(all,
		insert+"#lane (lane, owner, until) values (-1, '', "+d.now()+")"+ignore,
		insert+"#schema (version) values (1)"+ignore)
	for i, text := range all {
		all[i] = d.statement(prefix, text)
	}
	return all
}

func inboxIndex(d Dialect) string {
	if d.mysql() {
		return ", key (handled_at)"
	}
	return ""
}

func sagaKey(d Dialect) string {
	if d.mysql() {
		return ", key (done_at)"
	}
	return ""
}

// Migrate makes the tables if they are missing. Several processes may call it at once. It
// fails if the tables are of a newer version.
func (o *Outbox) Migrate(ctx context.Context) error {
	const tries = 5 // PostgreSQL lets only one of several win that create a table at once
	var err error
	for range tries {
		if err = o.migrate(ctx); err == nil {
			return o.Check(ctx)
		}
	}
	return fmt.Errorf("harebus: outbox: migrate: %w", err)
}

func (o *Outbox) migrate(ctx context.Context) error {
	for _, text := range statements(o.cfg.Dialect, o.cfg.Prefix) {
		if _, err := o.db.exec(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// Check says whether the database has the SQL of the dialect, and the tables in the version
// that this package works with. Setup.Start calls it.
func (o *Outbox) Check(ctx context.Context) error {
	ignore := func(scan func(...any) error) error { var now any; return scan(&now) }
	if err := o.db.query(ctx, "select "+o.cfg.Dialect.now(), nil, ignore); err != nil {
		return fmt.Errorf("harebus: outbox: check: ask the database for its time: %w (if it answers other clients, Dialect is not that of the database: %s)", err, o.cfg.Dialect)
	}
	var versions []int
	err := o.db.query(ctx, o.sql("select version from #schema order by version"), nil, func(scan func(...any) error) error {
		var v int
		err := scan(&v)
		versions = append(versions, v)
		return err
	})
	if err == nil { // nobody has an instance without a name; the table must be there
		err = o.db.query(ctx, o.sql("select version from #saga where saga = '' and instance = ''"), nil, func(func(...any) error) error { return nil })
	}
	switch {
	case err != nil:
		return fmt.Errorf("harebus: outbox: check: read the version of the tables %sharebus_…: %w (if they are missing, run the SQL of Schema, or call Migrate)", o.cfg.Prefix, err)
	case len(versions) == 0:
		return errors.New("harebus: outbox: check: the table harebus_schema is empty; run the SQL of Schema, or call Migrate")
	case versions[len(versions)-1] > schemaVersion:
		return fmt.Errorf("harebus: outbox: check: the tables have version %d, this harebus knows %d; update harebus", versions[len(versions)-1], schemaVersion)
	case versions[len(versions)-1] < schemaVersion:
		return fmt.Errorf("harebus: outbox: check: the tables have version %d, this harebus needs %d; run the SQL of Schema, or call Migrate", versions[len(versions)-1], schemaVersion)
	}
	o.seen()
	return nil
}
