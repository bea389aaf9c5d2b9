package delay_test

import (
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// allowed is the lateness that docs/delays.md names for an idle broker.
func allowed(delay time.Duration) time.Duration { return 10*time.Millisecond + delay/1000 }

// 300 mixed delays, each order of magnitude alike, on a broker that does nothing else.
func TestAccuracy(t *testing.T) {
	const messages, shortest, longest = 300, 20 * time.Millisecond, 8 * time.Second
	l := newLab(t, rabbit.Shared(t))
	queue := l.destination(t, "orders", nil)
	r := l.receive(t, queue, messages)
	s := l.sender(t)
	tick := pace(t, 20*time.Millisecond)
	all := map[string]sent{}
	for i := range messages {
		tick()
		exponent := mathrand.Float64() * math.Log(float64(longest)/float64(shortest))
		m, err := s.send(t.Context(), queue, id(i), time.Duration(float64(shortest)*math.Exp(exponent)))
		if err != nil {
			t.Fatal(err)
		}
		all[id(i)] = m
	}
	r.wait(longest + 30*time.Second)
	late := r.check(t, all)
	beyond := 0
	for name, m := range all {
		if at := r.arrived[name]; at.Sub(m.due()) > allowed(m.delay) {
			beyond++
		}
	}
	t.Logf("%d mixed delays: %s; %d beyond 10 ms + 0.1 %%", messages, describe(late), beyond)
	if p50 := quantile(late, .5); p50 > 2*time.Second { // each stop waits for the disk
		t.Errorf("half of the messages are more than %v late", p50)
	}
}

// Thousands of messages in the queues at once must not make any of them early: that is when the broker lets messages
// go on behalf of each other.
func TestNeverEarlyUnderLoad(t *testing.T) {
	const messages, batch = 10_000, 10
	l := newLab(t, rabbit.Shared(t))
	queue := l.destination(t, "orders", nil)
	r := l.receive(t, queue, messages)
	s := l.sender(t)
	tick := pace(t, 5*time.Millisecond)
	all := map[string]sent{}
	for i := range messages {
		if i%batch == 0 {
			tick()
		}
		m, err := s.send(t.Context(), queue, id(i), time.Duration(1+mathrand.IntN(300))*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		all[id(i)] = m
	}
	r.wait(time.Minute)
	t.Logf("%d messages, 2,000 a second: %s", messages, describe(r.check(t, all)))
}

// 2,000 messages due at the same instant, sent over a second and sent at once.
func TestBurst(t *testing.T) {
	const messages = 2000
	for name, c := range map[string]struct {
		interval time.Duration // between 10 messages
		lead     time.Duration
	}{
		"sent over a second": {5 * time.Millisecond, 3 * time.Second},
		"sent at once":       {time.Microsecond, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, rabbit.Shared(t))
			queue := l.destination(t, "orders", nil)
			r := l.receive(t, queue, messages)
			s := l.sender(t)
			tick := pace(t, c.interval)
			all := map[string]sent{}
			due := time.Now().Add(c.lead)
			for i := range messages {
				if i%10 == 0 {
					tick()
				}
				m, err := s.send(t.Context(), queue, id(i), time.Until(due))
				if err != nil {
					t.Fatal(err)
				}
				all[id(i)] = m
			}
			r.wait(c.lead + 30*time.Second)
			late := r.check(t, all)
			t.Logf("%d due at once: first %v, last %v late", messages, quantile(late, 0).Round(time.Millisecond), quantile(late, 1).Round(time.Millisecond))
			if last := quantile(late, 1); last > 30*time.Second {
				t.Errorf("the last came %v late", last)
			}
		})
	}
}

