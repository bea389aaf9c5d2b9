package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// Other buses lose their consumer for good, and go on saying that they are healthy, when a connection ends again while its
// consumers are being restored, when it ends with many writers in a full socket, or let sends wait for ever after that.

// TestSecondCutDuringRecovery: the connection ends a second time while the first recovery restores the consumer, at any moment of
// it. After each time a message is sent and handled.
func TestSecondCutDuringRecovery(t *testing.T) {
	t.Parallel()
	const rounds = 100 // for each type of queue: 600 on three versions
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		way := p.road()
		p.try(way.allow())
		cfg := p.config("a")
		cfg.URL = p.over(way)
		cfg.QueueOptions.Type = queueType
		cfg.Connect.BackOff = pauses(time.Millisecond)
		s, in := p.service(cfg)
		recovery := 20 * time.Millisecond // how long one takes, about
		for round := range rounds {
			way.hiccup()
			time.Sleep(rand.N(2 * recovery))
			way.hiccup()
			began, id := time.Now(), fmt.Sprint("after-", round)
			p.try(s.Bus().Send(p.within(soon), cfg.Queue, note{round}, harebus.WithMessageID(id)))
			in.awaitIDWithin(p, id, soon)
			if took := time.Since(began); took < time.Second {
				recovery = (9*recovery + took) / 10
			}
			if round%50 == 49 {
				p.ready(s, soon)
			}
		}
		if n := s.Stats().Connections; n < rounds {
			t.Errorf("%d connections; want at least one for each of %d rounds", n, rounds)
		}
		t.Logf("a recovery took %v", recovery)
	})
}

// TestFullSocketEnds: a hundred writers fill a socket that nobody reads, and the connection ends. All of them return, what they have
// sent arrives, and the consumer is back.
func TestFullSocketEnds(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.config("a")
	cfg.URL = p.over(way)
	cfg.Connect.BackOff = pauses(10 * time.Millisecond)
	s, in := p.service(cfg)
	body := make([]byte, 128<<10)
	for round := range 5 {
		way.stall()
		var writers sync.WaitGroup
		for n := range 100 {
			writers.Go(func() {
				id := fmt.Sprintf("%d-%d", round, n)
				if err := s.Bus().Send(p.within(patience), cfg.Queue, body, harebus.WithType("Large"), harebus.WithMessageID(id)); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			})
		}
		time.Sleep(200 * time.Millisecond) // the socket is full: 12 MiB wait
		way.hiccup()
		writers.Wait()
		in.until(p, soon, "all messages of the round", func([]arrival) bool { return len(in.copies()) == 100*(round+1) })
		p.ready(s, soon)
	}
}

// TestStopWithSendsPending: a stop while a hundred sends wait for their confirms, on a connection that flows and on one that stands
// still. No send hangs, the setup says that it has stopped, and what was confirmed is in the queue.
func TestStopWithSendsPending(t *testing.T) {
	t.Parallel()
	for name, stalled := range map[string]bool{"flowing": false, "standing still": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := private(t, rabbit.Options{})
			way := p.road()
			p.try(way.allow())
			cfg := p.config("a")
			cfg.URL, cfg.ShutdownTimeout = p.over(way), 5*time.Second
			receiver, in := p.service(p.config("b"))
			s, err := harebus.New(cfg)
			p.try(err)
			s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
			p.start(s)
			confirmed := p.sending(s, p.queue("b"), func() {
				time.Sleep(200 * time.Millisecond)
				if stalled {
					way.stall()
					time.Sleep(200 * time.Millisecond)
				}
				stopping := time.Now()
				err := s.Stop(p.within(patience))
				t.Logf("stopped after %v: %v", time.Since(stopping), err)
				p.inTime("the stop", stopping, cfg.ShutdownTimeout+soon)
			})
			p.is(s.Ready(), harebus.ErrStopped)
			way.hiccup()
			in.until(p, soon, "what was confirmed", func([]arrival) bool { return len(missing(confirmed, in.copies())) == 0 })
			p.ready(receiver, soon)
		})
	}
}

// sending has a hundred goroutines send to a queue until the setup, which meanwhile stops once something was confirmed, is stopped. It returns what
// was confirmed.
func (p *place) sending(s *harebus.Setup, queue string, meanwhile func()) map[string]bool {
	p.Helper()
	var mu sync.Mutex
	confirmed := map[string]bool{}
	var senders sync.WaitGroup
	for n := range 100 {
		senders.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", n, i)
				switch err := s.Bus().Send(p.Context(), queue, note{i}, harebus.WithMessageID(id)); {
				case err == nil:
					mu.Lock()
					confirmed[id] = true
					mu.Unlock()
				case errors.Is(err, harebus.ErrStopped), errors.Is(err, harebus.ErrNotSent), errors.Is(err, harebus.ErrUnknownOutcome):
					return
				default:
					p.Errorf("%s: %v", id, err)
					return
				}
			}
		})
	}
	p.eventually(patience, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(confirmed) == 0 {
			return errors.New("nothing is confirmed")
		}
		return nil
	})
	meanwhile()
	ended := make(chan struct{})
	go func() {
		senders.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(soon):
		p.Fatal("sends hang after the stop")
	}
	return confirmed
}

// stalling reads from a reader while nobody holds the gate.
type stalling struct {
	io.Reader
	gate *sync.RWMutex
}

func (s stalling) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.gate.RLock()
	defer s.gate.RUnlock()
	return n, err
}
