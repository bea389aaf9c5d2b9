package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// lateness is how much later than asked for messages may come on a machine that runs many tests at once. What an idle
// broker does is measured elsewhere.
const lateness = 10 * time.Second

// Many delays at once, in any order: each message comes at its own time, never early.
func TestDelaysAreKept(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		s, in := p.service(cfg)
		ctx := p.within(2 * patience)
		p.try(p.setup(p.config("")).Init(ctx)) // declares all delay queues, so that nobody has to wait for one
		var mu sync.Mutex
		due := map[string]time.Time{}
		var wg sync.WaitGroup
		const messages = 120
		for n := range messages {
			wg.Go(func() {
				delay := time.Duration(rand.IntN(3000)) * time.Millisecond
				id := fmt.Sprint(n)
				asked := time.Now()
				if err := s.Bus().Defer(ctx, cfg.Queue, delay, note{n}, harebus.WithMessageID(id)); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				due[id] = asked.Add(delay)
			})
		}
		wg.Wait()
		var late []time.Duration
		for _, a := range in.await(p, messages) {
			l := a.at.Sub(due[a.ID])
			late = append(late, l)
			if l < 0 {
				t.Errorf("message %s came %v early", a.ID, -l)
			}
			if a.DeferredUntil.After(a.at) {
				t.Errorf("message %s is due at %v and came at %v", a.ID, a.DeferredUntil, a.at)
			}
			if a.Attempt != 1 {
				t.Errorf("message %s is attempt %d", a.ID, a.Attempt)
			}
		}
		slices.Sort(late)
		if worst := late[len(late)-1]; worst > lateness {
			t.Errorf("a message came %v late", worst)
		}
		t.Logf("late by %v in the middle and %v at worst", late[len(late)/2].Round(time.Millisecond), late[len(late)-1].Round(time.Millisecond))
		if n := s.Stats().Delivered; n != messages {
			t.Errorf("%d deliveries for %d messages", n, messages)
		}
		if n := len(in.copies()); n != messages {
			t.Errorf("%d different messages", n)
		}
	})
}

// A peer that reads the header sees a time that is past when the message comes, and everything else as in a Send.
func TestDeferredMessageLooksLikeAPeers(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	target := p.queue("target")
	b.declareQueue(target, nil)
	p.try(p.bus().Defer(p.within(patience), target, 2*time.Second, note{1}, harebus.WithHeader("custom", "x")))
	d := b.take(target, 1)[0]
	due, err := time.Parse(time.RFC3339Nano, d.Headers["PikaBus.DeferredTime"].(string))
	p.try(err)
	if time.Now().Before(due) {
		t.Errorf("it came %v before the time in its header", time.Until(due))
	}
	if d.Headers["CC"] != nil && strings.HasPrefix(p.node.Version(), "3.") { // 4.x leaves it there, and peers ignore it
		t.Error("it still carries its way")
	}
	if d.Headers["custom"] != "x" || d.DeliveryMode != amqp.Persistent || d.Expiration != "" {
		t.Errorf("%+v", d)
	}
}

// A delay that is over before the message leaves makes it a Send, which needs no binding at its destination.
func TestDeferOfNothing(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	target := p.queue("bare")
	b.declareQueue(target, nil)
	bus := p.bus()
	for n, delay := range []time.Duration{0, time.Nanosecond, time.Microsecond, time.Millisecond} {
		p.try(bus.Defer(p.within(patience), target, delay, note{n}))
		if d := b.take(target, 1)[0]; number(p, &harebus.Message{Body: d.Body}) != n {
			t.Errorf("got %s", d.Body)
		}
	}
}

func TestDeferToAnAbsentDestinationIsAnError(t *testing.T) {
	t.Parallel()
	p := shared(t)
	bus := p.bus()
	ctx := p.within(patience)
	for _, options := range [][]harebus.SendOption{nil, {harebus.NonMandatory()}} {
		err := bus.Defer(ctx, p.queue("nowhere"), time.Second, note{1}, options...)
		p.is(err, harebus.ErrUnroutable)
		p.mentions(err, p.queue("nowhere"))
	}
	// In a handler it fails the commit, so the message is retried and parked.
	cfg := p.config("a")
	cfg.Retry.MaxRetries = -1
	s := p.setup(cfg)
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
		return bus.Defer(ctx, p.queue("nowhere"), time.Second, note{1})
	})
	p.start(s)
	p.try(s.Bus().Send(ctx, cfg.Queue, note{1}))
	p.broker().take(cfg.ErrorQueue.Name, 1)
}

