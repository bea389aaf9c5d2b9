package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// Config configures an [Outbox]. The zero value of a field means the default.
type Config struct {
	// DB is the database; [NewPgx] takes a pool of pgx instead.
	DB *sql.DB
	// Dialect is the database's SQL. It must be set.
	Dialect Dialect
	// Prefix starts the names of the tables: a schema ("billing."), or part of a name. One
	// set of tables belongs to the instances of one service on one broker and vhost, because
	// each of them publishes what another has left.
	Prefix string
	// TxOptions are for the transactions of handlers. Default: those of the database.
	TxOptions *sql.TxOptions
	// NoInbox does not note which messages were handled: duplicates run their handler again.
	NoInbox bool
	// Keep is how long the inbox remembers a message, and how long the instance of a saga is
	// remembered after its end. Default: 7 days.
	Keep time.Duration
	// Poll is how often the table is looked at for messages that were not handed over in
	// memory: those of other processes and of [Outbox.Join]. Default: 1 s.
	Poll time.Duration
	// Lease is how long a process keeps its lane without a sign of life. After that others
	// publish what it has left. Default: 15 s.
	Lease time.Duration
	// Batch is how many messages are read and published at once, of at most 8 MiB in all.
	// Default: 500.
	Batch int
	// Behind is the age of a waiting message from which on the outbox is behind: Ready fails
	// until it is published. Default: 1 minute. Negative: never.
	Behind time.Duration
	// Name tells several outboxes of a process apart, in errors, in the log and for
	// observers. Default: none.
	Name string
	// Logger is the log. Default: nothing is logged.
	Logger *zap.Logger
}

const (
	batchBytes      = 8 << 20
	handOverCount   = 5000
	handOverBytes   = 16 << 20
	rollbackTimeout = 5 * time.Second
	maxBatch        = 10_000
)

// Outbox stores messages in a database and publishes them. It is a [harebus.Transactor] for
// one setup. It is safe for concurrent use.
type Outbox struct {
	cfg   Config
	db    database
	log   *zap.Logger
	owner string // of leases

	counters counters

	mu    sync.Mutex // guards what follows
	own   *lane      // where this process stores
	last  int64      // the latest id
	run   *relay     // nil unless Run is running
	watch watch
}

var _ harebus.Transactor = (*Outbox)(nil)

// New checks cfg and returns an outbox. It does not connect.
func New(cfg Config) (*Outbox, error) {
	if cfg.DB == nil {
		return nil, errors.New("harebus: outbox: new: DB is nil")
	}
	return newOutbox(cfg, sqlDatabase{joined{cfg.DB}, cfg.DB, cfg.TxOptions})
}

