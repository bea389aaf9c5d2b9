package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// A stream sends notes to a queue without a pause, and keeps books.
type stream struct {
	mu        sync.Mutex // guards what follows
	next      int
	confirmed map[string]bool
	unknown   map[string]error

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// stream starts one with several goroutines. Each message has a deadline of its own.
func (p *place) stream(bus *harebus.Bus, queue string, goroutines int) *stream {
	ctx, cancel := context.WithCancel(p.Context())
	s := &stream{confirmed: map[string]bool{}, unknown: map[string]error{}, stop: cancel}
	p.Cleanup(s.end)
	for range goroutines {
		s.wg.Go(func() {
			for ctx.Err() == nil {
				s.one(p.Context(), bus, queue)
			}
		})
	}
	return s
}

func (s *stream) one(ctx context.Context, bus *harebus.Bus, queue string) {
	s.mu.Lock()
	s.next++
	n := s.next
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id := fmt.Sprintf("%s-%d", queue, n)
	err := bus.Send(ctx, queue, note{n}, harebus.WithMessageID(id))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unknown[id] = err
		return
	}
	s.confirmed[id] = true
}

func (s *stream) end() {
	s.stop()
	s.wg.Wait()
}

func (s *stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.confirmed)
}

// progress waits until n more messages are confirmed.
func (s *stream) progress(p *place, n int, most time.Duration) {
	p.Helper()
	from := s.count()
	p.eventually(most, func() error {
		if now := s.count(); now < from+n {
			return fmt.Errorf("%d messages confirmed; want %d", now-from, n)
		}
		return nil
	})
}

// settle ends the stream and waits until the inbox has everything that was confirmed.
func (s *stream) settle(p *place, in *inbox) {
	p.Helper()
	s.end()
	if len(s.unknown) > 0 {
		for id, err := range s.unknown {
			p.Errorf("%s: %v", id, err)
		}
	}
	in.until(p, patience, fmt.Sprintf("%d different messages", len(s.confirmed)), func([]arrival) bool {
		return len(missing(s.confirmed, in.copies())) == 0
	})
	for id := range in.copies() {
		if !s.confirmed[id] && s.unknown[id] == nil {
			p.Errorf("message %q arrived and nobody had sent it", id)
		}
	}
}

func missing(want map[string]bool, got map[string]int) []string {
	var ids []string
	for id := range want {
		if got[id] == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// The broker throws all connections off, again and again, while messages flow both ways.
func TestConnectionsClosedByTheBroker(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := vhosted(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		s, in := p.service(cfg)
		messages := p.stream(s.Bus(), cfg.Queue, 8)
		for range 2 {
			messages.progress(p, 50, patience)
			p.ctl("close_all_connections", "--vhost", p.name, "--per-connection-delay", "0", "a test")
			messages.progress(p, 50, soon)
			p.ready(s, soon)
		}
		messages.settle(p, in)
		if n := s.Stats().Connections; n < 6 {
			t.Errorf("%d connections; want 6, two for each time", n)
		}
	})
}

// The network resets everything, again and again.
func TestConnectionsCut(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		way := p.road()
		p.try(way.allow())
		cfg := p.config("a")
		cfg.URL = p.over(way)
		cfg.QueueOptions.Type = queueType
		s, in := p.service(cfg)
		messages := p.stream(s.Bus(), cfg.Queue, 8)
		for range 5 {
			messages.progress(p, 50, patience)
			way.hiccup()
			messages.progress(p, 50, soon)
		}
		way.cut() // and for longer
		p.eventually(soon, func() error {
			if s.Ready() == nil {
				return errors.New("ready without a connection")
			}
			return nil
		})
		p.try(way.allow())
		messages.progress(p, 50, soon)
		p.ready(s, soon)
		messages.settle(p, in)
	})
}

