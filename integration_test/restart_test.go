package integration_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// memo is the message of the tests of restarts.
type memo struct{ ID int }

func (memo) MessageType() string { return "Memo" }

// TestRestartsKeepTheOrder: a service with one worker is stopped and started again many times; what it has prefetched
// stays in the order of the queue.
func TestRestartsKeepTheOrder(t *testing.T) {
	t.Parallel()
	p := shared(t)
	const messages = 300
	cfg := p.config("memos")
	cfg.Consume = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 5}
	var mu sync.Mutex
	var got []int
	s := p.setup(cfg)
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, n memo) error {
		<-time.After(5 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, n.ID)
		return nil
	})
	p.fill(s, cfg.Queue, messages)
	for i := range 12 {
		p.try(s.Start(p.within(patience)))
		<-time.After(time.Duration(i*10) * time.Millisecond)
		p.try(s.Stop(p.within(patience)))
	}
	p.try(s.Start(p.within(patience)))
	p.eventually(2*patience, func() error {
		mu.Lock()
		defer mu.Unlock()
		return atLeast(len(got), messages)
	})
	mu.Lock()
	defer mu.Unlock()
	if len(got) != messages || !slices.IsSorted(got) {
		t.Errorf("handled %v", got)
	}
}

// TestRestartsUseUpNothing: messages that are given back at more stops than the delivery limit allows are all handled
// in the end.
func TestRestartsUseUpNothing(t *testing.T) {
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			const messages, restarts = 30, 25
			cfg := p.config("memos")
			cfg.Consume = harebus.ConsumeConfig{Concurrency: concurrency, Prefetch: 8}
			cfg.ErrorQueue.Name = p.name + ".error"
			var mu sync.Mutex
			restarting, begun, seen := true, make(chan struct{}, 1000), map[int]int{}
			s := p.setup(cfg)
			harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, n memo) error {
				mu.Lock()
				slow := restarting
				mu.Unlock()
				if slow {
					begun <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				seen[n.ID]++
				return nil
			})
			p.fill(s, cfg.Queue, messages)
			for range restarts {
				p.try(s.Start(p.within(patience)))
				select {
				case <-begun:
				case <-time.After(patience):
					t.Fatal("nothing is handled")
				}
				hurry, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				p.try(s.Stop(hurry))
				cancel()
			}
			mu.Lock()
			restarting = false
			mu.Unlock()
			p.try(s.Start(p.within(patience)))
			p.eventually(patience, func() error {
				mu.Lock()
				defer mu.Unlock()
				return atLeast(len(seen), messages)
			})
			if parked := s.Stats().Parked; parked != 0 {
				t.Errorf("%d were parked", parked)
			}
		})
	}
}

// TestSingleActiveConsumer: while one instance has a message in its handler, no other handles any, also when the first
// one is being stopped.
func TestSingleActiveConsumer(t *testing.T) {
	t.Parallel()
	p := shared(t)
	const messages = 40
	cfg := p.config("memos")
	cfg.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true}
	cfg.Consume = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 8}
	var mu sync.Mutex
	var got []int
	busy := map[string]int{}
	instance := func(name string) *harebus.Setup {
		s := p.setup(cfg)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, n memo) error {
			mu.Lock()
			busy[name]++
			for other, count := range busy {
				if other != name && count > 0 {
					t.Errorf("%s handles %d while %s is busy", name, n.ID, other)
				}
			}
			mu.Unlock()
			<-time.After(200 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			busy[name]--
			got = append(got, n.ID)
			return nil
		})
		p.try(s.Start(p.within(patience)))
		return s
	}
	a := instance("a")
	b := instance("b")
	p.fill(b, cfg.Queue, messages)
	handled := func(n int) func() error {
		return func() error {
			mu.Lock()
			defer mu.Unlock()
			return atLeast(len(got), n)
		}
	}
	p.eventually(patience, handled(30)) // longer than a trial
	p.try(a.Stop(p.within(patience)))
	p.eventually(patience, handled(messages))
	mu.Lock()
	defer mu.Unlock()
	if len(got) != messages || !slices.IsSorted(got) {
		t.Errorf("handled %v", got)
	}
}

func atLeast(n, want int) error {
	if n < want {
		return fmt.Errorf("%d of %d are handled", n, want)
	}
	return nil
}

// fill puts numbered messages into the listener queue of s, which it declares.
func (p *place) fill(s *harebus.Setup, queue string, n int) {
	p.Helper()
	if s.Ready() != nil {
		p.try(s.Init(p.within(patience)))
	}
	sender := p.setup(p.config(""))
	tx := sender.Bus().Begin()
	for i := range n {
		p.try(tx.Send(p.within(patience), queue, memo{i + 1}))
	}
	p.try(tx.Commit(p.within(patience)))
}

// Pauses under load lose nothing and repeat nothing, also with acks on their way.
func TestPausesUnderLoad(t *testing.T) {
	t.Parallel()
	for name, consume := range map[string]harebus.ConsumeConfig{
		"ordered": {Concurrency: 1, Prefetch: 50}, "many": {Concurrency: 8, Prefetch: 100, Consumers: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			cfg := p.config("a")
			cfg.Consume, cfg.Connect.Name = consume, p.name+" pausing"
			s := p.setup(cfg)
			in := newInbox()
			var paused atomic.Bool
			s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				if paused.Load() {
					t.Error("a handler began during a pause")
				}
				return in.take(ctx, bus, m)
			})
			p.start(s)
			const messages = 600
			p.fill(s, cfg.Queue, messages)
			for i := range 8 {
				in.until(p, patience, "some messages", func(got []arrival) bool { return len(got) > i*messages/16 })
				p.try(s.Pause(p.within(patience)))
				paused.Store(true)
				p.ready(s, patience)
				paused.Store(false)
				p.try(s.Resume())
			}
			in.until(p, patience, "all messages", func(got []arrival) bool { return len(got) >= messages })
			if n, different := len(in.all()), len(in.copies()); n != messages || different != messages {
				t.Errorf("%d messages arrived %d times", different, n)
			}
			if p.node.Kind() == rabbit.KindNode { // others have no rabbitmqctl; TestReplacedChannelsEnd counts in process
				p.eventually(patience, func() error {
					if n := p.channels(cfg.Connect.Name + " consume"); n < 1 || n > max(consume.Consumers, 1)+1 {
						return fmt.Errorf("%d channels are open", n)
					}
					return nil
				})
			}
			if n := s.Stats().Connections; n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// channels is the number of channels on the connection with a name.
func (p *place) channels(name string) int {
	p.Helper()
	for line := range strings.Lines(p.ctl("list_connections", "channels", "client_properties")) {
		if !strings.Contains(line, `"`+name+`"`) {
			continue
		}
		n, err := strconv.Atoi(strings.Fields(line)[0])
		p.try(err)
		return n
	}
	return 0
}
