package pulse_test

import (
	"context"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/pulse"
)

// TestControl: a queue is paused, resumed and resized; each order is in the log, with the user that the broker has checked.
func TestControl(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{Control: true}, "orders", nil, nil).begin()
		if q := r.order(pulse.Order{Do: pulse.Pause, Queue: "orders"}, ""); !q.Paused {
			r.Errorf("not paused: %+v", q)
		}
		if !s.setup.Stats().Paused || s.setup.Ready() != nil {
			r.Errorf("paused %v, ready %v", s.setup.Stats().Paused, s.setup.Ready())
		}
		s.send("orders", 3)
		time.Sleep(time.Minute)
		if got := s.setup.Stats().Handled; got != 0 {
			r.Errorf("%d messages were handled in a pause", got)
		}
		if q := r.order(pulse.Order{Do: pulse.Resume, Queue: "orders"}, ""); q.Paused {
			r.Errorf("paused: %+v", q)
		}
		r.until("three are handled", func() bool { return s.setup.Stats().Handled == 3 })
		if q := r.order(pulse.Order{Do: pulse.Concurrency, Queue: "orders", Concurrency: 7}, ""); q.Concurrency != 7 || q.Prefetch != 35 {
			r.Errorf("limits %+v", q)
		}
		for _, refused := range []struct {
			pulse.Order
			why string
		}{
			{pulse.Order{Do: "stop", Queue: "orders"}, `"stop" is none of`},
			{pulse.Order{Do: pulse.Concurrency, Queue: "orders", Concurrency: -1}, "not between 1 and"},
			{pulse.Order{Do: pulse.Concurrency, Queue: "orders", Concurrency: math.MaxInt}, "not between 1 and"},
			{pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: -1}, "not between 0 and"},
			{pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 1e9}, "not between 0 and"},
			{pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 0.1}, "lower the concurrency first"},
		} {
			r.order(refused.Order, refused.why)
		}
		if _, err := r.client.Control(r.Context(), pulse.Target{}, pulse.Order{Do: pulse.Rate, Rate: math.NaN()}); err == nil {
			r.Error("NaN is a rate")
		}
		all := s.log.FilterMessage("an operator gave an order").All()
		if len(all) != 9 {
			r.Fatalf("%d orders are in the log", len(all))
		}
		if f := all[0].ContextMap(); f["do"] != "pause" || f["queue"] != "orders" || f["user"] != "ann" || f["from"] != "ann@ops1" || all[0].LoggerName != "pulse" {
			r.Errorf("logged %v by %s", f, all[0].LoggerName)
		}
		if f := all[3].ContextMap(); f["error"] == nil {
			r.Errorf("logged %v", f)
		}
	})
}

// TestPauseWithWork: a pause does not wait for handlers; the answer says how many there are.
func TestPauseWithWork(t *testing.T) {
	bubble(t, func(r *rig) {
		release := make(chan struct{})
		s := r.serve(pulse.Config{Control: true}, "orders", func(context.Context, place) error { <-release; return nil }, nil).begin()
		s.send("orders", 1)
		r.until("in hand", func() bool { return s.setup.Stats().InFlight == 1 })
		if q := r.order(pulse.Order{Do: pulse.Pause, Queue: "orders"}, ""); !q.Paused || q.InHand != 1 {
			r.Errorf("queue %+v", q)
		}
		close(release)
		r.until("finished", func() bool { return s.setup.Stats().Handled == 1 })
	})
}

// TestPauseOfTwo: a busy instance answers as soon as an idle one, so nobody is left out.
func TestPauseOfTwo(t *testing.T) {
	bubble(t, func(r *rig) {
		release := make(chan struct{})
		defer close(release)
		busy := r.serve(pulse.Config{Control: true}, "orders", func(context.Context, place) error { <-release; return nil }, nil).begin()
		busy.send("orders", 1)
		r.until("in hand", func() bool { return busy.setup.Stats().InFlight == 1 })
		r.serve(pulse.Config{Control: true}, "orders", nil, nil).begin()
		round, err := r.client.Control(r.Context(), pulse.Target{Queue: "orders"}, pulse.Order{Do: pulse.Pause, Queue: "orders"})
		r.try(err)
		if len(round.Answers) != 2 || !round.Answers[0].Queues[0].Paused || !round.Answers[1].Queues[0].Paused || round.Took > 100*time.Millisecond {
			r.Errorf("round %+v", round)
		}
		r.ask(pulse.Target{}, 2)
	})
}

