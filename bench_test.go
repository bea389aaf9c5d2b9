package harebus

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// The benchmarks of the hot paths. What they allocate is compared with a
// committed baseline by scripts/bench-compare; the module bench measures
// against other clients and a real broker.
//
// Where there is a broker it is the one in the process, so its own work is in
// the figures: they show what changed, not what RabbitMQ and harebus can do.

// parcel is a message of about 256 bytes.
type parcel struct {
	ID   int
	Text string
}

func (parcel) MessageType() string { return "Parcel" }

var benchParcel = parcel{7, strings.Repeat("x", 220)}

// benchSetup makes a setup on a broker of its own.
func benchSetup(b *testing.B, cfg Config) (*Setup, *brokertest.Broker) {
	b.Helper()
	broker := brokertest.New()
	b.Cleanup(broker.Close)
	cfg.URL, cfg.Dial = broker.URL(), broker.Dial
	s, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s, broker
}

// benchQueue declares a queue that drops what is published to it, so that the
// broker does not grow.
func benchQueue(b *testing.B, broker *brokertest.Broker, name string) {
	b.Helper()
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-max-length": int64(1)}); err != nil {
		b.Fatal(err)
	}
	if err := ch.ExchangeDeclare(defaultDirectExchange, "direct", true, false, false, false, nil); err != nil {
		b.Fatal(err)
	}
	if err := ch.QueueBind(name, name, defaultDirectExchange, false, nil); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkNewMessageID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewMessageID()
	}
}

// BenchmarkCompose is encoding, stamping and checking a message.
func BenchmarkCompose(b *testing.B) {
	ctx := b.Context()
	compose := func(b *testing.B, s *sender, opts ...SendOption) {
		b.ReportAllocs()
		for b.Loop() {
			o := newSendOptions(opts)
			if _, err := s.compose(ctx, address{op: OpSend, exchange: defaultDirectExchange, key: "queue"}, benchParcel, &o); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("outside", func(b *testing.B) {
		s, _ := benchSetup(b, Config{})
		compose(b, &sender{endpoint: s.endpoint})
	})
	b.Run("headers", func(b *testing.B) {
		s, _ := benchSetup(b, Config{})
		compose(b, &sender{endpoint: s.endpoint}, WithHeaders(map[string]any{"tenant": "a", "priority": 7}))
	})
	b.Run("handler", func(b *testing.B) {
		s, _ := benchSetup(b, Config{Queue: "orders"})
		scope := &scope{ID: NewMessageID(), Incoming: &Message{CorrelationID: NewMessageID()}, Origin: "orders\x00Order"}
		compose(b, &sender{s.endpoint, scope})
	})
}

// BenchmarkReadMessage is making sense of a delivery.
func BenchmarkReadMessage(b *testing.B) {
	s, _ := benchSetup(b, Config{Queue: "orders"})
	o := newSendOptions(nil)
	out, err := (&sender{endpoint: s.endpoint}).compose(b.Context(), address{op: OpSend, exchange: defaultDirectExchange, key: "orders"}, benchParcel, &o)
	if err != nil {
		b.Fatal(err)
	}
	d := &amqp.Delivery{
		Headers: out.Publishing.Headers, ContentType: out.Publishing.ContentType, ContentEncoding: out.Publishing.ContentEncoding,
		CorrelationId: out.Publishing.CorrelationId, ReplyTo: out.Publishing.ReplyTo, MessageId: out.Publishing.MessageId,
		Timestamp: out.Publishing.Timestamp, Type: out.Publishing.Type, Body: out.Publishing.Body,
		Exchange: defaultDirectExchange, RoutingKey: "orders",
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readMessage(s.peers, s.routing.Topic, "orders", d); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSend is a call that returns when the message is confirmed.
func BenchmarkSend(b *testing.B) {
	prepare := func(b *testing.B) *Bus {
		s, broker := benchSetup(b, Config{})
		benchQueue(b, broker, "queue")
		bus := s.Bus()
		if err := bus.Send(b.Context(), "queue", benchParcel); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		return bus
	}
	b.Run("alone", func(b *testing.B) {
		bus := prepare(b)
		for b.Loop() {
			if err := bus.Send(b.Context(), "queue", benchParcel); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("together", func(b *testing.B) {
		bus := prepare(b)
		const perProcessor = 50
		b.SetParallelism(perProcessor)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := bus.Send(b.Context(), "queue", benchParcel); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkTransaction is a commit of a hundred messages.
func BenchmarkTransaction(b *testing.B) {
	s, broker := benchSetup(b, Config{})
	benchQueue(b, broker, "queue")
	const messages = 100
	b.ReportAllocs()
	for b.Loop() {
		err := s.Bus().Transaction(b.Context(), func(ctx context.Context, tx *Tx) error {
			for range messages {
				if err := tx.Send(ctx, "queue", benchParcel); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// handleBatch is how many messages BenchmarkHandle handles in one operation.
const handleBatch = 100

// BenchmarkHandle is a hundred messages from their queue through a typed handler
// to their acks.
func BenchmarkHandle(b *testing.B) {
	b.Run("nothing", func(b *testing.B) {
		benchHandle(b, func(context.Context, *Bus, parcel) error { return nil })
	})
	b.Run("send", func(b *testing.B) {
		benchHandle(b, func(ctx context.Context, bus *Bus, p parcel) error { return bus.Send(ctx, "sink", p) })
	})
}

func benchHandle(b *testing.B, handle func(context.Context, *Bus, parcel) error) {
	s, broker := benchSetup(b, Config{Queue: "queue", Consume: ConsumeConfig{Prefetch: 2 * handleBatch}})
	benchQueue(b, broker, "sink")
	var gate sync.RWMutex // locked while the queue is filled
	var begun atomic.Int64
	done := make(chan struct{}, 1)
	Handle(s, func(ctx context.Context, bus *Bus, p parcel) error {
		gate.RLock()
		defer gate.RUnlock()
		if begun.Add(1)%handleBatch == 0 {
			done <- struct{}{}
		}
		return handle(ctx, bus, p)
	})
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	batch := func() {
		b.StopTimer()
		gate.Lock()
		benchFill(b, s)
		b.StartTimer()
		gate.Unlock()
		<-done
	}
	batch() // connects, and ends the caution of a new consumer
	b.ReportAllocs()
	for b.Loop() {
		batch()
	}
}

func benchFill(b *testing.B, s *Setup) {
	b.Helper()
	err := s.Bus().Transaction(b.Context(), func(ctx context.Context, tx *Tx) error {
		for range handleBatch {
			if err := tx.Send(ctx, "queue", benchParcel); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
