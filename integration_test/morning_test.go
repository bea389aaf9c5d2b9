package integration_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/pulse"
	"github.com/harebus/harebus/topology"
)

// TestThreeInTheMorning runs each scenario of docs/operations.md: what is seen, the command, and what it does.
func TestThreeInTheMorning(t *testing.T) {
	t.Parallel()
	o := newOperator(private(t, rabbit.Options{}), 0)
	o.queueGrows()
	o.messagesFail()
	o.onPage()
	o.queueDiffers()
	o.versionsOverlap()
	o.passwordChanges()
	o.diskIsFull()
	o.nodeIsDown()
}

// served starts a service that answers and takes orders.
func (o *operator) served(cfg harebus.Config, prepare func(*harebus.Setup)) *harebus.Setup {
	o.Helper()
	cfg.Connect.BackOff, cfg.Retry.BackOff = pauses(50*time.Millisecond), pauses(50*time.Millisecond)
	if cfg.URL == "" && len(cfg.Connect.URLs) == 0 {
		cfg.URL = o.url
	}
	p, err := pulse.New(pulse.Config{Control: true})
	o.try(err)
	p.Use(&cfg)
	s := o.setup(cfg)
	prepare(s)
	o.start(s)
	ctx, cancel := context.WithCancel(o.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Serve(ctx, s) }() // ends with the test
	o.Cleanup(func() { cancel(); <-ended })
	return s
}

// prints fails unless the command prints all words in the end, whatever its exit code.
func (o *operator) prints(args []string, words ...string) (output string) {
	o.Helper()
	o.eventually(patience, func() error {
		output, _ = o.harebus(args...)
		for _, word := range words {
			if !strings.Contains(output, word) {
				return fmt.Errorf("harebus %v does not print %q: %s", args, word, output)
			}
		}
		return nil
	})
	return output
}

func (o *operator) send(queue string, n int) {
	o.Helper()
	bus := o.setup(harebus.Config{URL: o.url}).Bus()
	for i := range n {
		o.try(bus.Send(o.within(patience), queue, note{i}))
	}
}

// cells are what a table has in the row of a queue, by the heading of the column.
func cells(table, queue string) map[string]string {
	apart := regexp.MustCompile(` {2,}`)
	var names []string
	for line := range strings.Lines(table) {
		row := apart.Split(strings.TrimSpace(line), -1)
		switch {
		case slices.Contains(row, "QUEUE"):
			names = row
		case len(names) > 0 && len(row) >= len(names)-1 && row[slices.Index(names, "QUEUE")] == queue: // the last cell may be empty
			found := map[string]string{}
			for i, text := range row[:min(len(row), len(names))] {
				found[names[i]] = text
			}
			return found
		}
	}
	return nil
}

// shows fails unless a table of the command has this in the row of a queue, in the end.
func (o *operator) shows(queue string, want map[string]string, args ...string) {
	o.Helper()
	o.eventually(patience, func() error {
		output, code := o.harebus(args...)
		got := cells(output, queue)
		for name, text := range want {
			if code != 0 || got == nil || got[name] != text {
				return fmt.Errorf("harebus %v: %s is %q, want %q: %d, %s", args, name, got[name], text, code, output)
			}
		}
		return nil
	})
}

// group is the first group that the command errors prints.
func (o *operator) group(output string) string {
	o.Helper()
	found := regexp.MustCompile(`(?m)^GROUP .*\n([0-9a-f]{8}) `).FindStringSubmatch(output)
	if found == nil {
		o.Fatalf("no group: %s", output)
	}
	return found[1]
}

