// Package sagatest runs a saga in a test: on a broker of its own inside the process, with a
// store in memory and in virtual time, in which a timeout of a day takes milliseconds.
//
//	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
//		s.Send(OrderPlaced{Order: "7"})
//		s.After(24 * time.Hour)
//		if n := len(s.Messages("warehouse")); n != 1 { … }
//	})
package sagatest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/saga"
)

// The queues that every test has: that of the service, that of messages that could not be
// handled, and one that gets every event.
const (
	Queue  = "saga"
	Parked = "error"
	Events = "events"
)

// Service is a service with sagas under test.
type Service struct {
	Broker *brokertest.Broker
	Setup  *harebus.Setup
	Store  *Store

	t     *testing.T
	sinks []string
}

// Run starts a service whose handlers register registers, calls test in a bubble of
// testing/synctest, and stops the service. The queues are those of other services: what
// comes there stays, for Messages, as in [Parked] and [Events]. A message that the service has
// sent and no queue takes fails the test.
func Run(t *testing.T, register func(setup *harebus.Setup, store saga.Store) error, test func(t *testing.T, s *Service), queues ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &Service{Broker: brokertest.New(), Store: NewStore(), t: t, sinks: append([]string{Parked, Events}, queues...)}
		defer s.Broker.Close()
		s.Setup = s.setup(harebus.Config{Queue: Queue, Handling: harebus.HandlingConfig{Transactor: s.Store}})
		defer s.stop()
		s.declare(harebus.Config{Queue: Events, Subscriptions: []string{"#"}})
		for _, queue := range queues {
			s.declare(harebus.Config{Queue: queue})
		}
		if err := register(s.Setup, s.Store); err != nil {
			t.Fatal(err)
		}
		if err := s.Setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, s)
	})
}

func (s *Service) stop() {
	s.close(s.Setup)
	if n, err := s.Store.unpublished(); n > 0 {
		s.t.Errorf("%d messages could not be published: %v; name the queues of other services in the call of Run", n, err)
	}
}

// declare declares the queue of another service.
func (s *Service) declare(cfg harebus.Config) {
	s.t.Helper()
	other := s.setup(cfg)
	if err := other.Init(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.close(other)
}

func (s *Service) setup(cfg harebus.Config) *harebus.Setup {
	s.t.Helper()
	cfg.URL, cfg.Dial = s.Broker.URL(), s.Broker.Dial
	setup, err := harebus.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return setup
}

func (s *Service) close(setup *harebus.Setup) {
	if err := setup.Close(); err != nil {
		s.t.Errorf("close: %v", err)
	}
}

// Send sends messages to the service and waits until they are handled, and everything that
// follows at once.
func (s *Service) Send(messages ...any) {
	s.t.Helper()
	for _, message := range messages {
		if err := s.Setup.Bus().Send(s.t.Context(), Queue, message); err != nil {
			s.t.Fatal(err)
		}
	}
	s.After(0)
}

// After lets time pass, and a second for the handling: timeouts and retries that have become
// due are handled when it returns.
func (s *Service) After(d time.Duration) {
	const handling = time.Second
	time.Sleep(d + handling) // of the bubble
	synctest.Wait()
}

// Finish waits until all messages are handled, also timeouts and retries, however long that takes.
func (s *Service) Finish() {
	s.t.Helper()
	if err := s.Broker.WaitQuiet(s.t.Context(), s.sinks...); err != nil {
		s.t.Fatal(err)
	}
}

// Messages are those in a queue of another service, or in [Parked] or [Events].
func (s *Service) Messages(queue string) []brokertest.Message { return s.Broker.Messages(queue) }

// State reads the state of an instance into what target points to. It returns false if there
// is none, or if it is completed.
func (s *Service) State(name, key string, target any) bool {
	s.t.Helper()
	ok, err := s.Store.State(name, key, target)
	if err != nil {
		s.t.Fatal(err)
	}
	return ok
}