// A hundred messages that cannot get out do not hold up two hundred that can, neither those that are due at the same
// time nor those that follow. Once they can, they do.
func TestDelaysDoNotJam(t *testing.T) {
	t.Parallel()
	p := hosted(t, rabbit.Options{})
	// How soon a stuck message is tried again; the default is three minutes.
	_, err := p.node.Eval(p.within(patience), "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 2000).")
	p.try(err)
	p.try(p.setup(p.config("")).Init(p.within(4 * patience)))
	full := amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"}
	fullQuorum := amqp.Table{"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
	fill := func(b *broker, queue string) {
		for range 2 { // a quorum queue takes one more than it says, a classic one refuses that
			_ = b.do(func(ch *amqp.Channel) error {
				return ch.Publish("", queue, false, false, amqp.Publishing{MessageId: "the plug"})
			})
		}
	}
	obstacles := []struct {
		name        string
		args        amqp.Table
		block, free func(b *broker, queue string)
	}{
		{"absent", nil, (*broker).deleteQueue, func(b *broker, queue string) { b.declareQueue(queue, nil) }},
		{"full", full, fill, func(*broker, string) {}},
		{"full quorum", fullQuorum, fill, func(*broker, string) {}},
	}
	for _, o := range obstacles {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			p := on(t, p.node)
			b := p.broker()
			bad := p.queue("bad")
			b.declareQueue(bad, o.args)
			s, in := p.service(p.config("good"))
			ctx := p.within(4 * patience)
			const bads, goods, delay = 100, 200, 5 * time.Second // time to put the obstacle there
			deferAll := func(queue string, n int) {
				p.try(s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
					for i := range n {
						if err := tx.Defer(ctx, queue, delay, note{i}, harebus.WithMessageID(fmt.Sprint(queue, i))); err != nil {
							return err
						}
					}
					return nil
				}))
			}
			deferAll(bad, bads)
			o.block(b, bad)
			deferAll(p.queue("good"), goods)
			in.await(p, goods) // behind an obstacle they would wait as long as that is there
			// A second wave, now that the first one stands in its way.
			deferAll(p.queue("good"), 1)
			in.await(p, goods+1)
			if q, err := b.look(bad); err == nil && q.Messages > 2 {
				t.Fatalf("the obstacle is none: %d messages got past it", q.Messages)
			}

			o.free(b, bad)
			ids := map[string]bool{}
			for d := range b.consume(bad) {
				if d.MessageId != "the plug" {
					ids[d.MessageId] = true
				}
				if len(ids) == bads {
					break
				}
				if ctx.Err() != nil {
					t.Fatalf("%d of the %d that were stuck have come", len(ids), bads)
				}
			}
		})
	}
}

// What waits survives a crash of the broker, and comes neither early nor twice. What is due while the broker is down
// may take three minutes more: a delay queue that comes up before the next one tries again only then.
func TestDelaysSurviveACrash(t *testing.T) {
	t.Parallel()
	began := time.Now()
	// What is overdue after a restart is otherwise three minutes late: docs/delays.md.
	p := private(t, rabbit.Options{Advanced: "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}]."})
	cfg := p.config("a")
	s, in := p.service(cfg)
	startTook := time.Since(began)
	ctx := p.within(4 * patience)
	// A queue that the broker was killed right after declaring may keep messages: docs/delays.md. So they are all there.
	p.try(p.setup(p.config("")).Init(ctx))
	p.try(s.Bus().Defer(ctx, cfg.Queue, 300*time.Millisecond, note{0}))
	in.await(p, 1)
	p.try(p.node.Sync(ctx))
	due := map[string]time.Time{}
	// All at once, and due late enough: what is under way when the broker dies may come twice.
	p.try(s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for n := range 20 {
			id, delay := fmt.Sprint("early-", n), 3*time.Second+time.Duration(n)*100*time.Millisecond
			if n >= 10 {
				id, delay = fmt.Sprint("late-", n), min(3*startTook, 20*time.Second)+time.Duration(n)*100*time.Millisecond
			}
			due[id] = time.Now().Add(delay)
			if err := tx.Defer(ctx, cfg.Queue, delay, note{n}, harebus.WithMessageID(id)); err != nil {
				return err
			}
		}
		return nil
	}))
	p.try(p.node.Kill())
	p.try(p.node.Start(ctx))
	p.ready(s, patience)
	up := time.Now()
	waited := 0
	for id, at := range due {
		if at.After(up) {
			waited++
			in.awaitIDWithin(p, id, time.Until(at)+patience)
		}
	}
	if waited == 0 {
		t.Log("the broker took so long that nothing was due after its return")
	}
	p.eventually(patience, func() error {
		left := len(due) - (len(in.copies()) - 1)
		if kept := delayed(p); kept < left {
			return fmt.Errorf("%d messages have not come and only %d are in the delay queues", left, kept)
		}
		return nil
	})
	for _, a := range in.all() {
		if at, ok := due[a.ID]; ok && a.at.Before(at) {
			t.Errorf("message %s came %v early", a.ID, at.Sub(a.at))
		}
	}
	for id := range due {
		if n := in.copies()[id]; n > 1 {
			t.Errorf("message %s came %d times", id, n)
		}
	}
	t.Logf("%d of %d have come", len(in.copies())-1, len(due))
}