// queueGrows: somebody has paused a service and gone to bed. Another one is too slow.
func (o *operator) queueGrows() {
	in := newInbox()
	o.served(harebus.Config{Queue: "orders"}, func(s *harebus.Setup) { s.HandleMessage(harebus.AnyType, in.take) })
	o.prints([]string{"status", "orders"}, "consumes")
	o.ends(0, []string{"control", "pause", "orders"}, "paused")
	o.send("orders", 20)
	o.shows("orders", map[string]string{"INST": "1, 1 paused", "READY": "20", "IN HAND": "0"}, "top", "-every", "300ms", "orders")
	o.shows("orders", map[string]string{"STATE": "paused"}, "status", "orders")
	o.ends(0, []string{"control", "resume", "orders"}, "consumes")
	in.await(o.place, 20)
	o.ends(0, []string{"control", "rate", "orders", "5"}, "5/s")

	hang, slow := make(chan struct{}), newInbox()
	var hangs atomic.Bool
	o.served(harebus.Config{Queue: "slow", Consume: harebus.ConsumeConfig{Concurrency: 2, Prefetch: 2}}, func(s *harebus.Setup) {
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if hangs.Load() {
				<-hang
			}
			return slow.take(ctx, bus, m)
		})
	})
	o.send("slow", 1)
	slow.await(o.place, 1) // the first messages of a connection come one at a time
	hangs.Store(true)
	o.send("slow", 9)
	o.shows("slow", map[string]string{"READY": "7", "IN HAND": "2", "FAILED/s": "0.0"}, "top", "-every", "300ms", "slow")
	o.shows("slow", map[string]string{"STATE": "consumes", "LIMIT": "2", "IN HAND": "2", "HANDLED": "1"}, "status", "slow")
	o.ends(0, []string{"control", "concurrency", "slow", "9"}, "limit 9")
	o.shows("slow", map[string]string{"LIMIT": "9", "IN HAND": "9"}, "status", "slow")
	close(hang)
	slow.await(o.place, 10)
}

// messagesFail: what a service calls is away; the messages are handled again when it is back.
func (o *operator) messagesFail() {
	var back atomic.Bool
	in := newInbox()
	o.served(harebus.Config{Queue: "payments", Retry: harebus.RetryConfig{MaxRetries: 1}}, func(s *harebus.Setup) {
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if !back.Load() {
				return errors.New("dial tcp 10.0.0.7:5432: connect: connection refused")
			}
			return in.take(ctx, bus, m)
		})
	})
	o.send("payments", 5)
	group := o.group(o.prints([]string{"errors"}, "5 failed messages in error", "payments", "connect: connection refused"))
	back.Store(true)
	o.ends(1, []string{"errors", "retry", "-yes", "4", group}, "5 messages match, and -yes says 4; nothing was done")
	o.ends(0, []string{"errors", "retry", "-yes", "5", group}, "done 5, left 0")
	in.await(o.place, 5)
	o.ends(0, []string{"errors"}, "0 failed messages")
}

// queueDiffers: the new version of a service wants a quorum queue, and there is a classic one.
func (o *operator) queueDiffers() {
	_, in := o.place.service(harebus.Config{URL: o.url, Queue: "stock", QueueOptions: harebus.QueueOptions{Type: topology.Classic}})
	next := harebus.Config{URL: o.url, Queue: "stock"}
	s := o.setup(next)
	s.HandleMessage(harebus.AnyType, in.take)
	o.mentions(s.Start(o.within(patience)), "PRECONDITION_FAILED", "stock")
	o.write(next)
	o.ends(3, []string{"topology", "plan", o.file}, "type classic → quorum", "migrate stock")
	o.ends(0, []string{"topology", "migrate", "-only-these", "-drain", "1s", "-settle", "300ms", o.file, "stock"}, "replaced queue")
	o.ends(0, []string{"topology", "plan", o.file}, "0 differences")
	s = o.setup(next)
	s.HandleMessage(harebus.AnyType, in.take)
	o.start(s)
	o.send("stock", 3)
	in.await(o.place, 3)
}

// charge and chargeV2 are two versions of a message.
type (
	charge   struct{ Euros float64 }
	chargeV2 struct{ Cents int }
)

func (charge) MessageType() string   { return "Charge" }
func (chargeV2) MessageType() string { return "ChargeV2" }

