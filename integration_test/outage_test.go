package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// A sending is the history of one message on its sender's side.
type sending struct {
	queue        string
	began, ended time.Time
	err          error
}

// The broker dies by SIGKILL in the middle of ten thousand sends and comes back. Nobody restarts a service; whatever was
// confirmed is handled, and whatever is handled twice was under way when it died.
func TestBrokerKilledInTheMiddleOfTenThousandSends(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	services := map[topology.QueueType]*inbox{}
	setups := []*harebus.Setup{}
	queues := []string{}
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		cfg := p.config(string(queueType))
		cfg.QueueOptions.Type = queueType
		s, in := p.service(cfg)
		services[queueType] = in
		setups, queues = append(setups, s), append(queues, cfg.Queue)
	}
	sender := p.setup(p.config(""))
	setups = append(setups, sender)
	ctx := p.within(8 * patience)
	for _, queue := range queues { // so that the queues are older than half a second when the broker dies
		p.try(sender.Bus().Send(ctx, queue, note{0}))
	}
	p.try(p.node.Sync(ctx))

	const messages, goroutines = 10_000, 64
	var mu sync.Mutex
	history := map[string]*sending{}
	confirmed := 0
	middle := make(chan struct{})
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for n := range numbers {
				id := fmt.Sprint("m", n)
				one := &sending{queue: queues[n%2], began: time.Now()}
				mu.Lock()
				history[id] = one
				mu.Unlock()
				err := sender.Bus().Send(ctx, one.queue, note{n}, harebus.WithMessageID(id))
				mu.Lock()
				one.ended, one.err = time.Now(), err
				if confirmed++; confirmed == messages/3 {
					close(middle)
				}
				mu.Unlock()
			}
		})
	}
	go func() {
		defer close(numbers)
		for n := range messages {
			numbers <- n
		}
	}()

	<-middle
	killed := time.Now()
	p.try(p.node.Kill())
	dead := time.Now()
	p.eventually(soon, func() error {
		for _, s := range setups {
			if s.Ready() == nil {
				return fmt.Errorf("a service is ready without a broker")
			}
			if err := s.Live(); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	p.try(p.node.Start(ctx))
	back := time.Now()
	wg.Wait()
	for _, s := range setups {
		p.ready(s, patience)
	}
	for id, one := range history {
		if one.err != nil { // nothing had a deadline that passed: all of them waited for the broker
			t.Errorf("%s: %v", id, one.err)
		}
	}

	underWay, lost, extra := 0, 0, 0
	for queueType, in := range services {
		want := map[string]bool{}
		for id, one := range history {
			if one.queue == p.queue(string(queueType)) && one.err == nil {
				want[id] = true
			}
		}
		p.eventually(patience, func() error {
			if left := missing(want, in.copies()); len(left) > 0 {
				return fmt.Errorf("%s: %d of %d confirmed messages have not come, %s among them", queueType, len(left), len(want), left[0])
			}
			return nil
		})
		p.eventually(patience, func() error { // all acknowledged
			q, err := p.broker().look(p.queue(string(queueType)))
			if err == nil && q.Messages > 0 {
				err = fmt.Errorf("%d messages left", q.Messages)
			}
			return err
		})
		first := map[string]time.Time{}
		for _, a := range in.all() {
			if a.Type == "Note" && a.ID[0] != 'm' {
				continue // those from before
			}
			one := history[a.ID]
			switch at, again := first[a.ID]; {
			case one == nil:
				t.Errorf("%s: message %q arrived and nobody had sent it", queueType, a.ID)
			case !again:
				first[a.ID] = a.at
			case one.began.Before(dead) && one.ended.After(killed): // nobody knew whether the broker had it
				extra++
			case at.Before(back): // handled, and the acknowledgement died with the broker
				extra++
			default:
				t.Errorf("%s: message %s came twice without a reason: sent %v before the kill, first handled %v after the return",
					queueType, a.ID, killed.Sub(one.ended), at.Sub(back))
			}
		}
		lost += len(missing(want, in.copies()))
	}
	for _, one := range history {
		if one.began.Before(dead) && one.ended.After(killed) {
			underWay++
		}
	}
	if underWay == 0 {
		t.Error("nothing was under way when the broker died: this shows nothing")
	}
	var connections uint64
	for _, s := range setups {
		connections += s.Stats().Connections
	}
	t.Logf("%d sends, %d under way when the broker died, %d lost, %d handled twice, %d attempts repeated, back after %v, %d connections",
		messages, underWay, lost, extra, sender.Stats().Republished, back.Sub(killed).Round(time.Millisecond), connections)
}

// The same for a service that handles: what its handlers send is not lost either, and comes twice only with one id.
func TestBrokerKilledUnderHandlers(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	first := p.config("first")
	s := p.setup(first)
	final := p.config("final")
	_, in := p.service(final)
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		return bus.Send(ctx, final.Queue, note{number(p, m)}, harebus.WithHeader("parent", m.ID))
	})
	p.start(s)
	sender := p.setup(p.config(""))
	ctx := p.within(8 * patience)
	const messages = 1500
	var wg sync.WaitGroup
	numbers := make(chan int)
	for range 16 {
		wg.Go(func() {
			for n := range numbers {
				if err := sender.Bus().Send(ctx, first.Queue, note{n}, harebus.WithMessageID(fmt.Sprint("m", n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 300 {
		numbers <- n
	}
	in.awaitWithin(p, 100, 4*patience)
	p.try(p.node.Sync(ctx))
	go func() {
		defer close(numbers)
		for n := 300; n < messages; n++ {
			numbers <- n
		}
	}()
	in.awaitWithin(p, 600, 4*patience)
	p.try(p.node.Kill())
	p.try(p.node.Start(ctx))
	wg.Wait()
	ids := map[string]map[string]bool{} // of the children, by parent
	in.until(p, 2*patience, fmt.Sprintf("child of each of %d messages", messages), func(got []arrival) bool {
		for _, a := range got {
			parent, _ := a.Headers["parent"].(string)
			if ids[parent] == nil {
				ids[parent] = map[string]bool{}
			}
			ids[parent][a.ID] = true
		}
		return len(ids) >= messages
	})
	for parent, children := range ids {
		if len(children) != 1 {
			t.Errorf("the children of %s have %d different ids", parent, len(children))
		}
	}
	t.Logf("%d messages for %d", len(in.all()), messages)
}
