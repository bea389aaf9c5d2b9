package redrive_test

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/redrive"
)

// unreadable are header tables that the AMQP client cannot read.
func unreadable() map[string]amqp.Table {
	deep := amqp.Table{"end": "x"}
	for range 33 {
		deep = amqp.Table{"deep": deep}
	}
	many := amqp.Table{}
	for i := range 8193 {
		many[fmt.Sprintf("h%d", i)] = int8(1)
	}
	return map[string]amqp.Table{"deep": deep, "wide": {"wide": make([]any, 8193)}, "many": many}
}

// TestMovesWhatTheClientCannotRead: the broker itself has parked such a message. It goes back
// with every header that it had before, and so do those around it.
func TestMovesWhatTheClientCannotRead(t *testing.T) {
	t.Parallel()
	for name, headers := range unreadable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newBench(t)
			x.declare(t, "small", amqp.Table{"x-max-length": int32(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "error"})
			x.park(t, "error", parked("a", "", nil))
			x.park(t, "small", amqp.Publishing{MessageId: "poison", Type: "Place", Headers: headers, Body: []byte("poison"), Priority: 3})
			x.park(t, "small", amqp.Publishing{}) // the queue is full: the broker moves the poison
			if _, err := x.ch.QueuePurge("small", false); err != nil {
				t.Fatal(err)
			}
			x.park(t, "error", parked("z", "", nil))
			x.expect(t, "error", "a poison z")

			report, items, err := x.run(t, nil)
			if err != nil || report != (redrive.Report{Moved: 3}) {
				t.Fatalf("report %+v, error %v", report, err)
			}
			if i := items[1]; i.ID != "poison" || i.Position != 2 || !i.Unreadable || i.Source != "small" || i.Failure != "the broker moved it here: maxlen" {
				t.Errorf("reported as %q, number %d, from %q, failed with %q", i.ID, i.Position, i.Source, i.Failure)
			}
			if items[0].Unreadable || items[2].Unreadable {
				t.Error("the messages around it are reported as unreadable")
			}
			x.expect(t, "error", "")
			x.expect(t, "orders", "a z")
			got := x.broker.Messages("small")
			if len(got) != 1 || string(got[0].Body) != "poison" || got[0].Type != "Place" || got[0].Priority != 3 || !reflect.DeepEqual(got[0].Headers, headers) {
				t.Errorf("the message has not arrived as it was: %d messages", len(got))
			}
		})
	}
}

// TestLeavesWhatTheClientCannotRead: looking at it often does not use up its deliveries, and
// one that has nowhere to go stays, with its headers.
func TestLeavesWhatTheClientCannotRead(t *testing.T) {
	t.Parallel()
	for name, headers := range unreadable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newBench(t)
			x.declare(t, "parked", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(20)})
			want := maps.Clone(headers)
			want["PikaBus.ErrorDetails"] = "boom"
			x.park(t, "parked", amqp.Publishing{Headers: want, Body: []byte("poison"), DeliveryMode: amqp.Persistent})
			x.park(t, "parked", parked("z", "", nil))
			for range 25 {
				report, items, err := x.run(t, func(o *redrive.Options) { o.Queue, o.DryRun = "parked", true })
				if err != nil || report != (redrive.Report{Moved: 1, Left: 1}) || items[0].Failure != "boom" || !items[0].Unreadable {
					t.Fatalf("report %+v, error %v", report, err)
				}
			}
			x.expect(t, "parked", "poison z")
			got := maps.Clone(x.broker.Messages("parked")[0].Headers)
			delete(got, "x-delivery-count")
			if !reflect.DeepEqual(got, want) {
				t.Errorf("it has %d headers, want %d", len(got), len(want))
			}
		})
	}
}