// versionsOverlap: while a deployment goes on, messages of the new version come to the old one, and those of the old
// version to the new one.
func (o *operator) versionsOverlap() {
	cents := make(chan int, 10)
	cfg := harebus.Config{Queue: "bills", Retry: harebus.RetryConfig{MaxRetries: 1}, Payload: harebus.PayloadConfig{Build: "1.8.1"}}
	old := o.served(cfg, func(s *harebus.Setup) {
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, m charge) error { cents <- int(m.Euros * 100); return nil })
	})
	bus := o.setup(harebus.Config{URL: o.url}).Bus()
	ctx := o.within(patience)
	o.try(bus.Send(ctx, "bills", chargeV2{Cents: 7})) // too early: only the old version is there
	o.prints([]string{"errors"}, "1 failed messages", "no handler for messages of type")
	o.ends(0, []string{"errors", "list", "-kind", "unknown-type"}, "ChargeV2", "bills")
	cfg.Payload.Build = "1.8.2"
	o.served(cfg, func(s *harebus.Setup) {
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, m chargeV2) error { cents <- m.Cents; return nil })
		harebus.Upcast(s, func(_ context.Context, m charge) (chargeV2, error) { return chargeV2{Cents: int(m.Euros * 100)}, nil })
	})
	o.shows("bills", map[string]string{"INST": "2"}, "top", "-every", "300ms", "bills")
	if versions := cells(o.prints([]string{"top", "-every", "300ms", "bills"}, "1.8.1", "1.8.2"), "bills")["VERSION"]; len(versions) != len("1.8.1, 1.8.2") {
		o.Errorf("the versions are %q", versions)
	}
	o.prints([]string{"status", "-types", "bills"}, "Charge ", "ChargeV2") // both versions are at work
	o.try(bus.Send(ctx, "bills", charge{Euros: 1}))
	if n := <-cents; n != 100 {
		o.Errorf("the old message became %d", n)
	}
	o.try(old.Stop(ctx)) // the deployment is done
	o.try(bus.Send(ctx, "bills", charge{Euros: 2}))
	if n := <-cents; n != 200 {
		o.Errorf("the old message became %d", n)
	}
	o.ends(0, []string{"errors", "retry", "-source", "bills", "-yes", "1"})
	if n := <-cents; n != 7 {
		o.Errorf("the message that came too early became %d", n)
	}
	o.try(bus.Defer(ctx, "bills", time.Hour, charge{Euros: 3})) // as long as one of the old type waits, Upcast has to stay
	o.prints([]string{"deferred", "list", "-type", "Charge"}, "Charge", "bills", "deferred")
	o.ends(0, []string{"errors", "-type", "Charge"}, "0 failed messages")
}

// passwordChanges: a service that was given the password once is out at its next connection, one that asks for it is not.
func (o *operator) passwordChanges() {
	var password atomic.Pointer[string]
	is := func(text string) { password.Store(&text) }
	is("first")
	o.ctl("add_user", "shop", "first")
	o.ctl("set_permissions", "shop", ".*", ".*", ".*")
	core, logs := observer.New(zap.InfoLevel)
	fixed, _ := o.place.service(harebus.Config{
		URL: o.withUser("shop", "first"), Queue: "fixed", Connect: harebus.ConnectConfig{BackOff: pauses(50 * time.Millisecond)}, Logger: zap.New(core),
	})
	asking, in := o.place.service(harebus.Config{URL: o.url, Queue: "asking", Connect: harebus.ConnectConfig{
		BackOff: pauses(50 * time.Millisecond), Credentials: func(context.Context) (string, string, error) { return "shop", *password.Load(), nil },
	}})
	o.ctl("change_password", "shop", "second")
	is("second")
	o.ctl("close_all_connections", "rotation") // connections that exist stay otherwise
	o.notReady(fixed, patience, "username or password")
	if !slices.ContainsFunc(logs.All(), func(e observer.LoggedEntry) bool {
		return strings.Contains(fmt.Sprint(e.Message, e.ContextMap()), "username or password")
	}) {
		o.Errorf("the log does not say why: %v", logs.All())
	}
	o.ready(asking, patience)
	o.send("asking", 1)
	in.await(o.place, 1)
	o.write(harebus.Config{Queue: "fixed"})
	for user, code := range map[string]int{"first": 1, "second": 3} { // 3: it finds that nobody consumes from the queue
		service := *o
		service.place = &place{T: o.T, node: o.node, url: o.withUser("shop", user), name: o.name}
		if output, got := service.harebus("doctor", "-timeout", "10s", o.file); got != code || (code == 1) != strings.Contains(output, "username or password") {
			o.Errorf("the doctor with the %s password: %d: %s", user, got, output)
		}
	}
	o.ctl("change_password", "shop", "first")
	o.ready(fixed, patience) // it has tried again and again
}

