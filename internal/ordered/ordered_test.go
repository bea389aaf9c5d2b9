package ordered_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/ordered"
	"github.com/harebus/harebus/order"
)

// TestListGivenUp: a list whose context ends while the broker is asked returns, and what comes later does no harm.
func TestListGivenUp(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	s, err := harebus.New(harebus.Config{Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, func(context.Context, *harebus.Bus, struct{}) error { return nil }, harebus.WithType("Step"))
	if err := errors.Join(s.Init(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	o := ordered.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Queue: "steps", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
	for _, after := range []time.Duration{20, 100, 300, 490} {
		b.Inject(brokertest.Fault{On: "basic.consume", Do: brokertest.Delay, For: 50 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), after*time.Millisecond)
		if keys, err := o.List(ctx); err == nil || keys != nil {
			t.Errorf("after %v ms: %v, %v", int(after), keys, err)
		}
		cancel()
	}
	if keys, err := o.List(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

// TestOnePartitionFails: what cannot be asked of one partition is asked of the others, and the error names it.
func TestOnePartitionFails(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	s, err := harebus.New(harebus.Config{
		Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{Partitions: 3}}, Retry: harebus.RetryConfig{MaxRetries: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, func(context.Context, *harebus.Bus, int) error { return errors.New("bad") }, harebus.WithType("Step"))
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := 0
	for key := range strings.SplitSeq("abcdefghijklmnop", "") {
		if order.Partition(key, 3) != 1 {
			want++
		}
		if err := s.Bus().Send(t.Context(), "steps", 1, harebus.WithType("Step"), harebus.WithKey(key)); err != nil {
			t.Fatal(err)
		}
	}
	for len(s.Parked()) < 16 {
		time.Sleep(5 * time.Millisecond)
	}
	if err := errors.Join(s.Close(), b.DeleteQueue("steps.1.parked")); err != nil {
		t.Fatal(err)
	}
	o := ordered.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Queue: "steps", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
	if keys, err := o.List(t.Context()); len(keys) != want || err == nil || !strings.Contains(err.Error(), "steps.1: ") {
		t.Errorf("%d keys, want %d: %v", len(keys), want, err)
	}
	before, _ := b.Queue("steps.2.parked")
	if _, err := o.Say(t.Context(), "discard", ""); err == nil || !strings.Contains(err.Error(), "steps.1: ") {
		t.Error(err)
	}
	if after, _ := b.Queue("steps.2.parked"); after.Ready != before.Ready+1 {
		t.Errorf("%d messages in the parking queue of the last partition, want %d", after.Ready, before.Ready+1)
	}
}

// TestOwnerGoes: an instance that goes without an answer, or that the broker still counts after it has stopped, is nobody.
func TestOwnerGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		s, err := harebus.New(harebus.Config{Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}, Retry: harebus.RetryConfig{MaxRetries: -1}})
		if err != nil {
			t.Fatal(err)
		}
		harebus.Handle(s, func(context.Context, *harebus.Bus, int) error { return errors.New("bad") }, harebus.WithType("Step"))
		if err := errors.Join(s.Start(t.Context()), s.Bus().Send(t.Context(), "steps", 1, harebus.WithType("Step"), harebus.WithKey("ann"))); err != nil {
			t.Fatal(err)
		}
		for len(s.Parked()) < 1 {
			time.Sleep(time.Second)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o := ordered.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Queue: "steps", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
		leaves := func() {
			conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
			if err != nil {
				t.Fatal(err)
			}
			ch, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.Consume("steps.parked", "", false, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(2500*time.Millisecond, func() { _ = conn.Close() })
		}
		leaves()
		if keys, err := o.List(t.Context()); err != nil || len(keys) != 1 || keys[0].Key != "ann" {
			t.Errorf("%+v, %v", keys, err)
		}
		leaves()
		if n, err := o.Say(t.Context(), "discard", "ann"); n != 0 || !errors.Is(err, ordered.ErrNobody) {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// TestSayRefused: when the broker does not take what is said, the error says why, and what is missing.
func TestSayRefused(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	s, err := harebus.New(harebus.Config{Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, func(context.Context, *harebus.Bus, int) error { return nil }, harebus.WithType("Step"))
	o := ordered.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Queue: "steps", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitQueue(t.Context(), "steps.parked", func(q brokertest.Queue) bool { return q.Ready+q.Unacked == 1 && len(q.Consumers) == 1 }); err != nil { // the note of the owner
		t.Fatal(err)
	}
	refuse := func(who string) {
		for says, f := range map[string]brokertest.Fault{
			"the user needs the permission to write to amq.default": {Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'ann'"},
			"Exception (406)":                          {Do: brokertest.Raise, Code: 406, Text: "PRECONDITION_FAILED"},
			`the parking queue "steps.parked" is full`: {Do: brokertest.Nack},
			`"steps.parked" was deleted`:               {Do: brokertest.Return},
		} {
			f.On, f.Match = "basic.publish", func(f brokertest.Frame) bool {
				return strings.Contains(f.Connection, "parked") && f.RoutingKey == "steps.parked"
			}
			fault := b.Inject(f)
			if _, err := o.Say(t.Context(), "retry", "ann"); err == nil || errors.Is(err, ordered.ErrNobody) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: want %q: %v", who, says, err)
			}
			fault.Remove()
		}
	}
	refuse("asked of an instance")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refuse("left for the next instance")
}
