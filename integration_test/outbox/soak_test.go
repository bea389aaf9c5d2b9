package outbox_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/outbox"
)

var soakFor = flag.Duration("soak", 0, "how long TestSoak breaks things, for each database; 0: it does not run")

// TestSoak: three processes handle commands and run transactions of their own, while they are
// killed and frozen for longer than their leases, the database is killed, an old snapshot of it
// is held, and the broker is away while a backlog grows. Some messages are for a queue
// that does not exist, and some rows are damaged. In the end every committed effect has its
// messages, no other message has come, and no effect has happened twice.
func TestSoak(t *testing.T) {
	if *soakFor <= 0 {
		t.Log("not asked for; run with -soak 3m")
		return
	}
	for _, kind := range []string{"postgres", "mariadb"} {
		t.Run(kind, func(t *testing.T) { newSoak(t, kind).run() })
	}
}

// soak is what is broken, and what it must have done in the end.
type soak struct {
	t      *testing.T
	ctx    context.Context
	node   *rabbit.Node
	data   *database.Database
	db     *sql.DB
	setup  *harebus.Setup // of this process; it handles and publishes only in the end
	outbox *outbox.Outbox

	processes []*exec.Cmd
	spawned   int64
	commands  int // that the broker has confirmed

	kills, freezes, databases, snapshots int
}

const (
	soakQueue, soakOut, soakMissing = "soak", "soak.out", "soak.out.missing"
	// damaged is how many rows are no messages.
	damaged = 3
)

var errBroken = fmt.Errorf("not to be used again: %w", driver.ErrBadConn)

func newSoak(t *testing.T, kind string) *soak {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *soakFor+4*time.Minute)
	t.Cleanup(cancel)
	s := &soak{t: t, ctx: ctx, node: rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode}), data: database.Own(t, kind)}
	s.db = s.data.Open(t)
	s.exec("create table effects (id bigint not null)")
	var err error
	if s.setup, s.outbox, err = s.plan().service(s.db); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.setup.Close() })
	if err := errors.Join(s.outbox.Migrate(ctx), s.setup.Init(ctx)); err != nil {
		t.Fatal(err)
	}
	s.queue(soakOut)
	if err := s.node.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for n := range damaged {
		s.exec(fmt.Sprintf("insert into harebus_outbox (lane, id, message_id, message_type, exchange, routing_key, head, body, stored_at, attempts) "+
			"select 5, %d, 'damaged', 't', '', 'soak.out', '', '', until, 0 from harebus_lane where lane = -1", n+1))
	}
	return s
}

// plan is what the service does.
func (s *soak) plan() *orders {
	return &orders{Driver: s.data.Driver, DSN: s.data.DSN, Dialect: s.data.Dialect, URL: s.node.URL(), Queue: soakQueue, Out: soakOut, Soak: true}
}

func (s *soak) run() {
	for range 3 {
		s.spawn()
	}
	s.t.Cleanup(func() {
		for _, one := range s.processes {
			end(one)
		}
	})
	over, stop := context.WithTimeout(s.ctx, *soakFor)
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { s.command(over) })
	group.Go(func() { s.hold(over) })
	began := time.Now()
	for time.Since(began) < *soakFor/3 {
		s.chaos()
	}
	backlog := s.outage()
	for over.Err() == nil {
		s.chaos()
	}
	group.Wait()
	s.finish()
	effects, copies := s.judge()
	s.t.Logf("%d effects, %d of %d commands, %d messages of a backlog; %d × killed, %d × frozen, %d × database killed, %d snapshots held; %d copies",
		effects, s.commands, s.commands, backlog, s.kills, s.freezes, s.databases, s.snapshots, copies)
}

// chaos does one bad thing, and leaves the service some time.
func (s *soak) chaos() {
	i := rand.IntN(len(s.processes))
	switch n := rand.IntN(10); {
	case n < 5:
		s.kills++
		end(s.processes[i])
		s.processes[i] = s.processes[len(s.processes)-1]
		s.processes = s.processes[:len(s.processes)-1]
		s.spawn()
	case n < 8:
		s.freezes++
		frozen := s.processes[i].Process
		_ = frozen.Signal(syscall.SIGSTOP) // it runs
		s.pause(2 * lease)
		_ = frozen.Signal(syscall.SIGCONT) // it runs
	default:
		s.databases++
		s.data.Restart(s.t)
		s.db.SetMaxIdleConns(0) // the connections are broken
		s.db.SetMaxIdleConns(5)
	}
	s.pause(500*time.Millisecond + rand.N(2*time.Second))
}