// Somebody deletes the queue under the consumer; the broker cancels it, and it is back.
func TestQueueDeletedUnderTheConsumer(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		cfg.Consume.Consumers = 2
		s, in := p.service(cfg)
		b := p.broker()
		sender := p.bus()
		consumers := func(least int) func() error {
			return func() error {
				q, err := b.look(cfg.Queue)
				if err == nil && q.Consumers < least {
					err = fmt.Errorf("%d consumers", q.Consumers)
				}
				return err
			}
		}
		for round := range 3 {
			p.try(sender.Send(p.within(patience), cfg.Queue, note{round}))
			in.await(p, round+1)
			p.eventually(soon, consumers(2)) // the first message of the connection has been seen to be harmless
			deleted := time.Now()
			b.deleteQueue(cfg.Queue)
			// RabbitMQ may drop the connection over it; on a new one a single consumer comes first.
			p.eventually(soon, consumers(1))
			p.inTime("the return of the consumers", deleted, soon)
			p.ready(s, soon)
		}
	})
}

// The broker closes the channel of a consumer that holds a message for too long. The message comes again, the others
// are handled, and the late acknowledgement hits nothing.
func TestConsumerTimeout(t *testing.T) {
	t.Parallel()
	p := hosted(t, rabbit.Options{})
	_, err := p.node.Eval(p.within(patience),
		"application:set_env(rabbit, consumer_timeout, 5000), application:set_env(rabbit, channel_tick_interval, 500).")
	p.try(err)
	types := []topology.QueueType{topology.Quorum, topology.Classic}
	if strings.HasPrefix(p.node.Version(), "4.3.") { // which has no consumer timeout for classic queues
		types = types[:1]
	}
	eachType(t, types, func(t *testing.T, queueType topology.QueueType) {
		p := on(t, p.node)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		s := p.setup(cfg)
		in := newInbox()
		held, release := make(chan struct{}, 10), make(chan struct{})
		var first sync.Once
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.ID == "slow" {
				hold := false
				first.Do(func() { hold = true })
				if hold {
					held <- struct{}{}
					<-release
					return nil // its acknowledgement comes too late
				}
			}
			in.add(m)
			return nil
		})
		p.start(s)
		ctx := p.within(4 * patience)
		p.try(s.Bus().Send(ctx, cfg.Queue, note{0}, harebus.WithMessageID("before")))
		in.awaitID(p, "before")
		p.try(s.Bus().Send(ctx, cfg.Queue, note{1}, harebus.WithMessageID("slow")))
		<-held
		again := in.awaitID(p, "slow")
		if !again.Redelivered {
			t.Error("the second delivery is not marked as one")
		}
		if again.Attempt != 1 {
			t.Errorf("a redelivery counted as attempt %d", again.Attempt)
		}
		close(release)
		for n := range 20 {
			p.try(s.Bus().Send(ctx, cfg.Queue, note{n}, harebus.WithMessageID(fmt.Sprint("after-", n))))
		}
		in.await(p, 22)
		p.ready(s, soon)
		for id, copies := range in.copies() {
			if copies != 1 {
				t.Errorf("message %q was handled %d times", id, copies)
			}
		}
	})
}

// An exchange that a caller names vanishes after it has been seen: the publish that meets the gap closes the channel
// all share, and nobody but its sender notices.
func TestChannelClosedByAPublish(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	s, in := p.service(cfg)
	b := p.broker()
	other := p.name + ".other"
	b.declareExchange(other, "fanout")
	b.bind(cfg.Queue, "", other)
	ctx := p.within(patience)
	p.try(s.Bus().Send(ctx, "x", note{0}, harebus.WithExchange(other)))
	in.await(p, 1)
	messages := p.stream(s.Bus(), cfg.Queue, 8)
	for range 3 {
		messages.progress(p, 50, patience)
		b.deleteExchange(other)
		err := s.Bus().Send(ctx, "x", note{0}, harebus.WithExchange(other))
		p.mentions(err, other)
		var failed *harebus.PublishError
		if !errors.As(err, &failed) || failed.Outcome == harebus.Confirmed {
			t.Errorf("got %#v", err)
		}
		messages.progress(p, 50, soon)
		b.declareExchange(other, "fanout")
		b.bind(cfg.Queue, "", other)
		p.eventually(soon, func() error { return s.Bus().Send(ctx, "x", note{0}, harebus.WithExchange(other)) })
	}
	messages.end()
	if len(messages.unknown) > 0 {
		t.Errorf("others were harmed: %v", messages.unknown)
	}
	in.until(p, patience, "all messages", func([]arrival) bool { return len(missing(messages.confirmed, in.copies())) == 0 })
}

