package outbox_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/outbox"
)

// TestCrash: a service is killed (SIGKILL) at each step, on each database, with RabbitMQ.
// Another instance goes on: every command has one effect, what was sent for it arrives, all
// copies have the same id, and nothing arrives for what has no effect.
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
		}
	})
}

const commands = 40

func crash(t *testing.T, url, kind, step string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	data := database.Need(t, kind)
	db := data.Open(t)
	if _, err := db.ExecContext(ctx, "create table effects (id integer not null)"); err != nil {
		t.Fatal(err)
	}
	name := "outbox." + strings.ReplaceAll(t.Name(), "/", ".")
	o := &orders{Driver: data.Driver, DSN: data.DSN, Dialect: data.Dialect, URL: url, Queue: name, Out: name + ".out", Step: step, After: 7}
	if step == "publishing" || step == "published" {
		o.After = 2 // batches
	}
	ob, err := outbox.New(outbox.Config{DB: db, Dialect: data.Dialect})
	if err != nil {
		t.Fatal(err)
	}
	if err := ob.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	arrivals := consume(t, url, o.Out)
	// The survivor declares the queue, and goes on when the other has died.
	survivor := &orders{Dialect: o.Dialect, URL: url, Queue: o.Queue, Out: o.Out}
	s, again, err := survivor.service(db)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Init(ctx); err != nil {
		t.Fatal(err)
	}
	for n := range commands {
		if err := s.Bus().Send(ctx, o.Queue, order{n}); err != nil {
			t.Fatal(err)
		}
	}
	kill(ctx, t, o)
	died := time.Now()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ids := map[string]map[string]int{}
	for len(ids) < commands {
		select {
		case m := <-arrivals:
			note(ids, m)
		case <-ctx.Done():
			t.Fatalf("%d of %d commands have led to a message", len(ids), commands)
		}
	}
	took := time.Since(died)
	awaitEmpty(ctx, t, again)
	copies := 0
	for len(arrivals) > 0 {
		note(ids, <-arrivals)
	}
	for body, of := range ids {
		if len(of) != 1 {
			t.Errorf("%s came under the ids %v", body, of)
		}
		for _, n := range of {
			copies += n - 1
		}
	}
	var effects, different int
	if err := db.QueryRowContext(ctx, "select count(*), count(distinct id) from effects").Scan(&effects, &different); err != nil {
		t.Fatal(err)
	}
	if effects != commands || different != commands || len(ids) != commands {
		t.Errorf("%d effects of %d commands, want %d; messages for %d", effects, different, commands, len(ids))
	}
	if step == "published" && copies == 0 {
		t.Error("no copy: the process has not died before its rows were deleted")
	}
	t.Logf("killed; the last message came %v later, %d copies", took.Round(10*time.Millisecond), copies)
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
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(ctx, os.Args[0])
	command.Env = append(os.Environ(), victimEnv+"="+string(text))
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := command.CombinedOutput()
	status, ok := command.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL || ctx.Err() != nil {
		t.Fatalf("it did not kill itself: %v\n%s", err, out)
	}
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