// outage takes the broker away while a backlog grows, which a process stores that does not publish.
func (s *soak) outage() (backlog int) {
	s.t.Helper()
	const each, first = 100, 1 << 50
	backlog = 100_000
	if *soakFor < time.Minute {
		backlog = 10_000
	}
	if err := s.node.Kill(); err != nil {
		s.t.Fatal(err)
	}
	for from := first; from < first+backlog; from += each {
		err := s.outbox.Transaction(s.ctx, s.setup.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			var values []string
			for id := from; id < from+each; id++ {
				values = append(values, fmt.Sprintf("(%d)", id))
				if err := tx.Send(ctx, soakOut, placed{id}); err != nil {
					return err
				}
			}
			_, err := tx.SQL.ExecContext(ctx, "insert into effects (id) values "+strings.Join(values, ","))
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.node.Start(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	s.eventually("the backlog is published", func() bool { return s.number("select count(*) from harebus_outbox where lane > 0") < 1000 })
	s.t.Logf("%d messages of a backlog were published %v after the broker was back", backlog, time.Since(began).Round(time.Millisecond))
	return backlog
}

// command sends commands until over ends, each until the broker has confirmed it.
func (s *soak) command(over context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; over.Err() == nil; s.commands++ {
		for s.setup.Bus().Send(s.ctx, soakQueue, order{s.commands}, harebus.WithMessageID(fmt.Sprint("command-", s.commands))) != nil {
			if <-tick.C; s.ctx.Err() != nil {
				return
			}
		}
		<-tick.C
	}
}

// hold holds a snapshot, a new one whenever the database was killed, until over ends.
func (s *soak) hold(over context.Context) {
	begin := "begin isolation level repeatable read"
	if s.data.Kind == "mariadb" {
		begin = "start transaction with consistent snapshot"
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for over.Err() == nil {
		<-tick.C
		conn, err := s.db.Conn(over)
		if err != nil {
			continue
		}
		if _, err = conn.ExecContext(over, begin); err == nil {
			s.snapshots++
		}
		for err == nil {
			<-tick.C
			_, err = conn.ExecContext(over, "select count(*) from harebus_schema")
		}
		_ = conn.Raw(func(any) error { return errBroken }) // the connection is not used again
		_ = conn.Close()
	}
}

// finish kills the processes. This one does what is left, and the queue that was missing is made.
func (s *soak) finish() {
	s.t.Helper()
	for _, one := range s.processes {
		end(one)
	}
	s.queue(soakMissing)
	if err := s.setup.Start(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("all commands are handled", func() bool {
		return s.number(fmt.Sprintf("select count(distinct id) from effects where id < %d", s.commands)) == s.commands
	})
	s.eventually("nothing is left but the damaged rows", func() bool {
		s.pause(200 * time.Millisecond) // they are being tried
		refused, err := s.outbox.Refused(s.ctx, 10_000)
		if err != nil {
			s.t.Fatal(err)
		}
		var again []int64
		for _, one := range refused {
			if one.MessageID != "damaged" {
				again = append(again, one.ID)
			}
		}
		if _, err := s.outbox.Retry(s.ctx, again...); err != nil {
			s.t.Fatal(err)
		}
		return len(refused) == damaged && s.number("select count(*) from harebus_outbox where lane > 0") == 0
	})
	if err := s.setup.Stop(s.ctx); err != nil {
		s.t.Error(err)
	}
}

// judge compares the effects with the messages.
func (s *soak) judge() (effects, copies int) {
	s.t.Helper()
	happened := map[int]int{}
	rows, err := s.db.QueryContext(s.ctx, "select id, count(*) from effects group by id")
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, times int
		if err := rows.Scan(&id, &times); err != nil {
			s.t.Fatal(err)
		}
		happened[id] = times
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	poisoned := maps.Clone(happened)
	maps.DeleteFunc(poisoned, func(id, _ int) bool { return !isPoisoned(id) })
	for id, times := range happened {
		if times != 1 {
			s.t.Errorf("the effect %d has happened %d times", id, times)
		}
	}
	for queue, want := range map[string]map[int]int{soakOut: happened, soakMissing: poisoned} {
		copies += s.compare(queue, want)
	}
	s.drain(soakQueue+".error", func(d amqp.Delivery) { s.t.Errorf("a command was parked: %v", d.Headers) })
	return len(happened), copies
}

// compare says what was lost on the way to a queue and what should not be there, and returns
// how many copies there are.
func (s *soak) compare(queue string, want map[int]int) (copies int) {
	s.t.Helper()
	ids, all := map[int]string{}, 0
	s.drain(queue, func(m amqp.Delivery) {
		id := 0
		if _, err := fmt.Sscanf(string(m.Body), `{"ID":%d}`, &id); err != nil {
			s.t.Error(err)
		}
		if other, ok := ids[id]; ok && other != m.MessageId {
			s.t.Errorf("message %d has come under the ids %s and %s", id, other, m.MessageId)
		}
		ids[id] = m.MessageId
		all++
	})
	lost, ghosts := 0, 0
	for id := range want {
		if ids[id] == "" {
			lost++
		}
	}
	for id := range ids {
		if want[id] == 0 {
			ghosts++
		}
	}
	if lost > 0 || ghosts > 0 {
		s.t.Errorf("%s: of %d messages %d are lost, and %d of transactions that were not committed have come", queue, len(want), lost, ghosts)
	}
	s.t.Logf("%s: %d messages, %d copies", queue, len(ids), all-len(ids))
	return all - len(ids)
}

// spawn starts one more process.
func (s *soak) spawn() {
	s.t.Helper()
	s.spawned++
	plan := s.plan()
	plan.Base = s.spawned << 32
	s.processes = append(s.processes, spawn(s.t, plan))
}

// pause lets time pass while things break; nothing is waited for.
func (s *soak) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}

func (s *soak) exec(text string) {
	s.t.Helper()
	if _, err := s.db.ExecContext(s.ctx, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *soak) number(text string) (n int) {
	s.t.Helper()
	if err := s.db.QueryRowContext(s.ctx, text).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *soak) eventually(what string, holds func() bool) {
	s.t.Helper()
	eventually(s.ctx, s.t, what, holds)
}

// channel is one to the broker, for a moment.
func (s *soak) channel(use func(ch *amqp.Channel) error) {
	s.t.Helper()
	conn, err := amqp.Dial(s.node.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = use(ch)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *soak) queue(name string) {
	s.t.Helper()
	s.channel(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
		return err
	})
}

// drain takes all messages of a queue.
func (s *soak) drain(queue string, each func(d amqp.Delivery)) {
	s.t.Helper()
	s.channel(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			return err
		}
		deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
		for n := 0; err == nil && n < q.Messages; n++ {
			select {
			case d := <-deliveries:
				each(d)
			case <-s.ctx.Done():
				return fmt.Errorf("%d of %d messages of %s: %w", n, q.Messages, queue, s.ctx.Err())
			}
		}
		return err
	})
}
