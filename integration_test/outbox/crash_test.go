package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/outbox"
)

// TestCrash: a service is killed (SIGKILL) at each step, on each database, with RabbitMQ.
// Another instance goes on: every command has one effect, what was sent for it arrives, all
// copies have the same id, and nothing arrives for what has no effect. The same holds for a
// service that is frozen (SIGSTOP) for longer than its lease.
func TestCrash(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{})
	t.Run("steps", func(t *testing.T) {
		for _, kind := range database.Kinds {
			for _, step := range steps {
				t.Run(kind+"/"+strings.ReplaceAll(step, " ", "_"), func(t *testing.T) {
					t.Parallel()
					crash(t, node.URL(), kind, step)
				})
			}
			if kind == "sqlite" { // one that is frozen could hold its only lock
				continue
			}
			t.Run(kind+"/frozen", func(t *testing.T) {
				t.Parallel()
				freeze(t, node.URL(), kind)
			})
		}
	})
}

const commands = 40

// scene is a service that comes to harm in another process, and a survivor in this one.
type scene struct {
	t        *testing.T
	ctx      context.Context
	db       *sql.DB
	orders   *orders // the victim
	setup    *harebus.Setup
	outbox   *outbox.Outbox
	arrivals <-chan amqp.Delivery
	ids      map[string]map[string]int // how often each id has come with each body
}

// newScene makes the tables and the queues. The survivor is not started.
func newScene(t *testing.T, url, kind, step string) *scene {
	t.Helper()
	ctx, cancel := patient(t)
	t.Cleanup(cancel)
	data := database.Need(t, kind)
	s := &scene{t: t, ctx: ctx, db: data.Open(t), ids: map[string]map[string]int{}}
	name := "outbox." + strings.ReplaceAll(t.Name(), "/", ".")
	s.orders = &orders{Driver: data.Driver, DSN: data.DSN, Dialect: data.Dialect, URL: url, Queue: name, Out: name + ".out", Step: step, After: 7}
	if step == "publishing" || step == "published" {
		s.orders.After = 2 // batches
	}
	if _, err := s.db.ExecContext(ctx, "create table effects (id integer not null)"); err != nil {
		t.Fatal(err)
	}
	survivor := &orders{Dialect: data.Dialect, URL: url, Queue: name, Out: s.orders.Out}
	var err error
	if s.setup, s.outbox, err = survivor.service(s.db); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.setup.Close() })
	s.arrivals = consume(t, url, s.orders.Out)
	if err := errors.Join(s.outbox.Migrate(ctx), s.setup.Init(ctx)); err != nil {
		t.Fatal(err)
	}
	return s
}