// A broker that freezes is noticed by its silence; what was under way goes on when it thaws.
func TestBrokerFrozen(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	cfg := p.config("a")
	cfg.Connect.Heartbeat = time.Second
	cfg.Connect.Timeout = 2 * time.Second
	s, in := p.service(cfg)
	messages := p.stream(s.Bus(), cfg.Queue, 8)
	messages.progress(p, 50, patience)
	p.try(p.node.Pause())
	thawed := false
	t.Cleanup(func() {
		if !thawed {
			_ = p.node.Resume()
		}
	})
	short, cancel := context.WithTimeout(p.Context(), 500*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := s.Bus().Send(short, cfg.Queue, note{0}, harebus.WithMessageID("in the ice"))
	p.inTime("Send with a deadline of 0.5 s", started, 1500*time.Millisecond)
	if !errors.Is(err, harebus.ErrUnknownOutcome) && !errors.Is(err, harebus.ErrNotSent) {
		t.Errorf("got %v", err)
	}
	p.eventually(patience, func() error {
		if s.Ready() == nil {
			return errors.New("ready with a broker that is frozen")
		}
		return nil
	})
	p.try(p.node.Resume())
	thawed = true
	p.ready(s, soon)
	messages.progress(p, 50, soon)
	messages.end()
	for id, err := range messages.unknown {
		t.Errorf("%s: %v", id, err)
	}
	in.until(p, patience, "all messages", func([]arrival) bool { return len(missing(messages.confirmed, in.copies())) == 0 })
}

// A broker that closes the channel with an exception of the consumer's own is met with a new channel; the connection
// stays. Deleting a quorum queue while publishing to it closes the whole connection instead.
func TestQuorumQueueDeletedWhilePublishing(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	s, in := p.service(cfg)
	b := p.broker()
	b.declareQueue(p.queue("victim"), amqp.Table{"x-queue-type": "quorum"})
	messages := p.stream(s.Bus(), cfg.Queue, 4)
	doomed := p.stream(p.bus(), p.queue("victim"), 4)
	doomed.progress(p, 50, patience)
	b.deleteQueue(p.queue("victim"))
	messages.progress(p, 50, soon)
	doomed.end()
	for id, err := range doomed.unknown {
		if !errors.Is(err, harebus.ErrUnroutable) && !errors.Is(err, harebus.ErrNacked) && !errors.Is(err, harebus.ErrUnknownOutcome) {
			t.Errorf("%s: %v", id, err)
		}
	}
	messages.settle(p, in)
}

// The rate of attempts to connect is bounded: a broker that refuses is not stormed.
func TestRefusingBrokerIsNotStormed(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	user := p.name
	p.ctl("add_user", user, "secret")
	p.ctl("set_permissions", "-p", p.name, user, ".*", ".*", ".*")
	cfg := p.config("a")
	cfg.URL = p.withUser(user, "secret")
	attempts := &counter{of: harebus.OpConnect}
	cfg.Observers = []harebus.Observer{attempts}
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)

	p.ctl("delete_user", user)
	before, since := attempts.Load(), time.Now()
	p.ctl("close_all_connections", "--vhost", p.name, "a test")
	p.eventually(patience, func() error {
		if n := attempts.Load() - before; n < 8 {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	// Two connections, each with pauses of 50 ms and more, and a refusal that the broker takes its time for.
	if took := time.Since(since); took < time.Second {
		t.Errorf("%d attempts in %v", attempts.Load()-before, took)
	}
	p.ctl("add_user", user, "secret")
	p.ctl("set_permissions", "-p", p.name, user, ".*", ".*", ".*")
	p.ready(s, patience)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{2}))
	in.await(p, 2)
	p.ctl("delete_user", user)
}
