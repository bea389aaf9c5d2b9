package harebus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestHandlersLie: what decides about a message, and what identifies it, is what came,
// whatever a handler has made of its Message.
func TestHandlersLie(t *testing.T) {
	for name, lie := range map[string]func(m *harebus.Message){
		"attempt 1":        func(m *harebus.Message) { m.Attempt = 1 },
		"attempt 0":        func(m *harebus.Message) { m.Attempt = 0 },
		"attempt negative": func(m *harebus.Message) { m.Attempt = -5 },
		"attempt huge":     func(m *harebus.Message) { m.Attempt = 1 << 40 },
		"source queue":     func(m *harebus.Message) { m.SourceQueue = "elsewhere" },
		"no id":            func(m *harebus.Message) { m.ID = "" },
		"long id":          func(m *harebus.Message) { m.ID = strings.Repeat("x", 300) },
		"no headers":       func(m *harebus.Message) { m.Headers = nil },
		"first failed":     func(m *harebus.Message) { m.FirstFailed = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"failed long ago":  func(m *harebus.Message) { m.FirstFailed = time.Unix(0, 0) },
		"deferred":         func(m *harebus.Message) { m.DeferredUntil = time.Now().Add(1000 * time.Hour) },
		"all":              func(m *harebus.Message) { *m = harebus.Message{} },
		"reply":            func(m *harebus.Message) { m.ReplyTo = "x\xff" },
	} {
		for _, id := range []string{"", "the-id"} {
			t.Run(name+" "+id, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) { lies(t, r, lie, id) })
			})
		}
	}
}

func lies(t *testing.T, r *rig, lie func(m *harebus.Message), id string) {
	cfg := r.config("orders")
	cfg.Retry = harebus.RetryConfig{MaxRetries: 2, GiveUpAfter: time.Hour, BackOff: steady}
	n := 0
	var first time.Time
	cfg.Handling.ErrorHandler = func(m *harebus.Message, _ error, proposed harebus.Decision) harebus.Decision {
		if m.Attempt != n || m.ID == "" || m.Queue != "orders" || m.LastAttempt != (n == 3) {
			t.Errorf("attempt %d: the error handler is given %+v", n, m)
		}
		return proposed
	}
	s := r.setup(cfg)
	s.HandleMessage("Order", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		switch n++; n {
		case 1:
			first = time.Now()
		case 10:
			return nil // enough
		}
		if id == "" {
			id = m.ID
		}
		if m.ID != id || m.Attempt != n {
			t.Errorf("attempt %d: id %q, Attempt %d", n, m.ID, m.Attempt)
		}
		lie(m)
		return errNo
	})
	r.start(s)
	p := plain(`{"ID":1}`)
	p.MessageId = id
	r.publish(r.channel(), "orders", p)
	parked := r.await("error", 1)[0]
	h := parked.Headers
	failed, err := time.Parse(time.RFC3339Nano, h[prefixed("FirstFailed")].(string))
	if n != 3 || h[prefixed("SourceQueue")] != "orders" || parked.MessageId != id || h[prefixed("MessageId")] != id ||
		err != nil || failed.Sub(first).Abs() > time.Second {
		t.Errorf("%d attempts; parked: id %q, first failed %v, headers %v", n, parked.MessageId, failed, h)
	}
}

// TestHandlersLieAboutIDs: the ids of what a handler sends derive from the id that came.
func TestHandlersLieAboutIDs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		s.HandleMessage("Order", func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			m.ID = ""
			return bus.Send(ctx, "others", answer{1})
		})
		r.declare(r.channel(), "others")
		r.start(s)
		r.fill("orders", 2)
		if got := r.await("others", 2); got[0].MessageId == got[1].MessageId {
			t.Errorf("two messages with the id %q", got[0].MessageId)
		}
	})
}
