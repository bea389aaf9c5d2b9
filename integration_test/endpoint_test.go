package integration_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestEndpointsOnABroker: a second queue of each kind in one setup handles, retries and parks with its own handlers,
// while its concurrency changes and it is paused, and after the broker has closed the connections: nothing is lost,
// and nothing comes twice but what was in hand then.
func TestEndpointsOnABroker(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]harebus.QueueOptions{
		"quorum": {}, "exclusive": {Exclusive: true}, "auto-delete": {AutoDelete: true}, "as found": {AsFound: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := vhosted(t)
			s := p.setup(p.config("first"))
			if options.AsFound {
				p.broker().declareQueue(p.queue("second"), nil)
			}
			second, err := s.Endpoint(harebus.EndpointConfig{
				Queue: p.queue("second"), QueueOptions: options, Subscriptions: []string{"second.#"},
				Retry:      harebus.RetryConfig{MaxRetries: 1, BackOff: pauses(50 * time.Millisecond)},
				ErrorQueue: harebus.ErrorQueueConfig{Name: p.queue("second.error")},
				Consume:    harebus.ConsumeConfig{Concurrency: 2, Arguments: map[string]any{"x-priority": 3}},
			})
			p.try(err)
			handled := &seen{times: map[string]int{}}
			s.HandleMessage("Answer", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
				handled.add(m.CorrelationID)
				return nil
			})
			second.HandleMessage("Job", func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				switch {
				case m.Queue != second.Queue():
					t.Errorf("a message of %q", m.Queue)
				case string(m.Body) == "poison":
					return errors.New("never")
				case m.Attempt == 1:
					return errors.New("not at the first time")
				}
				return bus.Reply(ctx, m.Body, harebus.WithType("Answer"))
			})
			p.start(s)
			post := func(i int) error {
				body, id := fmt.Appendf(nil, "%d", i), fmt.Sprint("m", i)
				return s.Bus().Publish(p.within(patience), "second.job", body, harebus.WithType("Job"), harebus.WithCorrelationID(id))
			}
			send := func(from, to int) {
				for i := from; i < to; i++ {
					p.try(post(i))
				}
			}
			send(0, 40)
			p.try(second.SetConcurrency(5, 20))
			send(40, 80)
			if !options.AutoDelete { // its queue would go
				p.try(second.Pause(p.within(patience)))
			}
			send(80, 100)
			p.try(second.Resume())
			p.try(second.SetConcurrency(1, 0))
			p.eventually(patience, handled.all(100))
			if extra := handled.again(); extra > 0 {
				t.Errorf("%d messages came twice before the cut", extra)
			}

			if !options.AutoDelete { // its queue would go, with its messages, some time after the cut
				p.ctl("close_all_connections", "--vhost", p.name, "a test")
				p.ready(s, patience)
			}
			p.eventually(patience, func() error { return post(100) }) // an exclusive queue is bound again soon
			p.try(second.SetConcurrency(4, 4))
			send(101, 150)
			p.eventually(patience, handled.all(150))
			p.try(s.Bus().Publish(p.within(patience), "second.job", []byte("poison"), harebus.WithType("Job")))
			p.broker().take(p.queue("second.error"), 1)
			p.eventually(patience, func() error { // it is counted when it is confirmed
				if stats := second.Stats(); stats.Parked != 1 || stats.Paused {
					return fmt.Errorf("%+v", stats)
				}
				return nil
			})
		})
	}
}

// seen counts messages by id.
type seen struct {
	mu    sync.Mutex
	times map[string]int
}

func (s *seen) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[id]++
}

// all says whether n messages were seen.
func (s *seen) all(n int) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.times) != n {
			return fmt.Errorf("%d messages of %d", len(s.times), n)
		}
		return nil
	}
}

// again is how many messages were seen more than once.
func (s *seen) again() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, times := range s.times {
		if times > 1 {
			n++
		}
	}
	return n
}
