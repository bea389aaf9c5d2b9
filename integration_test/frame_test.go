package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// TestSmallFrames: on a broker with a small frame_max long failures are retried and
// parked, long headers refused, deferred messages arrive over many queues, and no
// connection is lost. With as many headers as a client can read it is the same.
func TestSmallFrames(t *testing.T) {
	t.Parallel()
	for _, frameMax := range []int{8192, 131072} {
		t.Run(fmt.Sprint(frameMax), func(t *testing.T) {
			p := private(t, rabbit.Options{Config: []string{fmt.Sprintf("frame_max = %d", frameMax)}})
			testSmallFrames(t, p, frameMax)
		})
	}
}

func testSmallFrames(t *testing.T, p *place, frameMax int) {
	cfg := p.config("orders")
	cfg.Retry.MaxRetries = 2
	s := p.setup(cfg)
	deferred := make(chan *harebus.Message, 1)
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		if m.Headers["deferred"] == true {
			deferred <- m
			return nil
		}
		return errors.New("failed: " + strings.Repeat("x", 9000))
	})
	p.start(s)
	ctx, bus, b := p.within(patience), s.Bus(), p.broker()
	p.try(bus.Send(ctx, cfg.Queue, note{1}, harebus.WithHeader("tenant", "blue")))
	parked := b.take(cfg.ErrorQueue.Name, 1)[0]
	if details, _ := parked.Headers["PikaBus.ErrorDetails"].(string); !strings.HasPrefix(details, "failed: xxx") || parked.Headers["tenant"] != "blue" {
		t.Errorf("tenant %v, details %.40q", parked.Headers["tenant"], details)
	}
	start := time.Now()
	p.is(bus.Send(ctx, cfg.Queue, note{2}, harebus.WithHeader("large", strings.Repeat("x", frameMax))), harebus.ErrRefused)
	p.inTime("a refusal", start, time.Second)
	const long = 3*time.Second + 157*time.Millisecond // over four delay queues
	p.try(bus.Defer(ctx, cfg.Queue, long, note{3}, harebus.WithHeader("deferred", true)))
	select {
	case <-deferred:
	case <-ctx.Done():
		t.Fatal("the deferred message has not come")
	}
	if frameMax > 8192 {
		headers := make(amqp.Table)
		for i := range 8192 {
			headers[fmt.Sprintf("h%04d", i)] = int8(1)
		}
		b.publish("", cfg.Queue, amqp.Publishing{Type: "Note", Headers: headers})
		if got := b.take(cfg.ErrorQueue.Name, 1)[0]; len(got.Headers) > 8192 || len(got.Headers) < 8000 {
			t.Errorf("%d headers", len(got.Headers))
		}
	}
	if made := s.Stats().Connections; made != 2 {
		t.Errorf("%d connections were made", made)
	}
}
