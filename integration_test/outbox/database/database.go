package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/harebus/harebus/outbox"
)

// Kinds are the databases that there are tests for.
var Kinds = []string{"sqlite", "postgres", "mariadb"}

// A Database is an empty one.
type Database struct {
	Kind    string
	Dialect outbox.Dialect
	// Driver and DSN are for processes that the test starts.
	Driver, DSN string

	name   string
	server *server
}

// shared are the servers of this process, by kind.
var shared struct {
	mu      sync.Mutex
	servers map[string]*server
	errs    map[string]error
	count   atomic.Int64
}

// Need makes a database for a test, on the server that all tests share.
func Need(t testing.TB, kind string) *Database {
	t.Helper()
	if kind == "sqlite" {
		return &Database{Kind: kind, Dialect: outbox.SQLite, Driver: "sqlite", DSN: SQLiteDSN(filepath.Join(t.TempDir(), "test.db"))}
	}
	s, err := sharedServer(kind)
	SkipOrFail(t, err)
	return s.database(t)
}

// SQLiteDSN opens a file as the outbox wants it: transactions begin with the lock for
// writing, wait for it, and do not disturb readers.
func SQLiteDSN(path string) string {
	return "file:" + path + "?_txlock=immediate&_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"
}

// Own is Need with a server that the test may kill.
func Own(t testing.TB, kind string) *Database {
	t.Helper()
	s, err := start(programs()[kind])
	SkipOrFail(t, err)
	t.Cleanup(s.stop)
	return s.database(t)
}

func programs() map[string]*program {
	return map[string]*program{"postgres": postgres(), "mariadb": mariadb()}
}

func sharedServer(kind string) (*server, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.servers == nil {
		shared.servers, shared.errs = map[string]*server{}, map[string]error{}
	}
	if shared.servers[kind] == nil && shared.errs[kind] == nil {
		shared.servers[kind], shared.errs[kind] = start(programs()[kind])
	}
	return shared.servers[kind], shared.errs[kind]
}

// Stop ends the shared servers. It belongs at the end of TestMain.
func Stop() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for _, s := range shared.servers {
		if s != nil {
			s.stop()
		}
	}
}

func (s *server) database(t testing.TB) *Database {
	t.Helper()
	d, err := s.create()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// create makes an empty database.
func (s *server) create() (*Database, error) {
	name := fmt.Sprintf("test%d", shared.count.Add(1))
	db, err := sql.Open(s.program.driver, s.program.dsn(s.port, ""))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), "create database "+name); err != nil {
		return nil, err
	}
	d := &Database{Kind: s.program.name, Driver: s.program.driver, DSN: s.program.dsn(s.port, name), name: name, server: s, Dialect: outbox.Postgres}
	if d.Kind == "mariadb" {
		d.Dialect = outbox.MariaDB
	}
	return d, nil
}

// Start makes a database for a program, on a server of its own that gets further arguments. stop ends the server. The
// error matches [ErrMissing] if the server is not installed and no Docker engine answers.
func Start(kind string, arguments ...string) (_ *Database, stop func(), err error) {
	p := programs()[kind]
	if p == nil {
		return nil, nil, fmt.Errorf("%q is no kind of server", kind)
	}
	serve := p.serve
	p.serve = func(bin, folder string, port int) []string { return append(serve(bin, folder, port), arguments...) }
	p.image.command = append(slices.Clip(p.image.command), arguments...)
	s, err := start(p)
	if err != nil {
		return nil, nil, err
	}
	d, err := s.create()
	if err != nil {
		s.stop()
		return nil, nil, err
	}
	return d, s.stop, nil
}

// PID is the server's process; 0 for SQLite, which has none.
func (d *Database) PID() int {
	if d.server == nil {
		return 0
	}
	return d.server.pid()
}

// Open opens the database until the test ends.
func (d *Database) Open(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open(d.Driver, d.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	const most = 20
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	return db
}

// Kill kills the server of [Own].
func (d *Database) Kill() { d.server.kill() }

// Restart kills the server of [Own], unless that has happened, and starts it again.
func (d *Database) Restart(t testing.TB) {
	t.Helper()
	d.server.kill()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = d.server.launch(); err == nil {
			return
		}
		<-time.After(100 * time.Millisecond) // PostgreSQL does not start before the last process of the killed one has ended
	}
	t.Fatal(err)
}

// SkipOrFail ends a test after an error: it is skipped if a server is not installed, unless tests
// have to have it (see the package comment), and fails otherwise.
func SkipOrFail(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrMissing) && os.Getenv("HAREBUS_REQUIRE_BROKER") != "1" && os.Getenv("CI") != "true":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}