func newOutbox(cfg Config, db database) (*Outbox, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if Schema(cfg.Dialect, "") == "" {
		fault("Dialect is none of Postgres, MySQL, MariaDB and SQLite")
	}
	if !prefixText.MatchString(cfg.Prefix) || len(cfg.Prefix) > 40 {
		fault("Prefix %q is not the beginning of a name: letters, digits and _, at most 40, after at most one schema and a dot", cfg.Prefix)
	}
	if cfg.Dialect == SQLite && strings.Contains(cfg.Prefix, ".") {
		fault("Prefix %q has a schema, which SQLite does not have", cfg.Prefix)
	}
	for _, d := range []struct {
		name       string
		value      *time.Duration
		least, def time.Duration
	}{
		{"Keep", &cfg.Keep, time.Minute, 7 * 24 * time.Hour},
		{"Poll", &cfg.Poll, 10 * time.Millisecond, time.Second},
		{"Lease", &cfg.Lease, 300 * time.Millisecond, 15 * time.Second},
		{"Behind", &cfg.Behind, 100 * time.Millisecond, time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < d.least && (d.name != "Behind" || *d.value > 0) {
			fault("%s %v is less than %v", d.name, *d.value, d.least)
		}
	}
	if cfg.Batch == 0 {
		cfg.Batch = 500
	}
	if cfg.Batch < 1 || cfg.Batch > maxBatch {
		fault("Batch %d is not between 1 and %d", cfg.Batch, maxBatch)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("harebus: outbox: new: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Name != "" {
		cfg.Logger = cfg.Logger.With(zap.String("outbox", cfg.Name))
	}
	host, _ := os.Hostname() // only for whoever reads the table
	o := &Outbox{cfg: cfg, db: db, log: cfg.Logger, owner: fmt.Sprintf("%.100s/%d/%s", host, os.Getpid(), harebus.NewMessageID())}
	o.own = newLane(o.nextID(1))
	return o, nil
}

// sql completes a statement.
func (o *Outbox) sql(text string) string { return o.cfg.Dialect.statement(o.cfg.Prefix, text) }

// epoch is where the time in ids begins. They are positive for 71 years after it.
var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// nextID returns the first of n new ids, which have the time in front. They are unique in a
// lane, because only one process stores in it. Lanes have such numbers, too.
func (o *Outbox) nextID(n int) int64 {
	const bits = 12
	random := harebus.NewMessageID() // ends in random digits
	var low int64
	for _, c := range random[len(random)-3:] {
		low = low<<4 | int64(hexDigit(c))
	}
	now := time.Since(epoch).Microseconds()<<bits | low&(1<<bits-1)
	o.mu.Lock()
	defer o.mu.Unlock()
	first := max(o.last+1, now)
	o.last = first + int64(n) - 1
	return first
}

func hexDigit(c rune) rune {
	if c >= 'a' {
		return c - 'a' + 10 //nolint:mnd // hexadecimal
	}
	return c - '0'
}

// Errors for [errors.Is].
var (
	// ErrUnknownCommit: the connection to the database was lost while it committed. The
	// database knows whether it did: if so, the messages are published.
	ErrUnknownCommit = errors.New("not known whether the database has committed")
	// ErrEnded: the handler, or the function, has ended the transaction itself. The outbox
	// commits it, because it has to store the messages before.
	ErrEnded = errors.New("the transaction was ended by somebody else; only the outbox may commit it or roll it back")
	// ErrInTransaction: Begin was called inside a handler or a transaction of this outbox.
	// Use the transaction that is there: [SQL] or [Pgx], and the bus.
	ErrInTransaction = errors.New("there is a transaction of this outbox already; use it instead of a second one")
	// ErrRunning: Run was called while it was running. An outbox belongs to one setup.
	ErrRunning = errors.New("running already; make an outbox for each setup")
)

// transactionKey is the key of the transaction in contexts.
type transactionKey struct{}

// inside is what a context leads to inside a transaction.
type inside struct {
	outbox *Outbox
	tx     transaction
	// sender buffers the messages of the transaction; nil in a handler, where every bus
	// buffers what is sent with the context.
	sender harebus.Sender
}

// SQL is the transaction that a handler, or the function of [Outbox.Transaction], runs in.
// It panics if ctx does not lead to one of database/sql. Do not commit it or roll it back:
// the outbox does.
func SQL(ctx context.Context) *sql.Tx {
	if in, ok := ctx.Value(transactionKey{}).(*inside); ok {
		if tx, ok := in.tx.handle().(*sql.Tx); ok {
			return tx
		}
	}
	panic("harebus: outbox: the context leads to no transaction; use the context of the handler, and Pgx for pgx")
}

// Transact implements [harebus.Transactor]: it runs a handler in a transaction. A message
// that the inbox knows is acknowledged without its handler. After a deadlock or a
// serialization failure the handler runs again at once, up to three times.
func (o *Outbox) Transact(ctx context.Context, m *harebus.Message, run func(ctx context.Context) ([]harebus.Envelope, error)) error {
	const tries = 4
	id, queue := m.ID, m.Queue // the handler may change m
	for try := 1; ; try++ {
		err := o.transact(ctx, id, queue, run)
		if try == tries || ctx.Err() != nil || !o.cfg.Dialect.conflict(err) {
			return err
		}
		o.counters.conflicts.Add(1)
	}
}

func (o *Outbox) transact(ctx context.Context, id, queue string, run func(ctx context.Context) ([]harebus.Envelope, error)) error {
	tx, err := o.db.begin(ctx)
	if err != nil {
		return fmt.Errorf("harebus: outbox: begin: %w", err)
	}
	defer tx.rollback()
	if !o.cfg.NoInbox {
		insert, ignore := o.cfg.Dialect.insertNew()
		n, err := tx.exec(ctx, o.sql(insert+"#inbox (message_id, queue, handled_at) values (?, ?, "+o.cfg.Dialect.now()+")"+ignore), inboxKey(id), inboxKey(queue))
		if err != nil {
			return fmt.Errorf("harebus: outbox: note message %q: %w", id, err)
		}
		if n == 0 {
			o.counters.duplicates.Add(1)
			return nil
		}
	}
	envelopes, err := run(context.WithValue(ctx, transactionKey{}, &inside{outbox: o, tx: tx}))
	if err != nil {
		return err
	}
	if err = o.finish(ctx, tx, envelopes); errors.Is(err, ErrEnded) && ctx.Err() == nil {
		// What the handler has done is committed, or not: a retry would not make it better.
		return harebus.NoRetry(err)
	}
	return err
}

// finish stores messages, commits, and hands them over to the relay.
func (o *Outbox) finish(ctx context.Context, tx transaction, envelopes []harebus.Envelope) error {
	s, err := o.prepare(envelopes)
	if err != nil {
		return err
	}
	if err := s.insert(ctx, tx); err != nil {
		return ended(err)
	}
	o.claim(s)
	if err := tx.commit(ctx); err != nil {
		o.disclaim(s)
		if err = ended(err); errors.Is(err, ErrEnded) || o.cfg.Dialect.answered(err) {
			return fmt.Errorf("harebus: outbox: commit: %w", err)
		}
		return fmt.Errorf("harebus: outbox: commit: %w: %w", ErrUnknownCommit, err)
	}
	o.counters.stored.Add(uint64(len(s.rows)))
	o.handOver(s)
	return nil
}

// ended marks an error that says that the transaction has ended before.
func ended(err error) error {
	if errors.Is(err, sql.ErrTxDone) || strings.HasSuffix(err.Error(), "tx is closed") { // of pgx
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return err
}
