package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
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
	// Saga says that the commands are for instances of a saga.
	Saga bool

	count atomic.Int64
}

// steps are the points at which a process can die.
var steps = []string{"handler returned", "committed", "acknowledged", "publishing", "published"}

// at kills the process if this is the step.
func (o *orders) at(step string) {
	if o.Step == step && o.count.Add(1) == o.After {
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
	})
	return s, ob, nil
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
