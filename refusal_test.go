package harebus_test

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// bottom makes nested headers.
func nested(depth int) map[string]any {
	m := map[string]any{"end": true}
	for range depth {
		m = map[string]any{"deep": m}
	}
	return m
}

// badOptions are refused by every call that takes options.
var badOptions = map[string]harebus.SendOption{
	"message id 256 bytes":       harebus.WithMessageID(long[:256]),
	"message id not UTF-8":       harebus.WithMessageID("\xff"),
	"type 256 bytes":             harebus.WithType(long[:256]),
	"type not UTF-8":             harebus.WithType("\xff"),
	"correlation id 256 bytes":   harebus.WithCorrelationID(long[:256]),
	"reply address 256 bytes":    harebus.WithReplyTo(long[:256]),
	"app id 256 bytes":           harebus.WithAppID(long[:256]),
	"exchange 256 bytes":         harebus.WithExchange(long[:256]),
	"content type unknown":       harebus.WithContentType("application/cbor"),
	"content type long":          harebus.WithContentType(long),
	"expiration negative":        harebus.WithExpiration(-time.Second),
	"expiration below a ms":      harebus.WithExpiration(time.Microsecond),
	"expiration beyond 32 bits":  harebus.WithExpiration(time.Duration(1<<32) * time.Millisecond),
	"header NaN":                 harebus.WithHeader("x", math.NaN()),
	"header infinite":            harebus.WithHeader("x", math.Inf(-1)),
	"header float32 infinite":    harebus.WithHeader("x", float32(math.Inf(1))),
	"header NaN in a list":       harebus.WithHeader("x", []float64{1, math.NaN()}),
	"header key empty":           harebus.WithHeader("", "x"),
	"header key 256 bytes":       harebus.WithHeader(long[:256], "x"),
	"header key not UTF-8":       harebus.WithHeader("\xff", "x"),
	"header uint64 beyond int64": harebus.WithHeader("x", uint64(math.MaxUint64)),
	"header struct":              harebus.WithHeader("x", struct{}{}),
	"header func":                harebus.WithHeader("x", func() {}),
	"header pointer":             harebus.WithHeader("x", new(int)),
	"header complex":             harebus.WithHeader("x", 1i),
	"header nested":              harebus.WithHeader("x", nested(33)),
	"header 8193 elements":       harebus.WithHeader("x", make([]bool, 8193)),
	"header of 130 KiB":          harebus.WithHeader("x", strings.Repeat("x", 130<<10)),
	"header CC":                  harebus.WithHeader("CC", []string{"q"}),
	"header BCC":                 harebus.WithHeader("BCC", []string{"q"}),
	"header x-death":             harebus.WithHeader("x-death", "x"),
	"header x-delay":             harebus.WithHeader("x-delay", 5),
	"header of the standard set": harebus.WithHeader("PikaBus.ReplyToAddress", "x"),
}

// badKeys are no queue or topic that a message can be sent to.
var badKeys = map[string]string{
	"empty": "", "256 bytes": long[:256], "not UTF-8": "\xff", "line break": "a\nb", "nul": "a\x00b",
}

// TestRefusedLocally makes every call on a bus with bad arguments. Each is
// refused with a reason, and not so much as a connection is made.
func TestRefusedLocally(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Payload.MaxBody = 1000
		s := r.setup(cfg)
		bus := s.Bus()
		tx := bus.Begin()
		defer tx.Rollback()
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("%s: %v", what, err)
				return
			}
			if len(err.Error()) > 700 {
				t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
			}
		}
		calls := func(key string, value any, opts ...harebus.SendOption) map[string]error {
			return map[string]error{
				"send": bus.Send(r.ctx, key, value, opts...), "publish": bus.Publish(r.ctx, key, value, opts...),
				"defer": bus.Defer(r.ctx, key, time.Second, value, opts...), "tx send": tx.Send(r.ctx, key, value, opts...),
				"tx publish": tx.Publish(r.ctx, key, value, opts...), "tx defer": tx.Defer(r.ctx, key, time.Second, value, opts...),
			}
		}
		for name, opt := range badOptions {
			for call, err := range calls("key", order{1}, opt) {
				refused(call+" "+name, err)
			}
		}
		for name, key := range badKeys {
			for call, err := range calls(key, order{1}) {
				refused(call+" key "+name, err)
			}
		}
		for name, value := range map[string]any{
			"channel": make(chan int), "NaN": math.NaN(), "func": func() {}, "map by bool": map[bool]int{true: 1},
			"too large": strings.Repeat("x", 1000),
		} {
			for call, err := range calls("key", value) {
				refused(call+" value "+name, err)
			}
		}
		for _, delay := range []time.Duration{-1, math.MinInt64, topology.MaxDelay + 1, math.MaxInt64} {
			refused("defer "+delay.String(), bus.Defer(r.ctx, "key", delay, order{1}))
		}
		refused("defer with expiration", bus.Defer(r.ctx, "key", time.Second, order{1}, harebus.WithExpiration(time.Second)))
		for _, topic := range []string{"#", "*", "a.#", "a.*.b"} {
			refused("publish "+topic, bus.Publish(r.ctx, topic, order{1}))
		}
		for _, topic := range []string{"", "a#", "a.b*", long[:256], "\xff", "a\nb"} {
			refused("subscribe "+topic, s.Subscribe(r.ctx, "good", topic))
			refused("subscribe with "+topic, s.SubscribeWith(r.ctx, map[string]any{"x": 1}, topic))
			refused("unsubscribe "+topic, s.Unsubscribe(r.ctx, topic))
		}
		if err := tx.Commit(r.ctx); err != nil {
			t.Errorf("commit of what was refused: %v", err)
		}
		if r.tap.dialed() != 0 || !reflect.DeepEqual(s.Stats(), harebus.Stats{}) {
			t.Errorf("%d connections, counts %+v", r.tap.dialed(), s.Stats())
		}
	})
}

