package harebus_test

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus/brokertest"
)

// frameByFrame is a connection as a client would use it that flushes every frame.
type frameByFrame struct{ net.Conn }

func (f frameByFrame) Write(p []byte) (int, error) {
	if string(p[:min(4, len(p))]) == "AMQP" {
		return f.Conn.Write(p)
	}
	for rest := p; len(rest) > 0; {
		const around = 8
		n := around + int(binary.BigEndian.Uint32(rest[3:]))
		if _, err := f.Conn.Write(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// TestClientThatFlushesEveryFrame: a later client may write in a way in which its publishes
// cannot be replaced. The broker then gets each message once, and three empty ones a
// connection, which no queue takes; it is said once, and counted.
func TestClientThatFlushesEveryFrame(t *testing.T) {
	const messages = 100
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		core, logs := observer.New(zap.WarnLevel)
		cfg := r.config("")
		cfg.Logger = zap.New(core)
		s := r.setup(cfg)
		s.UnderClient(func(c net.Conn) net.Conn { return frameByFrame{c} })
		var publishes atomic.Int64
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Match: func(brokertest.Frame) bool {
			publishes.Add(1)
			return false
		}})
		for i := range messages {
			if err := s.Bus().Send(r.ctx, "out", order{i}); err != nil {
				t.Fatal(err)
			}
		}
		if n := publishes.Load(); n != messages+3 {
			t.Errorf("%d publishes at the broker for %d messages", n, messages)
		}
		r.await("out", messages)
		if got := s.Stats(); got.Plain != messages || got.Published != messages {
			t.Errorf("counts %+v", got)
		}
		about := logs.FilterMessageSnippet("writes its frames in another way").All()
		if len(about) != 1 || about[0].ContextMap()["version"] == "" {
			t.Errorf("said %d times: %v", len(about), about)
		}
		for _, q := range r.broker.Queues() {
			for _, m := range r.broker.Messages(q.Name) {
				if len(m.Body) == 0 {
					t.Errorf("an empty message in %s", q.Name)
				}
			}
		}
	})
}

// TestClientAsItIs: with the client of today there is one publish for each message.
func TestClientAsItIs(t *testing.T) {
	const messages = 100
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.setup(r.config(""))
		var publishes atomic.Int64
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Match: func(brokertest.Frame) bool {
			publishes.Add(1)
			return false
		}})
		tx := s.Bus().Begin()
		for i := range messages {
			if err := tx.Send(r.ctx, "out", order{i}); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(r.ctx); err != nil {
			t.Fatal(err)
		}
		if got := s.Stats(); publishes.Load() != messages || got.Plain != 0 {
			t.Errorf("%d publishes, counts %+v", publishes.Load(), got)
		}
	})
}