// TestOrderWithoutUser: the log does not leave the user of an order open.
func TestOrderWithoutUser(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{Control: true}, "orders", nil, nil).begin()
		r.try(r.channel().PublishWithContext(r.Context(), pulse.ControlExchange, "queue.orders", false, false, amqp.Publishing{Body: []byte(`{"do":"pause","queue":"orders"}`)}))
		r.until("paused", func() bool { return s.setup.Stats().Paused })
		if f := s.log.FilterMessage("an operator gave an order").All()[0].ContextMap(); f["user"] != "unknown, the order names none" {
			r.Errorf("logged %v", f)
		}
	})
}

// TestControlIsOff: an instance that does not take orders does not hear them, and nothing of the broker leads them to it.
func TestControlIsOff(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{}, "orders", nil, nil).begin()
		for i := range 2 { // without the exchange, and with it
			round, err := r.client.Control(r.Context(), pulse.Target{Queue: "orders"}, pulse.Order{Do: pulse.Pause, Queue: "orders"})
			r.try(err)
			if len(round.Answers) > 0 || s.setup.Stats().Paused {
				r.Errorf("answers %+v", round)
			}
			if i == 0 {
				r.serve(pulse.Config{Control: true}, "payments", nil, nil).begin()
			}
		}
		r.order(pulse.Order{Do: pulse.Pause, Queue: "payments"}, "")
		ch := r.channel()
		r.try(ch.PublishWithContext(r.Context(), "", s.desk(), false, false, amqp.Publishing{Body: []byte(`{"do":"pause","queue":"orders"}`)}))
		time.Sleep(time.Minute)
		if s.setup.Stats().Paused {
			r.Error("an order past the exchange was carried out")
		}
	})
}

// TestEndpoints: each queue of an instance is controlled alone.
func TestEndpoints(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{Control: true}, "orders", nil, nil)
		more := harebus.EndpointConfig{Queue: "imports", QueueOptions: harebus.QueueOptions{PerInstance: true}, Consume: harebus.ConsumeConfig{Concurrency: 1}}
		s.pulse.UseEndpoint(&more)
		imports, err := s.setup.Endpoint(more)
		r.try(err)
		plain, err := s.setup.Endpoint(harebus.EndpointConfig{Queue: "plain"})
		r.try(err)
		for _, e := range []*harebus.Endpoint{imports, plain} {
			harebus.Handle(e, func(context.Context, *harebus.Bus, place) error { return nil })
		}
		s.begin()
		r.order(pulse.Order{Do: pulse.Pause, Queue: imports.Queue()}, "")
		r.order(pulse.Order{Do: pulse.Rate, Queue: imports.Queue(), Rate: 4}, "")
		r.order(pulse.Order{Do: pulse.Rate, Queue: "plain", Rate: 4}, "UseEndpoint")
		r.order(pulse.Order{Do: pulse.Pause, Queue: "orders"}, "")
		queues := r.ask(pulse.Target{Queue: "plain"}, 1).Answers[0].Queues
		if len(queues) != 3 || !queues[0].Paused || !queues[1].Paused || queues[1].Rate != 4 || queues[1].Concurrency != 1 || queues[2].Paused || queues[2].Rate != 0 {
			r.Errorf("queues %+v", queues)
		}
	})
}