// TestRefusedAtOnceInTransaction: a bad call fails by itself, and the others of
// the transaction are still good.
func TestRefusedAtOnceInTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		err := r.setup(r.config("")).Bus().Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			if err := tx.Send(ctx, "out", make(chan int)); !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("send: %v", err)
			}
			return tx.Send(ctx, "out", order{1})
		})
		if err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
	})
}

// TestMiddlewareRefused: what send middleware makes of a message is checked as
// the caller's arguments are.
func TestMiddlewareRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for name, change := range map[string]func(m *harebus.Outgoing){
			"content type":           func(m *harebus.Outgoing) { m.ContentType = long },
			"content type not UTF-8": func(m *harebus.Outgoing) { m.ContentType = "\xff" },
			"type":                   func(m *harebus.Outgoing) { m.Type = long },
			"header":                 func(m *harebus.Outgoing) { m.Headers["CC"] = "x" },
			"NaN":                    func(m *harebus.Outgoing) { m.Headers["x"] = math.NaN() },
			"body":                   func(m *harebus.Outgoing) { m.Body = make([]byte, 17<<20) },
		} {
			cfg := r.config("")
			cfg.Publish.Middleware = []harebus.SendMiddleware{func(next harebus.SendFunc) harebus.SendFunc {
				return func(ctx context.Context, m *harebus.Outgoing) error {
					change(m)
					return next(ctx, m)
				}
			}}
			ctx, cancel := context.WithTimeout(r.ctx, time.Second)
			err := r.setup(cfg).Bus().Send(ctx, "out", order{1})
			cancel()
			if !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if r.tap.dialed() != 0 {
			t.Errorf("%d connections", r.tap.dialed())
		}
	})
}

// TestMisplacedCalls are calls that make no sense where they are made.
func TestMisplacedCalls(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config(""))
		bus := s.Bus()
		if err := bus.Reply(r.ctx, answer{1}); !errors.Is(err, harebus.ErrReplyOutsideHandler) {
			t.Errorf("reply: %v", err)
		}
		tx := bus.Begin()
		if err := tx.Reply(r.ctx, answer{1}); !errors.Is(err, harebus.ErrReplyOutsideHandler) {
			t.Errorf("reply in a transaction: %v", err)
		}
		tx.Rollback()
		for call, err := range map[string]error{
			"start": s.Start(r.ctx), "run": s.Run(r.ctx), "subscribe": s.Subscribe(r.ctx, "a"),
			"subscribe with": s.SubscribeWith(r.ctx, nil, "a"), "unsubscribe": s.Unsubscribe(r.ctx, "a"),
		} {
			if !errors.Is(err, harebus.ErrNoQueue) {
				t.Errorf("%s: %v", call, err)
			}
		}
		for call, err := range map[string]error{
			"send": tx.Send(r.ctx, "q", order{1}), "publish": tx.Publish(r.ctx, "q", order{1}),
			"defer": tx.Defer(r.ctx, "q", 1, order{1}), "commit": tx.Commit(r.ctx),
		} {
			if !errors.Is(err, harebus.ErrHandlerReturned) {
				t.Errorf("%s after rollback: %v", call, err)
			}
		}
	})
}
