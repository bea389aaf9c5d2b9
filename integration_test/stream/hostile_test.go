package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// TestHostileMessages: a publisher who writes the header of offsets itself moves no reader, and one who sends more headers than a client
// reads stops none.
func TestHostileMessages(t *testing.T) {
	node := rabbit.Shared(t)
	g := &group{T: t, urls: []string{node.URL()}, name: fmt.Sprintf("st-%d", rand.Uint64())}
	t.Cleanup(g.forget)
	cfg := readerConfig(g.urls, g.name)
	cfg.Consume = harebus.ConsumeConfig{Stream: &stream.Config{Group: "g"}, Concurrency: 1}
	cfg.Declare.Topology = topology.EventLog(g.name, g.name+".topic", topology.KeepAge(time.Hour))
	s, err := harebus.New(cfg)
	g.try(err)
	defer func() { g.try(s.Close()) }()
	offsets := make(chan int64, 10)
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ counted) error {
		n, err := stream.Offset(harebus.Incoming(ctx).Headers)
		offsets <- n
		return err
	})
	g.try(s.Start(t.Context()))
	conn, err := amqp.Dial(node.URL())
	g.try(err)
	defer conn.Close()
	ch, err := conn.Channel()
	g.try(err)
	many := amqp.Table{}
	for i := range 8193 {
		many[fmt.Sprint("h", i)] = int8(1)
	}
	g.try(ch.Publish(g.name+".topic", "count", false, false, amqp.Publishing{Body: []byte("poison"), Headers: many}))
	forged := []any{int64(1) << 62, int64(-5), "x", nil}
	for _, one := range forged {
		g.try(ch.Publish(g.name+".topic", "count", false, false, amqp.Publishing{
			Type: counted{}.MessageType(), ContentType: "application/json", Body: []byte(`{"N":1}`), Headers: amqp.Table{stream.Header: one, "PikaBus.MessageType": counted{}.MessageType()},
		}))
	}
	for i := range forged {
		select {
		case n := <-offsets:
			if n != int64(i+1) {
				t.Errorf("%s: offset %d, want %d", node.Version(), n, i+1)
			}
		case <-time.After(patience):
			t.Fatalf("%s: nothing comes: %v", node.Version(), s.Ready())
		}
	}
	g.try(s.Ready())
}
