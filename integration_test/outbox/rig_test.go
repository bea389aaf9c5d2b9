package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

type order struct{ ID int }

func (order) MessageType() string { return "Order" }

type placed struct{ ID int }

func (placed) MessageType() string { return "Placed" }

var errNo = errors.New("no")

// rig is a database, a broker of this process, and what tests do with them.
type rig struct {
	t      *testing.T
	ctx    context.Context
	data   *database.Database
	db     *sql.DB
	broker *brokertest.Broker
	ch     *amqp.Channel
}

// onEach runs a test on every kind of database.
func onEach(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	for _, kind := range database.Kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, newRig(t, database.Need(t, kind)))
		})
	}
}

func newRig(t *testing.T, data *database.Database) *rig {
	t.Helper()
	ctx, cancel := patient(t)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, data: data, db: data.Open(t), broker: brokertest.New()}
	t.Cleanup(r.broker.Close)
	r.exec("create table effects (id integer not null)")
	if err := r.outbox(outbox.Config{}).Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if r.ch, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	r.queue("out")
	return r
}

// patient ends after two minutes, or shortly before go test loses its patience, so that a test
// can say what never happened.
func patient(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	const most, before = 2 * time.Minute, 10 * time.Second
	until := time.Now().Add(most)
	if end, ok := t.Deadline(); ok && end.Add(-before).Before(until) {
		until = end.Add(-before)
	}
	return context.WithDeadline(t.Context(), until)
}

func (r *rig) queue(name string) {
	r.t.Helper()
	if _, err := r.ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
}

// bind binds a queue to a topic.
func (r *rig) bind(queue, topic string) {
	r.t.Helper()
	if err := r.ch.ExchangeDeclare("PikaBusTopic", "topic", true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
	if err := r.ch.QueueBind(queue, topic, "PikaBusTopic", false, nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) exec(text string, args ...any) {
	r.t.Helper()
	if _, err := r.db.ExecContext(r.ctx, text, args...); err != nil {
		r.t.Fatal(err)
	}
}

// number is the one value that a query returns.
func (r *rig) number(text string) int {
	r.t.Helper()
	var n int
	if err := r.db.QueryRowContext(r.ctx, text).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// outbox makes one with short times.
func (r *rig) outbox(cfg outbox.Config) *outbox.Outbox {
	r.t.Helper()
	cfg.DB, cfg.Dialect = r.db, r.data.Dialect
	if cfg.Poll == 0 {
		cfg.Poll = 50 * time.Millisecond
	}
	if cfg.Lease == 0 {
		cfg.Lease = time.Second
	}
	ob, err := outbox.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return ob
}

// setup makes a service with an outbox. It is not started.
func (r *rig) setup(ob *outbox.Outbox, queue string) *harebus.Setup {
	r.t.Helper()
	s, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: queue, Handling: harebus.HandlingConfig{Transactor: ob}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
	return s
}

func (r *rig) start(s *harebus.Setup) {
	r.t.Helper()
	if err := s.Start(r.ctx); err != nil {
		r.t.Fatal(err)
	}
}

// insert is the effect of a handler.
func (r *rig) insert(ctx context.Context, id int) error {
	_, err := outbox.SQL(ctx).ExecContext(ctx, "insert into effects (id) values ("+strconv.Itoa(id)+")")
	return err
}

// await waits until a queue has n messages, and returns them.
func (r *rig) await(queue string, n int) []brokertest.Message {
	r.t.Helper()
	if err := r.broker.WaitQueue(r.ctx, queue, func(q brokertest.Queue) bool { return q.Ready >= n }); err != nil {
		r.t.Fatalf("%v; %d messages in %q, want %d", err, len(r.broker.Messages(queue)), queue, n)
	}
	messages := r.broker.Messages(queue)
	if len(messages) != n {
		r.t.Fatalf("%d messages in %q, want %d", len(messages), queue, n)
	}
	return messages
}

func (r *rig) eventually(what string, holds func() bool) {
	r.t.Helper()
	eventually(r.ctx, r.t, what, holds)
}

// eventually waits until a condition holds.
func eventually(ctx context.Context, t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never happened: %s", what)
		}
	}
}

// empty waits until the table has no messages.
func (r *rig) empty() {
	r.t.Helper()
	r.eventually("the table is empty", func() bool { return r.number("select count(*) from harebus_outbox") == 0 })
}

// ids are the message ids in a queue, and how many of them are duplicates.
func (r *rig) ids(queue string) (map[string]int, int) {
	found, twice := map[string]int{}, 0
	for _, m := range r.broker.Messages(queue) {
		if found[m.Publishing.MessageId]++; found[m.Publishing.MessageId] > 1 {
			twice++
		}
	}
	return found, twice
}

func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not contain %q", err, part)
		}
	}
}

func check(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// plain is an order as another library sends it.
func plain(n int, id string) amqp.Publishing {
	return amqp.Publishing{MessageId: id, Type: "Order", ContentType: "application/json", Body: fmt.Appendf(nil, `{"ID":%d}`, n)}
}