// delayed counts the messages in all delay queues, those included that a queue could not pass on yet.
func delayed(p *place) (messages int) {
	p.Helper()
	for _, row := range rows(p.ctl("list_queues", "name", "messages")) {
		var name string
		var n int
		if _, err := fmt.Sscan(row, &name, &n); err == nil && strings.HasPrefix(name, "harebus.delay.") {
			messages += n
		}
	}
	return messages
}

// Looking 25 times at messages that wait or are parked, by basic.get or with a consumer that ends,
// changes nothing. RabbitMQ 4 counts each look as a delivery and allows 20 by default.
func TestLooksChangeNothing(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	b := p.broker()
	plain := p.queue("plain")
	b.declareQueue(plain, nil)
	s := p.setup(p.config("a"))
	s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error {
		return harebus.NoRetry(errors.New("parked"))
	})
	p.start(s)
	ctx := p.within(4 * patience)
	const waiting, parked, looks = 20, 20, 25
	for n := range waiting {
		p.try(s.Bus().Defer(ctx, plain, 10*time.Minute, note{n}))
	}
	for n := range parked {
		p.try(s.Bus().Send(ctx, p.queue("a"), note{n}))
	}
	held := map[string]int{p.queue("error"): parked}
	p.eventually(patience, func() error { return b.holds(p.queue("error"), parked) })
	p.eventually(patience, func() error { return b.delayed(held, waiting) })
	for range looks {
		for queue, n := range held {
			b.get(queue, n)
			p.eventually(patience, func() error { return b.holds(queue, n) })
			b.consumeAndGo(queue, n)
			p.eventually(patience, func() error { return b.holds(queue, n) })
		}
	}
	if err := b.holds(plain, 0); err != nil {
		t.Errorf("deferred messages came early: %v", err)
	}
}

// delayed notes which delay queues hold messages, and fails unless these are n. On a busy machine a deferral takes more
// than the 300 ms by which ten minutes are rounded up, and then waits in other queues than the one of ten minutes.
func (b *broker) delayed(held map[string]int, n int) error {
	b.t.Helper()
	for _, queue := range (topology.Delays{}).Topology().Queues {
		q, err := b.look(queue.Name)
		if err != nil || q.Messages == 0 {
			continue // it is declared when it is needed
		}
		held[queue.Name] = q.Messages
		n -= q.Messages
	}
	if n != 0 {
		return fmt.Errorf("%d messages are missing in the delay queues, which hold %v", n, held)
	}
	return nil
}

// get looks at n messages, as the management page does, and gives them back by closing the channel.
func (b *broker) get(queue string, n int) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error {
		for range n {
			if _, ok, err := ch.Get(queue, false); err != nil || !ok {
				return fmt.Errorf("get from %q: there is a message: %v, %w", queue, ok, err)
			}
		}
		return nil
	})
}

// consumeAndGo takes n messages as a consumer and leaves without acknowledging them.
func (b *broker) consumeAndGo(queue string, n int) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error {
		deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		deadline := time.After(patience)
		for range n {
			select {
			case <-deliveries:
			case <-deadline:
				return fmt.Errorf("consume from %q: fewer than %d messages came", queue, n)
			}
		}
		return nil
	})
}

// holds fails unless a queue has exactly n ready messages.
func (b *broker) holds(queue string, n int) error {
	q, err := b.look(queue)
	if err == nil && q.Messages != n {
		err = fmt.Errorf("%q has %d messages, not %d", queue, q.Messages, n)
	}
	return err
}

