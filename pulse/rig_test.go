package pulse_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/pulse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type place struct{ ID int }

func (place) MessageType() string { return "Place" }

// rig is a broker with somebody who asks.
type rig struct {
	*testing.T

	broker *brokertest.Broker
	client *pulse.Client
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New(brokertest.WithUser("ann", "pw"))
		t.Cleanup(b.Close)
		r := &rig{t, b, nil}
		r.client = r.open("ann:pw")
		t.Cleanup(r.client.Close)
		test(r)
	})
}

func (r *rig) open(login string) *pulse.Client {
	r.Helper()
	c, err := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: []string{"amqp://" + login + "@brokertest:5672/"}}, Dial: r.broker.Dial, From: "ann@ops1"})
	r.try(err)
	return c
}

func (r *rig) try(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// service is an instance of a service.
type service struct {
	*rig

	setup  *harebus.Setup
	pulse  *pulse.Pulse
	log    *observer.ObservedLogs
	served chan error
	stop   func()
}

// serve starts an instance that listens to a queue, and ends it with the test. change, if not nil, may change the config.
func (r *rig) serve(c pulse.Config, queue string, handle func(context.Context, place) error, change func(*harebus.Config)) *service {
	r.Helper()
	p, err := pulse.New(c)
	r.try(err)
	core, log := observer.New(zapcore.InfoLevel)
	cfg := harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: queue, Logger: zap.New(core), Consume: harebus.ConsumeConfig{Concurrency: 2}}
	if change != nil {
		change(&cfg)
	}
	p.Use(&cfg)
	s := &service{rig: r, pulse: p, log: log, served: make(chan error, 1)}
	s.setup, err = harebus.New(cfg)
	r.try(err)
	harebus.Handle(s.setup, func(ctx context.Context, _ *harebus.Bus, m place) error {
		if handle == nil {
			return nil
		}
		return handle(ctx, m)
	})
	return s
}

// begin starts the instance, and returns when it can be asked.
func (s *service) begin() *service {
	s.Helper()
	s.try(s.setup.Start(s.Context()))
	ctx, cancel := context.WithCancel(s.Context())
	go func() { s.served <- s.pulse.Serve(ctx, s.setup) }()
	s.stop = cancel
	s.Cleanup(s.end)
	synctest.Wait()
	return s
}

// end stops the instance.
func (s *service) end() {
	if s.stop != nil {
		s.stop()
		if err := <-s.served; err != nil {
			s.Errorf("serve: %v", err)
		}
		s.stop = nil
		s.try(s.setup.Close())
	}
}

// send sends messages to a queue.
func (s *service) send(queue string, n int) {
	s.Helper()
	for i := range n {
		s.try(s.setup.Bus().Send(s.Context(), queue, place{i}))
	}
}

// ask asks, and fails unless so many answer.
func (r *rig) ask(to pulse.Target, want int) *pulse.Round {
	r.Helper()
	round, err := r.client.Ask(r.Context(), to)
	r.try(err)
	if len(round.Answers) != want {
		r.Fatalf("%d answers, want %d: %+v", len(round.Answers), want, round)
	}
	return round
}

// order gives an order, and fails unless one instance answers with a refusal that is as wanted.
func (r *rig) order(o pulse.Order, refused string) pulse.Queue {
	r.Helper()
	round, err := r.client.Control(r.Context(), pulse.Target{Queue: o.Queue}, o)
	r.try(err)
	if len(round.Answers) != 1 || !contains(round.Answers[0].Refused, refused) {
		r.Fatalf("%+v: %+v", o, round)
	}
	return round.Answers[0].Queues[0]
}

// channel opens a channel that owes nothing to the library.
func (r *rig) channel() *amqp.Channel {
	r.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	r.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	r.try(err)
	return ch
}

// until waits until something is so.
func (r *rig) until(what string, so func() bool) {
	r.Helper()
	for range 1000 {
		if so() {
			return
		}
		time.Sleep(100 * time.Millisecond) // virtual
	}
	r.Fatalf("never: %s", what)
}
