package outbox_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/harebus/harebus/integration_test/outbox/database"
)

// statements are those that PostgreSQL has carried out for a client, in their order.
type statements struct {
	mu   sync.Mutex
	done []statement
	at   func(text string, over bool) // called when a statement begins, and when it is over
}

// call makes fn be called when a statement begins, and when it is over.
func (s *statements) call(fn func(text string, over bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = fn
}

func (s *statements) notify(text string, over bool) {
	s.mu.Lock()
	fn := s.at
	s.mu.Unlock()
	if fn != nil {
		fn(text, over)
	}
}

type statement struct {
	text string
	args []any
}

type statementKey struct{}

// TraceQueryStart notes a statement in the context.
func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	args := q.Args
	if len(args) > 0 {
		if _, ok := args[0].(pgx.QueryResultFormatsByOID); ok { // an option of the driver
			args = args[1:]
		}
	}
	s.notify(q.SQL, false)
	return context.WithValue(ctx, statementKey{}, statement{q.SQL, args})
}

// TraceQueryEnd keeps it if it has not failed.
func (s *statements) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, end pgx.TraceQueryEndData) {
	one, ok := ctx.Value(statementKey{}).(statement)
	if !ok || end.Err != nil {
		return
	}
	s.notify(one.text, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, one)
}

// all are the statements so far.
func (s *statements) all() []statement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.done)
}

// number is an argument of a statement.
func (s statement) number(i int) int64 {
	n, _ := s.args[i].(int64)
	return n
}

// traced makes the rig on PostgreSQL note its statements.
func traced(t *testing.T, data *database.Database) (*rig, *statements) {
	t.Helper()
	r, seen := newRig(t, data), &statements{}
	cfg, err := pgx.ParseConfig(r.data.DSN)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Tracer = seen
	r.db = stdlib.OpenDB(*cfg)
	const most = 20
	r.db.SetMaxIdleConns(most)
	t.Cleanup(func() { _ = r.db.Close() })
	return r, seen
}