// A small node is full before the delay queues are declared: RabbitMQ 3 counts three file descriptors for each quorum
// queue, and with too many of them lets nobody in any more. The deferral is refused, with the remedy, and the node goes on.
func TestNoRoomForDelayQueues(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	b := p.broker()
	ctx := p.within(4 * patience)
	const queues, descriptors = 40, 130
	for n := range queues {
		b.declareQueue(p.queue(fmt.Sprint("q", n)), amqp.Table{"x-queue-type": "quorum"})
	}
	bus := p.bus()
	to := p.queue("q0")
	p.try(bus.Send(ctx, to, note{0}))
	reserves := strings.HasPrefix(p.node.Version(), "3.") // later versions count none
	limit := func(n int) {
		if reserves {
			_, err := p.node.Eval(ctx, fmt.Sprintf("file_handle_cache:set_limit(%d).", n))
			p.try(err)
		}
	}
	limit(descriptors)
	err := bus.Defer(ctx, to, 100*time.Millisecond, note{1})
	if reserves {
		p.is(err, harebus.ErrNotSent)
		p.mentions(err, "file descriptors", "65536")
	} else {
		p.try(err)
	}
	p.broker() // it lets us in
	limit(20_000)
	p.eventually(patience, func() error { return bus.Defer(ctx, to, 100*time.Millisecond, note{2}) })
}

// Somebody removes the delay queues while a service runs: the next deferral declares them again. Where the way out of
// them is gone, messages gather in the queue for lost ones.
func TestVanishedDelayQueues(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	cfg := p.config("a")
	s, in := p.service(cfg)
	ctx := p.within(4 * patience) // a hundred queues are declared, more than once
	const delay = 40 * time.Millisecond
	p.try(s.Bus().Defer(ctx, cfg.Queue, delay, note{1}))
	in.await(p, 1)
	b := p.broker()
	for _, q := range (topology.Delays{}).Topology().Queues {
		if ttl := fmt.Sprint(q.Arguments["x-message-ttl"]); len(ttl) == 2 { // 10 to 99 ms
			b.deleteQueue(q.Name)
		}
	}
	p.try(s.Bus().Defer(ctx, cfg.Queue, delay, note{1}))
	in.await(p, 2)
	b.deleteExchange("harebus.delay.in")
	p.try(s.Bus().Defer(ctx, cfg.Queue, delay, note{1}))
	in.await(p, 3)
	b.deleteQueue("harebus.delay.due//" + cfg.Queue)
	p.try(s.Bus().Defer(ctx, cfg.Queue, delay, note{1}, harebus.WithMessageID("astray")))
	lost := b.consume("harebus.delay.lost")
	p.eventually(patience, func() error { // there, or at its destination when the way out has just been declared again
		select {
		case d := <-lost:
			if d.MessageId != "astray" {
				t.Errorf("message %q is lost", d.MessageId)
			}
			return nil
		default:
		}
		if in.copies()["astray"] == 0 {
			return errors.New("the message is nowhere")
		}
		return nil
	})
}

// A PikaBus service sends a deferred message at once and leaves the waiting to its receiver. Ours waits without
// turning the message round and round.
func TestPeersDeferredMessageWaits(t *testing.T) {
	t.Parallel()
	for _, generation := range generations {
		t.Run(string(generation), func(t *testing.T) {
			t.Parallel()
			bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
				p := shared(t)
				cfg := p.config("a")
				cfg.QueueOptions.Type = queueType
				s, in := p.service(cfg)
				peer := p.peer(generation, p.queue("peer"))
				due := time.Now().Add(5200 * time.Millisecond) // it has to be here before
				msg := peer.message("defer", nil)
				msg.Headers["PikaBus.DeferredTime"] = generation.time(due)
				due = generation.read(p, msg.Headers["PikaBus.DeferredTime"])
				peer.broker.publish("PikaBusDirect", cfg.Queue, msg)
				a := in.await(p, 1)[0]
				if a.at.Before(due) {
					t.Errorf("it was handled %v early", due.Sub(a.at))
				}
				if late := a.at.Sub(due); late > lateness {
					t.Errorf("it was handled %v late", late)
				}
				if a.ID != msg.MessageId || !a.DeferredUntil.Equal(due) || a.Attempt != 1 {
					t.Errorf("message %q, due %v, attempt %d", a.ID, a.DeferredUntil, a.Attempt)
				}
				if string(a.Body) != string(msg.Body) || a.Headers["PikaBus.TimeSent"] != msg.Headers["PikaBus.TimeSent"] {
					t.Errorf("it changed on its way: %+v", a.Message)
				}
				if stats := s.Stats(); stats.Postponed != 1 || stats.Delivered != 2 {
					t.Errorf("postponed %d times, delivered %d times; want 1 and 2", stats.Postponed, stats.Delivered)
				}
			})
		})
	}
}