// The rate at which deferred messages are taken in.
func TestRate(t *testing.T) {
	const channels, each, window = 4, 10_000, 1000
	l := newLab(t, rabbit.Shared(t))
	queue := l.destination(t, "orders", nil)
	start := time.Now()
	var publishers sync.WaitGroup
	errs := make(chan error, channels)
	for range channels {
		s := l.sender(t)
		publishers.Go(func() {
			for i := range each {
				if _, err := s.send(t.Context(), queue, id(i), time.Minute+time.Duration(mathrand.Int64N(int64(time.Hour)))); err != nil {
					errs <- err
					return
				}
				if len(s.pending) == window {
					// Half of the window stays under way.
					rest := s.pending[window/2:]
					s.pending = s.pending[:window/2]
					if err := s.confirmed(t.Context()); err != nil {
						errs <- err
						return
					}
					s.pending = append(s.pending, rest...)
				}
			}
			errs <- s.confirmed(t.Context())
		})
	}
	publishers.Wait()
	for range channels {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	rate := channels * each / time.Since(start).Seconds()
	t.Logf("%d messages with delays from 1 min to 1 h: %.1f thousand a second confirmed", channels*each, rate/1000)
	if rate < 500 {
		t.Errorf("only %.0f messages a second", rate)
	}
}

// A deferred message reaches its destination with the key it was sent to, and the labels of its route lead nowhere
// else on the last exchange. (RabbitMQ 3.10 takes the CC header off, 4.0 leaves it on without routing by it.)
func TestDeliveredMessage(t *testing.T) {
	l := newLab(t, rabbit.Shared(t))
	exchange := l.name + ".events"
	queue := l.name + ".all"
	l.declare(t, topology.Topology{
		Exchanges: []topology.Exchange{{Name: exchange, Kind: topology.Topic}},
		Queues:    []topology.Queue{{Name: queue}, {Name: queue + ".stray"}},
		Bindings: []topology.Binding{
			{Exchange: exchange, Key: "#", Queue: queue},
			{Exchange: exchange, Key: "in.#", Queue: queue + ".stray"},
			{Exchange: exchange, Key: "0.#", Queue: queue + ".stray"},
			{Exchange: exchange, Key: l.name + ".#", Queue: queue + ".stray"},
		},
	}, l.delays.Exit(exchange, "order.placed"))
	r := l.receive(t, queue, 3)
	ch := l.channel(t, l.publish)
	route, err := l.delays.Route(1234*time.Millisecond, exchange, "order.placed")
	if err != nil {
		t.Fatal(err)
	}
	cc := make([]any, len(route.CC))
	for i, label := range route.CC {
		cc[i] = label
	}
	for i := range 3 {
		err := ch.PublishWithContext(t.Context(), route.Exchange, route.Key, true, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, MessageId: id(i), Body: fmt.Appendf(nil, "body %d", i),
			Headers: amqp.Table{"CC": cc, "tenant": "a"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.wait(20 * time.Second)
	if r.count() != 3 {
		t.Fatalf("%d of 3 messages came", r.count())
	}
	for _, m := range r.messages {
		if m.Exchange != exchange || m.RoutingKey != "order.placed" || string(m.Body) != "body "+m.MessageId {
			t.Errorf("came from exchange %q with key %q and body %q", m.Exchange, m.RoutingKey, m.Body)
		}
		if m.Headers["tenant"] != "a" {
			t.Errorf("came with headers %v", m.Headers)
		}
	}
	stray, err := ch.QueueDeclarePassive(queue+".stray", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if stray.Messages > 0 {
		t.Errorf("%d messages were routed by the labels of their way", stray.Messages)
	}
}

// A retry is a received message deferred again by the same way: without the broker's marks it arrives every time.
func TestDeferredRepeatedly(t *testing.T) {
	const rounds = 5
	l := newLab(t, rabbit.Shared(t))
	queue := l.destination(t, "orders", nil)
	r := l.receive(t, queue, rounds)
	route, err := l.delays.Route(120*time.Millisecond, "", queue)
	if err != nil {
		t.Fatal(err)
	}
	ch := l.channel(t, l.publish)
	headers := amqp.Table{"tenant": "a"}
	for round := range rounds {
		headers["CC"] = []any{route.CC[0], route.CC[1]}
		err := ch.PublishWithContext(t.Context(), route.Exchange, route.Key, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: id(round), Headers: headers})
		if err != nil {
			t.Fatal(err)
		}
		m, err := r.message(round, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		headers = amqp.Table{}
		for name, value := range m.Headers {
			switch name {
			case "CC", "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-last-death-exchange", "x-last-death-queue", "x-last-death-reason":
			default:
				headers[name] = value
			}
		}
	}
}
