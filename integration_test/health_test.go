package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// notReady waits until a service says that it is not, in these words.
func (p *place) notReady(s *harebus.Setup, most time.Duration, words ...string) {
	p.Helper()
	p.eventually(most, func() error {
		err := s.Ready()
		if err == nil {
			return errors.New("it says that it is ready")
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				return fmt.Errorf("it says %q, which does not mention %q", err, word)
			}
		}
		return nil
	})
}

// Somebody replaces the queue by one of another kind. The service consumes from what is there, and Ready says what is
// wrong until the queue is as it should be.
func TestReadyTellsOfAReplacedQueue(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	s, in := p.service(cfg)
	p.try(s.Ready())
	b := p.broker()
	// Somebody replaces the queue faster than the service does: it may take a few attempts.
	refused := func() bool { err := s.Ready(); return err != nil && strings.Contains(err.Error(), "406") }
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx := p.within(patience)
	for !refused() {
		b.deleteQueue(cfg.Queue)
		b.declareQueueQuietly(cfg.Queue, nil)
		for deadline := time.Now().Add(2 * time.Second); !refused() && time.Now().Before(deadline); {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("it says %v", s.Ready())
			}
		}
	}
	p.mentions(s.Ready(), cfg.Queue)
	p.try(s.Live()) // no reason to restart the process
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)
	b.deleteQueue(cfg.Queue)
	p.ready(s, soon)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{2}))
	in.await(p, 1)
}

func TestReadyNoticesALostConnection(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.config("a")
	cfg.URL = p.over(way)
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)
	p.try(s.Ready())
	way.cut()
	p.notReady(s, soon, "publish connection", "consume connection", "consumer 0")
	p.try(s.Live())
	p.try(way.allow())
	p.ready(s, soon)
}

// While an alarm is on, senders are told by their deadlines, the health check by the broker, and consumers notice
// nothing, unless they send themselves.
func TestAlarm(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	cfg := p.config("a")
	s := p.setup(cfg)
	in := newInbox()
	forward := p.queue("forward")
	p.broker().declareQueue(forward, nil)
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		in.add(m)
		if m.ID == "forwarded" {
			return bus.Send(ctx, forward, note{1})
		}
		return nil
	})
	p.start(s)
	ctx := p.within(4 * patience)
	sender := p.setup(p.config(""))
	for n := range 20 {
		p.try(s.Bus().Send(ctx, cfg.Queue, note{n}))
	}
	in.await(p, 20)
	p.try(sender.Bus().Send(ctx, cfg.Queue, note{20}))

	p.ctl("set_vm_memory_high_watermark", "0.00001")
	// The broker tells a connection that it is blocked when it next publishes.
	blocked := make(chan error, 1)
	go func() { blocked <- sender.Bus().Send(ctx, cfg.Queue, note{21}, harebus.WithMessageID("blocked")) }()
	p.notReady(sender, patience, "blocks publishers", "memory")
	p.try(sender.Live())

	for _, deadline := range []time.Duration{50 * time.Millisecond, 500 * time.Millisecond} {
		short, cancel := context.WithTimeout(ctx, deadline)
		started := time.Now()
		err := sender.Bus().Send(short, cfg.Queue, note{22})
		cancel()
		p.inTime(fmt.Sprintf("Send with a deadline of %v", deadline), started, deadline+time.Second)
		p.is(err, context.DeadlineExceeded)
		p.is(err, harebus.ErrNotSent)
		p.mentions(err, "blocks publishers", "memory")
	}
	select {
	case err := <-blocked:
		t.Fatal("a Send without a deadline ended during the alarm: ", err)
	default:
	}

	p.ctl("set_vm_memory_high_watermark", "0.6")
	p.try(<-blocked)
	p.ready(sender, soon)
	in.awaitID(p, "blocked")
	p.try(sender.Bus().Send(ctx, cfg.Queue, note{23}, harebus.WithMessageID("forwarded")))
	in.awaitID(p, "forwarded")
	p.broker().take(forward, 1)
	if n := sender.Stats().Connections; n != 1 {
		t.Errorf("the alarm cost the connection: %d were made", n)
	}
}

// Messages that lie in the queue when an alarm begins are consumed and acknowledged all the while.
func TestConsumersWorkDuringAnAlarm(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	cfg := p.config("a")
	p.try(p.setup(cfg).Init(p.within(4 * patience)))
	sender := p.setup(p.config(""))
	ctx := p.within(4 * patience)
	const messages = 200
	p.try(sender.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error { // one by one takes long
		for n := range messages {
			if err := tx.Send(ctx, cfg.Queue, note{n}); err != nil {
				return err
			}
		}
		return nil
	}))
	p.ctl("set_disk_free_limit", "900GB")
	stuck := make(chan error, 1)
	go func() { stuck <- sender.Bus().Send(ctx, cfg.Queue, note{messages}) }()
	p.notReady(sender, patience, "blocks publishers", "disk")

	s, in := p.service(cfg)
	in.awaitWithin(p, messages, patience)
	b := p.broker()
	p.eventually(patience, func() error {
		q, err := b.look(cfg.Queue)
		if err == nil && q.Messages > 0 {
			err = fmt.Errorf("%d messages left", q.Messages)
		}
		return err
	})
	p.try(s.Stop(ctx)) // which waits for the acknowledgements
	p.ctl("set_disk_free_limit", "50MB")
	p.try(<-stuck)
	if d := b.take(cfg.Queue, 1)[0]; d.Redelivered {
		t.Error("a message that was handled came again")
	}
}
