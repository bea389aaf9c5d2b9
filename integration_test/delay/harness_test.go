// Package delay_test runs the delay queues of package topology on a real RabbitMQ: that they lose nothing, are never
// early and cannot be jammed, and how late they are. The figures are printed with -v; what is asserted about time is
// generous, because the machine is shared.
package delay_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

func TestMain(m *testing.M) { os.Exit(rabbit.Main(m)) }

// lab is a set of delay queues of its own on a broker, a connection to publish on and one to receive on.
type lab struct {
	node    *rabbit.Node
	delays  topology.Delays
	name    string
	publish *amqp.Connection
	consume *amqp.Connection
}

// newLab declares the delay queues and removes them, with what its tests declared, in the end.
func newLab(t *testing.T, node *rabbit.Node) *lab {
	t.Helper()
	name := "delaytest." + rand.Text()[:8]
	l := &lab{node: node, delays: topology.Delays{Prefix: name}, name: name}
	l.connect(t)
	l.declare(t, l.delays.Topology())
	return l
}

func (l *lab) connect(t *testing.T) {
	t.Helper()
	for _, c := range []**amqp.Connection{&l.publish, &l.consume} {
		connection, err := amqp.Dial(l.node.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = connection.Close() }) // closed already where a test killed its broker
		*c = connection
	}
}

func (l *lab) channel(t *testing.T, connection *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := connection.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func (l *lab) declare(t *testing.T, parts ...topology.Topology) {
	t.Helper()
	all := topology.Join(parts...)
	if err := all.Validate(); err != nil {
		t.Fatal(err)
	}
	ch := l.channel(t, l.publish)
	if err := all.Declare(ch); err != nil {
		t.Fatal(err)
	}
	if err := ch.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.remove(t, all) })
}

// remove deletes the objects over a connection of its own: a test may have broken the others.
func (l *lab) remove(t *testing.T, all topology.Topology) {
	connection, err := amqp.Dial(l.node.URL())
	if err != nil {
		t.Errorf("clean up: %v", err)
		return
	}
	defer connection.Close()
	ch := l.channel(t, connection)
	for _, q := range all.Queues {
		if _, err := ch.QueueDelete(q.Name, false, false, false); err != nil {
			t.Errorf("clean up: %v", err)
			return
		}
	}
	for _, e := range all.Exchanges {
		if err := ch.ExchangeDelete(e.Name, false, false); err != nil {
			t.Errorf("clean up: %v", err)
			return
		}
	}
}

// destination declares a queue with its exit and returns its name.
func (l *lab) destination(t *testing.T, suffix string, arguments map[string]any) string {
	t.Helper()
	name := l.name + "." + suffix
	l.declare(t, topology.Topology{Queues: []topology.Queue{{Name: name, Arguments: arguments}}}, l.delays.Exit("", name))
	return name
}

// sent is what the test knows of a message.
type sent struct {
	call  time.Time
	delay time.Duration
}

func (s sent) due() time.Time { return s.call.Add(s.delay) }

// sender publishes deferred messages on one channel and waits for their confirms.
type sender struct {
	lab     *lab
	ch      *amqp.Channel
	pending []*amqp.DeferredConfirmation
}

func (l *lab) sender(t *testing.T) *sender {
	t.Helper()
	ch := l.channel(t, l.publish)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return &sender{lab: l, ch: ch}
}

// send defers a message to queue; its id is what the receiver finds it by.
func (s *sender) send(ctx context.Context, queue, id string, delay time.Duration) (sent, error) {
	now := time.Now()
	route, err := s.lab.delays.Route(delay, "", queue)
	if err != nil {
		return sent{}, err
	}
	msg := amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: id, Headers: amqp.Table{"tenant": "a"}, Body: make([]byte, 256)}
	if len(route.CC) > 0 {
		cc := make([]any, len(route.CC))
		for i, label := range route.CC {
			cc[i] = label
		}
		msg.Headers["CC"] = cc
	}
	confirmation, err := s.ch.PublishWithDeferredConfirmWithContext(ctx, route.Exchange, route.Key, true, false, msg)
	if err != nil {
		return sent{}, err
	}
	s.pending = append(s.pending, confirmation)
	return sent{now, delay}, nil
}