// TestRateOfPartitions: a rate is that of the whole queue, and counts the handlers of all partitions that the instance may come to have.
func TestRateOfPartitions(t *testing.T) {
	bubble(t, func(r *rig) {
		r.serve(pulse.Config{Control: true}, "orders", nil, func(cfg *harebus.Config) {
			cfg.Consume = harebus.ConsumeConfig{Concurrency: 5, Order: &order.Config{Partitions: 4}}
		}).begin()
		rate := func(queue string, rate float64) pulse.Order {
			return pulse.Order{Do: pulse.Rate, Queue: queue, Rate: rate}
		}
		at := func(queue string, n int) pulse.Order {
			return pulse.Order{Do: pulse.Concurrency, Queue: queue, Concurrency: n}
		}
		r.order(rate("orders.1", 5), `"orders.1" is a partition of "orders" and has no rate of its own; a rate of "orders" is for all partitions`)
		r.order(rate("orders", 0.5), "20 messages at once and 0.5 a second: each would wait for 40 s")
		r.order(rate("orders", 1), "")
		r.order(at("orders.1", 16), "31 messages at once")
		r.order(at("orders.1", 15), "")
		r.order(at("orders", 8), "32 messages at once")
		r.order(at("orders", 7), "")
		r.order(at("orders.1", 9), "")
		r.order(at("orders.1", 10), "31 messages at once")
	})
}

// TestRate: messages begin at the ordered rate, not faster and not much slower; without one they do not wait.
func TestRate(t *testing.T) {
	bubble(t, func(r *rig) {
		var handled atomic.Int64
		s := r.serve(pulse.Config{Control: true}, "orders", func(context.Context, place) error { handled.Add(1); return nil }, nil).begin()
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 10}, "")
		began := time.Now()
		s.send("orders", 101)
		r.until("all are handled", func() bool { return handled.Load() == 101 })
		if took := time.Since(began); took < 9900*time.Millisecond || took > 10500*time.Millisecond {
			r.Errorf("101 messages at 10/s took %v", took)
		}
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 0.1}, "") // each waits for 20 s at most
		s.send("orders", 100)
		time.Sleep(time.Second)
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders"}, "") // those who wait hear of it
		began = time.Now()
		r.until("all are handled", func() bool { return handled.Load() == 201 })
		if took := time.Since(began); took > time.Second {
			r.Errorf("without a rate that took %v", took)
		}
	})
}

// TestRateAndTimeout: a message does not wait for its turn for more than half of its handler's timeout.
func TestRateAndTimeout(t *testing.T) {
	bubble(t, func(r *rig) {
		var handled atomic.Int64
		var mu sync.Mutex
		least := 5 * time.Second
		s := r.serve(pulse.Config{Control: true}, "orders", func(ctx context.Context, _ place) error {
			handled.Add(1)
			deadline, _ := ctx.Deadline()
			mu.Lock()
			defer mu.Unlock()
			least = min(least, time.Until(deadline))
			return nil
		}, func(cfg *harebus.Config) { cfg.Handling.Timeout, cfg.Consume.Concurrency = 5*time.Second, 10 }).begin()
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 2}, "more than 2.5s")
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 4}, "")
		r.order(pulse.Order{Do: pulse.Concurrency, Queue: "orders", Concurrency: 11}, "more than 2.5s")
		s.send("orders", 50)
		r.until("all are handled", func() bool { return handled.Load() == 50 })
		if stats := s.setup.Stats(); stats.Failed > 0 || least < 2500*time.Millisecond {
			r.Errorf("least %v, stats %+v", least, stats.MessageStats)
		}
	})
}

// TestRateAndShortTimeout: messages whose handler has too little time to wait are postponed, which is no failure. They come
// back one after the other at the ordered rate, and not all again and again.
func TestRateAndShortTimeout(t *testing.T) {
	bubble(t, func(r *rig) {
		const many = 20
		s := r.serve(pulse.Config{Control: true}, "orders", nil, nil)
		s.setup.HandleMessage("Hasty", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil }, harebus.WithTimeout(2*time.Second))
		s.begin()
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 0.5}, "")
		began := time.Now()
		for range many {
			r.try(s.setup.Bus().Send(r.Context(), "orders", 1, harebus.WithType("Hasty")))
		}
		r.until("all are handled", func() bool { return s.setup.Stats().Handled == many })
		if took := time.Since(began); took < 38*time.Second || took > 2*time.Minute {
			r.Errorf("took %v", took)
		}
		if stats := s.setup.Stats(); stats.Failed != stats.Postponed || stats.Postponed < many/2 || stats.Postponed > 4*many || stats.Retried+stats.Parked > 0 {
			r.Errorf("stats %+v", stats.MessageStats)
		}
	})
}

