package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// A service begins with one message at a time, in case the first one kills it. One that only takes long must not keep
// the others waiting.
func TestFirstMessageMayTakeLong(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		s := p.setup(cfg)
		in := newInbox()
		release := make(chan struct{})
		s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.ID == "slow" {
				<-release
			}
			in.add(m)
			return nil
		})
		p.start(s)
		t.Cleanup(sync.OnceFunc(func() { close(release) }))
		p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{0}, harebus.WithMessageID("slow")))
		for n := range 5 {
			p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{n}))
		}
		in.await(p, 5)
	})
}

// No more handlers run at once than Concurrency says, also across a reconnect that leaves some of them running.
func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.config("a")
	cfg.URL = p.over(way)
	cfg.Consume.Concurrency, cfg.Consume.Prefetch = 4, 16
	s := p.setup(cfg)
	in := newInbox()
	var mu sync.Mutex
	running, most := 0, 0
	begun, release := make(chan struct{}, 100), make(chan struct{})
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		begun <- struct{}{}
		<-release
		mu.Lock()
		running--
		mu.Unlock()
		in.add(m)
		return nil
	})
	p.start(s)
	sender := p.bus()
	const messages = 40
	for n := range messages {
		p.try(sender.Send(p.within(patience), cfg.Queue, note{n}, harebus.WithMessageID(fmt.Sprint(n))))
	}
	<-begun
	release <- struct{}{}
	for range 4 {
		<-begun
	}
	way.cut()
	p.notReady(s, soon, "consumer 0")
	p.try(way.allow())
	p.ready(s, soon)
	close(release)
	in.until(p, patience, "40 different messages", func([]arrival) bool { return len(in.copies()) == messages })
	mu.Lock()
	defer mu.Unlock()
	if most != 4 {
		t.Errorf("%d handlers ran at once; want 4", most)
	}
}

// Handlers are chosen by the type on the wire, and what no handler is for goes to the fallbacks.
func TestHandlersAreChosenByType(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	var mu sync.Mutex
	var steps []string
	step := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, fmt.Sprintf(format, args...))
	}
	cfg.Handling.Middleware = []harebus.Middleware{
		func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				step("outer %s", m.Type)
				return next(ctx, bus, m)
			}
		},
		func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				step("inner %s", m.Type)
				return next(ctx, bus, m)
			}
		},
	}
	cfg.Publish.Middleware = []harebus.SendMiddleware{func(next harebus.SendFunc) harebus.SendFunc {
		return func(ctx context.Context, m *harebus.Outgoing) error {
			m.Headers["tenant"] = "north"
			return next(ctx, m)
		}
	}}
	s := p.setup(cfg)
	done := make(chan struct{}, 10)
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, n note) error {
		step("note %d of %v", n.N, harebus.Incoming(ctx).Headers["tenant"])
		done <- struct{}{}
		return nil
	})
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, text string) error {
		step("text %s", text)
		done <- struct{}{}
		return nil
	}, harebus.WithType("Text"))
	s.HandleMessage(harebus.NoType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		step("no type, %s from %q with %v", m.Body, m.Exchange, m.CustomHeaders())
		done <- struct{}{}
		return nil
	})
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		step("any %s", m.Type)
		done <- struct{}{}
		return nil
	})
	p.start(s)
	ctx, bus := p.within(patience), s.Bus()
	p.try(bus.Send(ctx, cfg.Queue, note{7}))
	<-done
	p.try(bus.Send(ctx, cfg.Queue, "hello", harebus.WithType("Text"), harebus.WithContentType("text/plain")))
	<-done
	p.try(bus.Send(ctx, cfg.Queue, "hello", harebus.WithType("Text"))) // as JSON
	<-done
	p.broker().publish("", cfg.Queue, amqp.Publishing{Body: []byte("\x00\x01"), Headers: amqp.Table{"a": int32(1), "x-death": "no"}})
	<-done
	p.try(bus.Send(ctx, cfg.Queue, note{7}, harebus.WithType("Unknown")))
	<-done
	mu.Lock()
	defer mu.Unlock()
	want := []string{
		"outer Note", "inner Note", "note 7 of north",
		"outer Text", "inner Text", "text hello",
		"outer Text", "inner Text", "text hello",
		"outer ", "inner ", "no type, \x00\x01 from \"\" with map[a:1]",
		"outer Unknown", "inner Unknown", "any Unknown",
	}
	if !slices.Equal(steps, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(steps, "\n"), strings.Join(want, "\n"))
	}
}

// Handlers that cannot work are known before the first message is.
func TestFaultsOfHandlersAreReportedByStart(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	s := p.setup(cfg)
	p.mentions(s.Start(p.within(time.Second)), "no handler")
	s.HandleMessage("Twice", newInbox().take)
	s.HandleMessage("Twice", newInbox().take)
	harebus.Handle(s, func(context.Context, *harebus.Bus, struct{}) error { return errors.ErrUnsupported })
	p.mentions(s.Start(p.within(time.Second)), `"Twice"`, "there is one already", "no wire name")
}