// diskIsFull: the broker takes no messages; services go on with what they have.
func (o *operator) diskIsFull() {
	sender, _ := o.place.service(harebus.Config{URL: o.url, Queue: "waiting"})
	begin, in := make(chan struct{}), newInbox()
	o.served(harebus.Config{Queue: "going", Consume: harebus.ConsumeConfig{Concurrency: 1, Prefetch: 1}}, func(s *harebus.Setup) {
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			<-begin
			return in.take(ctx, bus, m)
		})
	})
	o.send("going", 5) // all but one are still with the broker
	o.write(harebus.Config{Queue: "waiting"})
	o.ctl("set_disk_free_limit", "900GB")
	sent := make(chan error, 1)
	ctx := o.within(4 * patience)
	go func() { sent <- sender.Bus().Send(ctx, "waiting", note{}) }()
	o.notReady(sender, patience, "blocks publishers", "disk")
	close(begin)
	in.await(o.place, 5)
	for range 2 { // the first question of a connection is answered all the same
		o.ends(1, []string{"status", "going"}, "the broker takes no messages now: low on disk")
	}
	fix := fixOf(o.prints([]string{"doctor", o.file}, "takes no messages: low on disk"), "takes no messages: low on disk")
	_, command, ok := strings.Cut(fix, "rabbitmqctl ")
	if !ok {
		o.Fatalf("the fix is %q", fix)
	}
	o.ctl(words(command)...)
	o.ready(sender, patience)
	o.try(<-sent)
}

// nodeIsDown: what was confirmed is there afterwards, a Send that waits is carried out, and services go on by themselves. A
// migration that is under way is done by the same command, and loses nothing.
func (o *operator) nodeIsDown() {
	in := newInbox()
	s := o.served(harebus.Config{Queue: "safe"}, func(s *harebus.Setup) { s.HandleMessage(harebus.AnyType, in.take) })
	ctx := o.within(6 * patience)
	o.prints([]string{"status", "safe"}, "consumes")
	o.ends(0, []string{"control", "pause", "safe"}, "paused")
	o.send("safe", 10)
	sent := make(chan error, 1)
	o.migration("moving").interrupted(func() {
		o.try(o.node.Sync(ctx)) // a quorum queue that was made a moment ago may come up without a leader
		o.try(o.node.Kill())
		o.notReady(s, patience, "connection refused")
		o.ends(1, []string{"status", "-timeout", "2s", "safe"}, "connection refused")
		go func() { sent <- s.Bus().Send(ctx, "safe", note{10}) }()
	}, func() {
		o.try(o.node.Start(ctx))
		o.try(<-sent)
		o.ready(s, 2*patience)
	})
	o.prints([]string{"status", "safe"}, "paused") // the order still holds
	o.ends(0, []string{"control", "resume", "safe"}, "consumes")
	in.await(o.place, 11)
	if n := o.dropped("safe"); n > 0 {
		o.Errorf("%d messages are left", n)
	}
}

// dropped is what lies in a queue that should be empty by now.
func (o *operator) dropped(queue string) (n int) {
	o.Helper()
	o.broker().must(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n
}