// TestStopWhileWaiting: a stop does not wait for turns.
func TestStopWhileWaiting(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{Control: true}, "orders", nil, func(cfg *harebus.Config) { cfg.ShutdownTimeout = time.Second }).begin()
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 0.1}, "")
		s.send("orders", 5)
		time.Sleep(time.Second)
		began := time.Now()
		s.end()
		if took := time.Since(began); took > 3*time.Second {
			r.Errorf("a stop took %v", took)
		}
		if q, _ := r.broker.Queue("orders"); q.Ready != 4 {
			r.Errorf("%d messages are left", q.Ready)
		}
	})
}

// TestAllocations: a message costs nothing while its queue has no rate.
func TestAllocations(t *testing.T) {
	p, err := pulse.New(pulse.Config{Control: true})
	if err != nil {
		t.Fatal(err)
	}
	cfg := harebus.Config{Queue: "orders"}
	p.Use(&cfg)
	handled := 0
	handle := cfg.Handling.Middleware[0](func(context.Context, *harebus.Bus, *harebus.Message) error { handled++; return nil })
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() { _ = handle(ctx, nil, nil) }); n > 0 || handled < 1000 {
		t.Errorf("%v allocations a message", n)
	}
	off, err := pulse.New(pulse.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg = harebus.Config{Queue: "orders"}
	if off.Use(&cfg); len(cfg.Handling.Middleware)+len(cfg.Observers) > 0 || strings.Contains(cfg.String(), "pulse") {
		t.Errorf("config %+v", cfg)
	}
}

// TestLogLevel: the level of the log is another one for a time, and then what it was before the first order, also when
// Serve ends before.
func TestLogLevel(t *testing.T) {
	bubble(t, func(r *rig) {
		level := zap.NewAtomicLevelAt(zap.WarnLevel)
		s := r.serve(pulse.Config{Control: true, LogLevel: &level}, "orders", nil, nil).begin()
		order := func(to string, within time.Duration, refused string) {
			r.order(pulse.Order{Do: pulse.Log, Queue: "orders", Level: to, Within: within}, refused)
		}
		for _, bad := range []string{"", "loud", "fatal", strings.Repeat("x", 2000)} {
			order(bad, 0, "is none of debug, info, warn and error")
		}
		order("debug", -1, "want more than 0")
		order("debug", 25*time.Hour, "at most 24h")
		if a := r.ask(pulse.Target{}, 1).Answers[0]; a.LogLevel != "warn" || !a.LogUntil.IsZero() {
			r.Errorf("before: %+v", a)
		}
		order("debug", time.Minute, "")
		order("info", 0, "") // in the place of the first: for ten minutes
		time.Sleep(9 * time.Minute)
		if a := r.ask(pulse.Target{}, 1).Answers[0]; level.Level() != zap.InfoLevel || a.LogLevel != "info" || time.Until(a.LogUntil) <= 0 {
			r.Errorf("meanwhile: %v, %+v", level, a)
		}
		time.Sleep(2 * time.Minute)
		if level.Level() != zap.WarnLevel {
			r.Errorf("afterwards: %v", level)
		}
		order("debug", time.Hour, "")
		s.end()
		if level.Level() != zap.WarnLevel {
			r.Errorf("at the end: %v", level)
		}
	})
}

// TestLogLevelIsOff: a program that has not given its level away keeps it.
func TestLogLevelIsOff(t *testing.T) {
	bubble(t, func(r *rig) {
		r.serve(pulse.Config{Control: true}, "orders", nil, nil).begin()
		r.order(pulse.Order{Do: pulse.Log, Queue: "orders", Level: "debug"}, "pulse.Config.LogLevel")
	})
}
