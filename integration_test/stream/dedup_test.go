package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dedup"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// TestDedup: each message is sent twice, and again after the instance was replaced, and handled once.
func TestDedup(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	queue := fmt.Sprintf("dd-%d", rand.Uint64())
	t.Cleanup(func() { drop(t, node, queue, queue+".error", queue+".handled") })
	var mu sync.Mutex // guards handled
	handled := map[int]int{}
	instance := func() *harebus.Setup {
		cfg := harebus.Config{URL: node.URL(), Queue: queue, ErrorQueue: harebus.ErrorQueueConfig{Name: queue + ".error"}, Exchanges: harebus.ExchangeConfig{Direct: "amq.direct", Topic: "amq.topic"}}
		d := dedup.New(dedup.Config{Keep: time.Hour})
		must(t, d.Apply(&cfg))
		s, err := harebus.New(cfg)
		must(t, err)
		must(t, d.Serve(s))
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, c counted) error {
			mu.Lock()
			defer mu.Unlock()
			handled[c.N]++
			return nil
		})
		must(t, s.Start(t.Context()))
		return s
	}
	const messages = 200
	settle := func(s *harebus.Setup) {
		for n := range messages {
			for range 2 {
				must(t, s.Bus().Send(t.Context(), queue, counted{n}, harebus.WithMessageID(fmt.Sprintf("%s-%d", queue, n))))
			}
		}
		deadline := time.Now().Add(patience)
		for stats := s.Stats(); stats.Delivered < 2*messages || stats.InFlight > 0; stats = s.Stats() {
			if time.Now().After(deadline) {
				t.Fatalf("%+v", stats)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	first := instance()
	settle(first)
	must(t, first.Close())
	second := instance()
	settle(second)
	must(t, second.Close())
	mu.Lock()
	defer mu.Unlock()
	for n := range messages {
		if handled[n] != 1 {
			t.Errorf("message %d is handled %d times", n, handled[n])
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// drop deletes queues.
func drop(t *testing.T, node *rabbit.Node, queues ...string) {
	t.Helper()
	conn, err := amqp.Dial(node.URL())
	must(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(t, err)
	for _, q := range queues {
		_, err := ch.QueueDelete(q, false, false, false)
		must(t, err)
	}
}
