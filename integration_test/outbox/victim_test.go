package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/outbox"
)

// victimEnv says that this process is a service that a test kills, and what it does.
const victimEnv = "HAREBUS_OUTBOX_VICTIM"

// orders is a service that is described in an environment variable, so that another process
// can be it.
type orders struct {
	Driver, DSN string
	Dialect     outbox.Dialect
	URL         string
	Queue, Out  string
	// Step is where the process kills itself, when it gets there the After-th time.
	Step  string
	After int64
	// Freeze says that it freezes itself (SIGSTOP) instead, until somebody lets it go on.
	Freeze bool
	// Saga says that the commands are for instances of a saga.
	Saga bool
	// Soak says that the process also runs transactions of its own. Base is the first of their numbers.
	Soak bool
	Base int64

	count atomic.Int64
}

// steps are the points at which a process can die.
var steps = []string{"handler returned", "committed", "acknowledged", "publishing", "published"}

// at kills or freezes the process if this is the step.
func (o *orders) at(step string) {
	switch {
	case o.Step != step || o.count.Add(1) != o.After:
	case o.Freeze: // by a signal to this thread, which has stopped before the call returns
		runtime.LockOSThread()
		_, _, _ = syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP))
		runtime.UnlockOSThread()
	default:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it has arrived
	}
}

// mortal is a Transactor that may die before and after the transaction.
type mortal struct {
	*outbox.Outbox
	orders *orders
	mute   *harebus.Setup // if it is set, nothing is published
}

func (m *mortal) Transact(ctx context.Context, message *harebus.Message, run func(context.Context) ([]harebus.Envelope, error)) error {
	err := m.Outbox.Transact(ctx, message, func(ctx context.Context) ([]harebus.Envelope, error) {
		envelopes, err := run(ctx)
		m.orders.at("handler returned")
		return envelopes, err
	})
	if err == nil {
		m.orders.at("committed")
	}
	return err
}

func (m *mortal) Run(ctx context.Context, bus *harebus.Bus) error {
	if m.mute != nil {
		bus = m.mute.Bus()
	}
	return m.Outbox.Run(ctx, bus)
}

// ObserveStart dies before a batch is published.
func (m *mortal) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	if o.Operation == harebus.OpForward {
		m.orders.at("publishing")
	}
	return ctx
}

// ObserveEnd dies when a batch is confirmed, before its rows are deleted.
func (m *mortal) ObserveEnd(_ context.Context, o harebus.Observation, err error) {
	if o.Operation == harebus.OpForward && err == nil {
		m.orders.at("published")
	}
}

// service makes the service. Its effect is a row, and it sends the number on.
func (o *orders) service(db *sql.DB) (*harebus.Setup, *outbox.Outbox, error) {
	ob, err := outbox.New(outbox.Config{DB: db, Dialect: o.Dialect, Lease: lease, Poll: 100 * time.Millisecond})
	if err != nil {
		return nil, nil, err
	}
	m := &mortal{Outbox: ob, orders: o}
	if o.Step == "acknowledged" {
		// Port 1 refuses connections: what is acknowledged is not published.
		if m.mute, err = harebus.New(harebus.Config{URL: "amqp://127.0.0.1:1/"}); err != nil {
			return nil, nil, err
		}
	}
	s, err := harebus.New(harebus.Config{
		URL: o.URL, Queue: o.Queue, ErrorQueue: harebus.ErrorQueueConfig{Name: o.Queue + ".error"},
		Handling: harebus.HandlingConfig{Transactor: m}, Observers: []harebus.Observer{m},
	})
	if err != nil {
		return nil, nil, err
	}
	if o.Saga {
		return s, ob, o.saga(s)
	}
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, cmd order) error {
		_, err := outbox.SQL(ctx).ExecContext(ctx, fmt.Sprintf("insert into effects (id) values (%d)", cmd.ID))
		return errors.Join(err, bus.Send(ctx, o.Out, placed(cmd)))
	}, harebus.WithRetry(harebus.RetryConfig{MaxRetries: 1000, BackOff: short}))
	return s, ob, nil
}

// soak serves for ever.
func (o *orders) soak(db *sql.DB) {
	ctx := context.Background()
	tick := time.NewTicker(100 * time.Millisecond)
	for ; ; <-tick.C {
		s, ob, err := o.service(db)
		if err == nil {
			err = s.Start(ctx)
		}
		if err == nil {
			o.write(ctx, s, ob)
		}
		if s != nil {
			_ = s.Close() // the database is away
		}
	}
}

// write runs transactions for ever. It rolls back some of them. An error is an outage: the rows
// say what was committed.
func (o *orders) write(ctx context.Context, s *harebus.Setup, ob *outbox.Outbox) {
	const everyRollback = 7
	tick := time.NewTicker(10 * time.Millisecond)
	for id := int(o.Base); ; id++ {
		_ = ob.Transaction(ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			_, err := tx.SQL.ExecContext(ctx, fmt.Sprintf("insert into effects (id) values (%d)", id))
			err = errors.Join(err, tx.Send(ctx, o.Out, placed{id}))
			if isPoisoned(id) {
				err = errors.Join(err, tx.Send(ctx, o.Out+".missing", placed{id}))
			}
			if id%everyRollback == 0 {
				err = errors.Join(err, errNo)
			}
			return err
		})
		<-tick.C
	}
}

// isPoisoned says whether a transaction also sends to a queue that does not exist. Those of the
// test itself, which have small and big numbers, do not.
func isPoisoned(id int) bool {
	const every, first, end = 50, 1 << 32, 1 << 50
	return id%every == 0 && id >= first && id < end
}

// lease is short, so that the tests are.
const lease = 1500 * time.Millisecond

// victim is the main function of a process that dies.
func victim() {
	var o orders
	if err := json.Unmarshal([]byte(os.Getenv(victimEnv)), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	db, err := sql.Open(o.Driver, o.DSN)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if o.Soak {
		o.soak(db)
	}
	s, _, err := o.service(db)
	if err == nil {
		err = s.Start(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if o.Step == "acknowledged" {
		tick := time.NewTicker(time.Millisecond)
		for s.Stats().Handled < uint64(o.After) {
			<-tick.C
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	select {}
}
