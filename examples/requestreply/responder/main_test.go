package main

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestRun plays the requester. It has its own Go types, because services share
// names on the wire, not Go packages.
func TestRun(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	broker := brokertest.New()
	defer broker.Close()

	requester, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "examples.requester"})
	if err != nil {
		t.Fatal(err)
	}
	replies := make(chan *harebus.Message, 1)
	requester.HandleMessage("Price", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		replies <- m
		return nil
	})
	if err := requester.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer requester.Close()

	running, halt := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(running, harebus.Config{Dial: broker.Dial}, io.Discard) }()
	err = broker.WaitQueue(ctx, "examples.prices", func(q brokertest.Queue) bool { return len(q.Consumers) > 0 })
	if err != nil {
		t.Fatal(err)
	}

	request := map[string]string{"Article": "lamp"}
	err = requester.Bus().Send(ctx, "examples.prices", request,
		harebus.WithType("PriceRequest"), harebus.WithCorrelationID("question-1"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-replies:
		if string(m.Body) != `{"Article":"lamp","Cents":400}` || m.CorrelationID != "question-1" {
			t.Errorf("got %s with correlation id %q", m.Body, m.CorrelationID)
		}
	case <-ctx.Done():
		t.Fatal("no reply")
	}
	halt()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
