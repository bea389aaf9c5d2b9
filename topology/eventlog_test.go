package topology_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

func ExampleEventLog() {
	t := topology.EventLog("events", "PikaBusTopic", topology.KeepAge(7*24*time.Hour), topology.KeepBytes(20<<30))
	text, err := json.MarshalIndent(t, "", "  ")
	fmt.Println(string(text), err)
	// Output:
	// {
	//   "queues": [
	//     {
	//       "name": "events",
	//       "type": "stream",
	//       "arguments": {
	//         "x-max-age": "7D",
	//         "x-max-length-bytes": 21474836480
	//       }
	//     }
	//   ],
	//   "bindings": [
	//     {
	//       "exchange": "PikaBusTopic",
	//       "key": "#",
	//       "queue": "events"
	//     }
	//   ]
	// } <nil>
}

func TestKeep(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		time.Second: "1s", 1500 * time.Millisecond: "2s", 90 * time.Second: "90s", 2 * time.Minute: "2m", 36 * time.Hour: "36h", 365 * 24 * time.Hour: "365D",
	} {
		q := topology.EventLog("log", "x", topology.KeepAge(d)).Queues[0]
		if got := q.Arguments["x-max-age"]; got != want {
			t.Errorf("%v is %v, want %v", d, got, want)
		}
	}
	for n, want := range map[int64]any{1_000_000: int64(1_000_000), 80_000_000: int64(10_000_000), 4_000_000_000: nil, 1 << 40: nil} {
		q := topology.EventLog("log", "x", topology.KeepBytes(n)).Queues[0]
		if got := q.Arguments["x-stream-max-segment-size-bytes"]; got != want {
			t.Errorf("%d bytes have segments of %v, want %v", n, got, want)
		}
	}
}

// TestStreams_refused: what a broker would refuse, or end the connection for, is an error before; what it takes is not.
func TestStreams_refused(t *testing.T) {
	t.Parallel()
	with := func(arguments map[string]any) topology.Topology {
		return topology.Topology{Queues: []topology.Queue{{Name: "log", Type: topology.Stream, Arguments: arguments}}}
	}
	for says, one := range map[string]topology.Topology{
		"x-max-age 0s is not a positive number":                    topology.EventLog("log", "x", topology.KeepAge(0)),
		"x-max-age -3600s is not a positive number":                topology.EventLog("log", "x", topology.KeepAge(-time.Hour-time.Second)),
		"x-max-age abc is not a positive number":                   with(map[string]any{"x-max-age": "abc"}),
		"x-max-age 90 is not a positive number":                    with(map[string]any{"x-max-age": "90"}),
		"x-max-age 7 is not a positive number":                     with(map[string]any{"x-max-age": 7}),
		"x-max-length-bytes 1000 is less than a segment":           topology.EventLog("log", "x", topology.KeepBytes(1000)),
		"x-max-length-bytes -1 is less than 0":                     topology.EventLog("log", "x", topology.KeepBytes(-1)),
		"x-max-length-bytes 5000000 is less than a segment":        with(map[string]any{"x-max-length-bytes": 5_000_000}),
		"x-stream-max-segment-size-bytes 3000000001 is not betwee": with(map[string]any{"x-stream-max-segment-size-bytes": int64(3_000_000_001)}),
		"x-stream-max-segment-size-bytes is 1.5 (float64)":         with(map[string]any{"x-stream-max-segment-size-bytes": 1.5}),
		"a stream has no x-single-active-consumer":                 with(map[string]any{"x-single-active-consumer": true}),
		"a stream has no x-delivery-limit":                         with(map[string]any{"x-delivery-limit": 5}),
		"x-queue-type is set by Type":                              with(map[string]any{"x-queue-type": "stream"}),
		"a stream cannot be exclusive":                             {Queues: []topology.Queue{{Name: "log", Type: topology.Stream, Exclusive: true}}},
		"listed twice with different properties":                   topology.Join(topology.EventLog("log", "x", topology.KeepAge(time.Hour)), topology.EventLog("log", "x")),
	} {
		if err := one.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
	for _, fine := range []topology.Topology{
		topology.EventLog("log", "x"), topology.EventLog("log", "x", topology.KeepBytes(1_000_000)), with(map[string]any{"x-max-age": "1Y", "x-initial-cluster-size": 3}),
	} {
		if err := fine.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// TestEventLog_captures: what is published to the exchange is in the stream, with its topic, and a declaration that keeps
// something else is refused.
func TestEventLog_captures(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch := func() *amqp.Channel {
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	log := topology.EventLog("log", "amq.topic", topology.KeepAge(time.Hour))
	if err := log.Declare(ch()); err != nil {
		t.Fatal(err)
	}
	publisher := ch()
	if err := publisher.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirm, err := publisher.PublishWithDeferredConfirm("amq.topic", "order.placed", true, false, amqp.Publishing{Body: []byte("1")})
	if err != nil || !confirm.Wait() {
		t.Fatal(err)
	}
	if kept := broker.Messages("log"); len(kept) != 1 || kept[0].RoutingKey != "order.placed" {
		t.Errorf("%+v", kept)
	}
	err = topology.EventLog("log", "amq.topic", topology.KeepAge(2*time.Hour)).Declare(ch())
	if err == nil || !strings.Contains(err.Error(), "x-max-age") {
		t.Errorf("another age: %v", err)
	}
	if err := log.Check(func() (topology.Channel, error) { return conn.Channel() }); err != nil {
		t.Error(err)
	}
}