// confirmed waits until the broker has everything sent so far.
func (s *sender) confirmed(ctx context.Context) error {
	for _, c := range s.pending {
		if ok, err := c.WaitContext(ctx); err != nil || !ok {
			return fmt.Errorf("message %d not confirmed: %w", c.DeliveryTag, err)
		}
	}
	s.pending = s.pending[:0]
	return nil
}

// receiver records when each message came for the first time.
type receiver struct {
	mu       sync.Mutex // guards what follows
	arrived  map[string]time.Time
	messages []amqp.Delivery
	wanted   int
	next     chan amqp.Delivery // every message in the order of arrival
	all      chan struct{}
}

// receive consumes queue until the connection ends.
func (l *lab) receive(t *testing.T, queue string, wanted int) *receiver {
	t.Helper()
	r := &receiver{arrived: map[string]time.Time{}, wanted: wanted, next: make(chan amqp.Delivery, wanted), all: make(chan struct{})}
	r.consume(t, l, queue)
	return r
}

func (r *receiver) consume(t *testing.T, l *lab, queue string) {
	t.Helper()
	ch := l.channel(t, l.consume)
	if err := ch.Qos(1000, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for d := range deliveries {
			r.record(d, time.Now())
			if err := d.Ack(false); err != nil {
				return // the broker is gone and will deliver it again
			}
		}
	}()
	t.Cleanup(func() {
		_ = ch.Close() // ends the loop; dead already where a test killed its broker
		<-ended
	})
}

func (r *receiver) record(d amqp.Delivery, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, again := r.arrived[d.MessageId]; again {
		return
	}
	r.arrived[d.MessageId] = now
	r.messages = append(r.messages, d)
	if len(r.arrived) <= r.wanted {
		r.next <- d
	}
	if len(r.arrived) == r.wanted {
		close(r.all)
	}
}

// wait returns when all messages are there, or when none has come for that long: a slow broker is no fault.
func (r *receiver) wait(silence time.Duration) {
	tick := time.NewTicker(silence)
	defer tick.Stop()
	for before := -1; before != r.count(); {
		before = r.count()
		select {
		case <-r.all:
			return
		case <-tick.C:
		}
	}
}

// message returns the n-th message that came.
func (r *receiver) message(n int, atMost time.Duration) (amqp.Delivery, error) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case d := <-r.next:
		return d, nil
	case <-timer.C:
		return amqp.Delivery{}, fmt.Errorf("message %d did not come within %v", n, atMost)
	}
}

// count is the number of different messages so far.
func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.arrived)
}

// check fails the test for every message that is missing or early, and returns how late the others are, in order.
func (r *receiver) check(t *testing.T, messages map[string]sent) []time.Duration {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var late []time.Duration
	missing := 0
	for id, m := range messages {
		at, ok := r.arrived[id]
		switch {
		case !ok:
			missing++
		case at.Before(m.due()):
			t.Errorf("message %s, deferred by %v, came %v early", id, m.delay, m.due().Sub(at))
		default:
			late = append(late, at.Sub(m.due()))
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d messages did not come", missing, len(messages))
	}
	slices.Sort(late)
	return late
}

// waitFor returns when n messages are there or after atMost.
func (r *receiver) waitFor(n int, atMost time.Duration) {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for r.count() < n {
		select {
		case <-poll.C:
		case <-deadline.C:
			return
		}
	}
}

// quantile of sorted values.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

func describe(late []time.Duration) string {
	round := func(q float64) time.Duration { return quantile(late, q).Round(10 * time.Microsecond) }
	return fmt.Sprintf("late by min %v, p50 %v, p90 %v, p99 %v, max %v", round(0), round(.5), round(.9), round(.99), round(1))
}

// pace returns a function that keeps its caller at most to one call each interval, behind schedule included.
func pace(t *testing.T, interval time.Duration) func() {
	t.Helper()
	ticker := time.NewTicker(interval)
	t.Cleanup(ticker.Stop)
	return func() { <-ticker.C }
}

func id(i int) string { return strconv.Itoa(i) }
