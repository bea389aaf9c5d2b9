package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// smallFrames are brokers whose frame_max is far below the usual.
var smallFrames = []int{4096, 8192, 16384}

// TestSmallFrames: limits come from the connection, not from what is usual. A
// failure whose text is longer than a frame is retried and parked, a call whose
// headers are too long is refused, and nothing ends a connection.
func TestSmallFrames(t *testing.T) {
	t.Parallel()
	for _, frameMax := range smallFrames {
		t.Run(fmt.Sprint(frameMax), func(t *testing.T) {
			inBubble(t, testSmallFrames, brokertest.WithFrameMax(frameMax))
		})
	}
}

func testSmallFrames(t *testing.T, r *rig) {
	cfg := r.config("orders")
	cfg.Retry.MaxRetries = 2
	s := r.setup(cfg)
	attempts, deferred := 0, make(chan int, 1)
	s.HandleMessage("Order", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		if m.Headers["deferred"] == true {
			deferred <- len(m.Headers)
			return nil
		}
		attempts++
		return errors.New("failed: " + strings.Repeat("x", 9000))
	})
	r.start(s)
	bus := s.Bus()
	if err := bus.Send(r.ctx, "orders", order{1}, harebus.WithHeader("tenant", "blue")); err != nil {
		t.Fatal(err)
	}
	parked := r.await("error", 1)[0]
	details, _ := parked.Headers[prefixed("ErrorDetails")].(string)
	if attempts != 3 || !strings.HasPrefix(details, "failed: xxx") || parked.Headers["tenant"] != "blue" {
		t.Errorf("%d attempts, tenant %v, details %.40q", attempts, parked.Headers["tenant"], details)
	}

	tooLong := harebus.WithHeader("large", strings.Repeat("x", 17_000))
	start := time.Now()
	err := bus.Send(r.ctx, "orders", order{2}, tooLong)
	if !errors.Is(err, harebus.ErrRefused) || time.Since(start) > time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	contains(t, err.Error(), "frame_max", "body")
	if err := bus.Begin().Send(r.ctx, "orders", order{2}, tooLong); !errors.Is(err, harebus.ErrRefused) {
		t.Errorf("in a transaction: %v", err)
	}

	// A way through many delay queues, where the broker adds most.
	const long = 8*time.Minute + 14*time.Second + 57*time.Millisecond
	if err := bus.Defer(r.ctx, "orders", long, order{3}, harebus.WithHeader("deferred", true)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(long + long/500)
	receive(r, deferred)
	if made := s.Stats().Connections; made != 2 {
		t.Errorf("%d connections were made", made)
	}
}

// TestFramesShrink: a message that was composed when frames were larger is refused
// for certain, and a copy of one that failed is fitted anew.
func TestFramesShrink(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		small := brokertest.New(brokertest.WithFrameMax(8192))
		t.Cleanup(small.Close)
		ch := r.channel()
		r.declare(ch, "out")
		cfg := r.config("")
		s := r.setup(cfg)
		tx := s.Bus().Begin()
		if err := tx.Send(r.ctx, "out", order{1}, harebus.WithHeader("large", strings.Repeat("x", 9000))); err != nil {
			t.Fatal(err)
		}
		r.tap.dial = small.Dial
		start := time.Now()
		err := tx.Commit(r.ctx)
		if !errors.Is(err, harebus.ErrRefused) || !errors.Is(err, harebus.ErrNotSent) || time.Since(start) > time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if made := s.Stats().Connections; made != 1 {
			t.Errorf("%d connections were made", made)
		}
	})
}

// TestManyHeaders: a message with as many headers as a client can read grows when
// it fails. The copies must have no more than that, or no Go client reads them.
func TestManyHeaders(t *testing.T) {
	t.Parallel()
	for _, n := range []int{8159, 8160, 8161, 8185, 8189, 8192} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			for _, retries := range []int{-1, 2} {
				inBubble(t, func(t *testing.T, r *rig) { testManyHeaders(t, r, n, retries) })
			}
		})
	}
}

func testManyHeaders(t *testing.T, r *rig, n, retries int) {
	cfg := r.config("orders")
	cfg.Retry.MaxRetries = retries
	s := r.setup(cfg)
	attempts := 0
	s.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error {
		attempts++
		return errNo
	})
	r.start(s)
	headers := make(amqp.Table, n)
	for i := range n {
		headers[fmt.Sprintf("h%04d", i)] = int8(1)
	}
	ch := r.channel()
	r.publish(ch, "orders", ordered(headers))
	r.await("error", 1)
	got, ok, err := ch.Get("error", true) // with the client's own limits
	if err != nil || !ok {
		t.Fatalf("the parked copy: %v, %v", ok, err)
	}
	delete(got.Headers, "x-delivery-count") // which the broker has added
	details, _ := got.Headers[prefixed("ErrorDetails")].(string)
	if n > harebus.MaxEntries && retries < 0 {
		contains(t, details, "left out", "h0")
	}
	if attempts != 1+max(retries, 0) || len(got.Headers) > harebus.MaxEntries || len(got.Headers) < harebus.MaxEntries-10 {
		t.Errorf("%d attempts, %d headers", attempts, len(got.Headers))
	}
	if made := s.Stats().Connections; made != 2 {
		t.Errorf("%d connections were made", made)
	}
}

// TestTooManyHeaders: a call with more headers than can be read where they arrive
// is refused.
func TestTooManyHeaders(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		headers := make(map[string]any, 8192)
		for i := range 8192 - 32 {
			headers[fmt.Sprint(i)] = true
		}
		err := r.setup(r.config("")).Bus().Send(r.ctx, "out", order{1}, harebus.WithHeaders(headers))
		if !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
}