// send sends commands.
func (s *scene) send(from, to int) {
	s.t.Helper()
	for n := from; n < to; n++ {
		if err := s.setup.Bus().Send(s.ctx, s.orders.Queue, order{n}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// await waits until so many commands have led to a message, and nothing is stored any more.
func (s *scene) await(n int) {
	s.t.Helper()
	for len(s.ids) < n {
		select {
		case m := <-s.arrivals:
			note(s.ids, m)
		case <-s.ctx.Done():
			s.t.Fatalf("%d of %d commands have led to a message", len(s.ids), n)
		}
	}
	awaitEmpty(s.ctx, s.t, s.outbox)
	for len(s.arrivals) > 0 {
		note(s.ids, <-s.arrivals)
	}
}

// check checks that so many commands had one effect and one id each, and returns how many
// copies of their messages came.
func (s *scene) check(n int) (copies int) {
	s.t.Helper()
	for body, of := range s.ids {
		if len(of) != 1 {
			s.t.Errorf("%s came under the ids %v", body, of)
		}
		for _, times := range of {
			copies += times - 1
		}
	}
	var effects, different int
	if err := s.db.QueryRowContext(s.ctx, "select count(*), count(distinct id) from effects").Scan(&effects, &different); err != nil {
		s.t.Fatal(err)
	}
	if effects != n || different != n || len(s.ids) != n {
		s.t.Errorf("%d effects of %d commands, want %d; messages for %d", effects, different, n, len(s.ids))
	}
	return copies
}

func crash(t *testing.T, url, kind, step string) {
	s := newScene(t, url, kind, step)
	s.send(0, commands)
	kill(s.ctx, t, s.orders)
	died := time.Now()
	if err := s.setup.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.await(commands)
	took := time.Since(died)
	copies := s.check(commands)
	if step == "published" && copies == 0 {
		t.Error("no copy: the process has not died before its rows were deleted")
	}
	t.Logf("killed; all had come %v later, %d copies", took.Round(10*time.Millisecond), copies)
}

// freeze freezes a service for longer than its lease, when a batch was confirmed and its rows
// were not deleted. The survivor takes its lane and publishes the rows again. When the service
// goes on, it opens a lane of its own: nothing comes twice any more.
func freeze(t *testing.T, url, kind string) {
	s := newScene(t, url, kind, "published")
	s.orders.Freeze = true
	s.send(0, commands)
	victim := spawn(t, s.orders)
	s.eventually("it is frozen", func() bool { return stopped(t, victim) })
	if n := s.lanes(victim.Process.Pid); n < 1 {
		t.Fatalf("the frozen process has %d lanes", n)
	}
	if err := s.setup.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.eventually("its lanes are taken over", func() bool { return s.lanes(victim.Process.Pid) == 0 })
	awaitEmpty(s.ctx, t, s.outbox)
	if err := victim.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.eventually("both have a lane", func() bool { return s.lanes(victim.Process.Pid) == 1 && s.lanes(os.Getpid()) > 0 })
	s.await(commands)
	before := s.check(commands)
	if before == 0 {
		t.Error("no copy: the process was not frozen before its rows were deleted")
	}
	const more = 5 * commands
	s.send(commands, commands+more)
	s.await(commands + more)
	if after := s.check(commands + more); after != before {
		t.Errorf("%d copies after the process went on", after-before)
	}
	t.Logf("frozen; %d copies", before)
}

// lanes is how many lanes for its own messages a process has.
func (s *scene) lanes(pid int) (n int) {
	s.t.Helper()
	text := fmt.Sprintf("select count(*) from harebus_lane where lane > 0 and owner like '%%/%d/%%'", pid)
	if err := s.db.QueryRowContext(s.ctx, text).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *scene) eventually(what string, holds func() bool) {
	s.t.Helper()
	eventually(s.ctx, s.t, what, holds)
}

// stopped says whether a process is frozen.
func stopped(t *testing.T, c *exec.Cmd) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	if state[0] == 'Z' {
		t.Fatal("it has ended")
	}
	return state[0] == 'T'
}

func note(ids map[string]map[string]int, m amqp.Delivery) {
	body := string(m.Body)
	if ids[body] == nil {
		ids[body] = map[string]int{}
	}
	ids[body][m.MessageId]++
}

// awaitEmpty waits until nothing is stored any more.
func awaitEmpty(ctx context.Context, t *testing.T, ob *outbox.Outbox) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		stats, err := ob.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if stats.Waiting == 0 && stats.SetAside == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%+v", stats)
		}
	}
}

// kill runs a service in another process until it has killed itself.
func kill(ctx context.Context, t *testing.T, o *orders) {
	t.Helper()
	command := process(ctx, t, o)
	out, err := command.CombinedOutput()
	status, ok := command.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL || ctx.Err() != nil {
		t.Fatalf("it did not kill itself: %v\n%s", err, out)
	}
}

// spawn runs a service in another process until the test ends.
func spawn(t *testing.T, o *orders) *exec.Cmd {
	t.Helper()
	command := process(context.WithoutCancel(t.Context()), t, o)
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(command) })
	return command
}

// end kills a process, unless that has been done.
func end(c *exec.Cmd) {
	if c.ProcessState == nil {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()         // it was killed
	}
}

// process is another one of this program that is a service.
func process(ctx context.Context, t *testing.T, o *orders) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(ctx, os.Args[0])
	command.Env = append(os.Environ(), victimEnv+"="+string(text))
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// consume delivers what comes to a queue of its own.
func consume(t *testing.T, url, queue string) <-chan amqp.Delivery {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	const room = 10 * commands
	arrivals := make(chan amqp.Delivery, room)
	go func() {
		for d := range deliveries {
			arrivals <- d
		}
	}()
	return arrivals
}
