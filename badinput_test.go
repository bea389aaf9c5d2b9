package harebus_test

import (
	"reflect"
	"strings"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/badinput"
)

var long = strings.Repeat("x", 10<<10)

// ordered is a good order with headers.
func ordered(headers amqp.Table) amqp.Publishing {
	m := plain(`{"ID":7}`)
	m.Headers = headers
	return m
}

// checked is a message type that no service handles.
type checked struct{ ID int }

func (checked) MessageType() string { return "Checked" }

func prefixed(name string) string { return "PikaBus." + name }

// TestBadInput puts each bad message between two good ones and checks what
// becomes of the three, how often they are delivered, and that the service and
// its connections are unharmed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for _, c := range badinput.All() {
		t.Run(c.Name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) { runBadInput(t, r, &c) })
		})
	}
}

func runBadInput(t *testing.T, r *rig, c *badinput.Case) {
	s, seen := badInputService(r, c)
	ch := r.channel()
	r.declare(ch, badinput.Victims...)
	r.publish(ch, "orders", plain(`{"ID":1}`))
	switch {
	case c.Table != nil:
		r.publishTable("orders", c)
	case c.Topic != "":
		r.publishTo(ch, "PikaBusTopic", c.Topic, c.Message)
	default:
		r.publish(ch, "orders", c.Message)
	}
	r.publish(ch, "orders", plain(`{"ID":2}`))
	r.quiet(append([]string{badinput.ErrorQueue}, badinput.Victims...)...)

	copies := r.broker.Messages(badinput.ErrorQueue)
	checkCounts(t, c, s.Stats(), len(copies))
	if c.Want == badinput.Handled {
		m := seen.last()
		if m == nil {
			t.Fatal("no handler saw it")
		}
		if c.See != nil {
			if err := c.See(m); err != nil {
				t.Error(err)
			}
		}
	}
	for _, m := range copies {
		if err := c.CheckCopy(m.Publishing); err != nil {
			t.Error(err)
		}
	}
	for _, queue := range badinput.Victims {
		if n, _ := r.broker.Queue(queue); n.Ready > 1 { // one by the publisher's own CC
			t.Errorf("%d messages in %q, which a header named", n.Ready, queue)
		}
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}

// witness keeps what handlers saw of the bad message.
type witness struct {
	mu       sync.Mutex
	messages []*harebus.Message
}

func (w *witness) add(m *harebus.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages = append(w.messages, m)
}

func (w *witness) last() *harebus.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.messages) == 0 {
		return nil
	}
	return w.messages[len(w.messages)-1]
}

// badInputService has a handler for every kind of trouble. Good orders have the
// ids 1 and 2.
func badInputService(r *rig, c *badinput.Case) (*harebus.Setup, *witness) {
	cfg := r.config("orders")
	cfg.Handling.Unhandled = harebus.UnhandledPark
	cfg.Subscriptions = []string{badinput.Subscription}
	if c.Tight {
		badinput.Tighten(&cfg)
	}
	s := r.setup(cfg)
	w := &witness{}
	badinput.Handle(s, func(m *harebus.Message, _ error) {
		if body := string(m.Body); body != `{"ID":1}` && body != `{"ID":2}` {
			w.add(m)
		}
	})
	r.start(s)
	return s, w
}

// checkCounts checks that nothing was lost, repeated or spun.
func checkCounts(t *testing.T, c *badinput.Case, got harebus.Stats, copies int) {
	t.Helper()
	want := harebus.Stats{Delivered: 3, MessageStats: harebus.MessageStats{Handled: 3}, Connections: 1}
	if c.Want != badinput.Handled {
		want.Handled, want.Parked, want.Connections = 2, 1, 2
	}
	if c.Want == badinput.Retried {
		want.Delivered, want.Retried = 8, 5
	}
	if copies != int(want.Parked) {
		t.Errorf("%d messages in the error queue, want %d", copies, want.Parked)
	}
	got = untimed(got)
	got.Failed, got.Published, got.Unpublished, got.Republished = 0, 0, 0, 0
	if !reflect.DeepEqual(got, want) {
		t.Errorf("counts\n got %+v\nwant %+v", got, want)
	}
}
