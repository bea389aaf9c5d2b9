package proof_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

var (
	seed      = flag.Uint64("seed", 0, "run the schedule of this seed only, and tell what happens")
	schedules = flag.Int("schedules", 200, "number of simulated schedules")
)

// TestSimulation runs the real library against the in-process broker in virtual
// time, under schedules of faults drawn from seeds, and lets the ledger judge.
// A seed that fails fails again: go test ./internal/proof -run Simulation -seed=N.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *seed != 0 {
		simulate(t, *seed, true)
		return
	}
	var next sync.Mutex
	n := uint64(0)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !t.Failed() {
				next.Lock()
				n++
				mine := n
				next.Unlock()
				if mine > uint64(*schedules) { //nolint:gosec // a small positive number
					return
				}
				simulate(t, mine, false)
			}
		})
	}
	workers.Wait()
	t.Logf("%d schedules", *schedules)
}

func simulate(t *testing.T, seed uint64, loud bool) {
	t.Helper()
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sim := newSimulation(t, seed, loud)
			verdict := sim.run(t)
			if len(verdict.Violations) > 0 {
				t.Errorf("replay with -run Simulation -seed=%d\nfaults: %s\n%v", seed, strings.Join(sim.faults, ", "), verdict)
			}
		})
	})
}

// TestCalm: where nothing is wrong, deferred messages take effect when they are
// due, however much longer others have to wait in front of them.
func TestCalm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulation(t, 1, false)
		sim.start(t)
		for i := range 20 {
			delay := 20 * time.Second
			if i%2 == 1 {
				delay = time.Second
			}
			if err := sim.service.Send(t.Context(), sim.work(0, i, proof.Later), delay); err != nil {
				t.Fatal(err)
			}
		}
		expect := sim.service.Expect()
		expect.Late = 5 * time.Second // one worker may have them all, a third of a second each
		if verdict := sim.finish(t, expect); len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
	})
}

// TestCalmCancel: where nothing is wrong, a message that is cancelled a second before it is
// due never comes, and the others come on time.
func TestCalmCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulation(t, 1, false)
		sim.start(t)
		for i := range 20 {
			w, delay := sim.work(0, i, proof.Later), time.Duration(3+i)*time.Second
			if i%2 == 1 {
				if err := sim.service.Send(t.Context(), w, delay); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := sim.service.SendAndCancel(t.Context(), w, delay, 0); err != nil {
				t.Fatal(err)
			}
		}
		expect := sim.service.Expect()
		expect.Late = 5 * time.Second
		if verdict := sim.finish(t, expect); len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
	})
}

// TestCalmOrder: where nothing is wrong, one producer's messages take effect in
// its order, sent one by one or together, if one handler runs at a time.
func TestCalmOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulation(t, 1, false, func(cfg *harebus.Config) { cfg.Consume.Concurrency = 1 })
		sim.start(t)
		for i := 0; i < 40; i += 4 {
			if err := sim.service.Send(t.Context(), sim.work(0, i, proof.Plain), 0); err != nil {
				t.Fatal(err)
			}
			together := []proof.Work{sim.work(0, i+1, proof.Plain), sim.work(0, i+2, proof.Plain), sim.work(0, i+3, proof.Plain)}
			if err := sim.service.SendTogether(t.Context(), together, true); err != nil {
				t.Fatal(err)
			}
		}
		expect := sim.service.Expect()
		expect.Ordered = true
		if verdict := sim.finish(t, expect); len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
	})
}

// TestCalmLooks: people may look at what waits and at what is parked as often as
// they like; RabbitMQ 4 counts each look as a delivery.
func TestCalmLooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulation(t, 1, false)
		sim.start(t)
		for i := range 10 {
			if err := sim.service.Send(t.Context(), sim.work(0, 2*i, proof.Later), 20*time.Second); err != nil {
				t.Fatal(err)
			}
			if err := sim.service.Send(t.Context(), sim.work(0, 2*i+1, proof.Failing), 0); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(15 * time.Second) // virtual: what fails has been parked
		for range 25 {
			sim.look(t)
		}
		verdict := sim.finish(t, sim.service.Expect())
		if len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
		if n := sim.service.Setup.Stats().Postponed; n > 0 {
			t.Errorf("TIMER: %d messages left the delay queues early, and the receiver had to put them back", n)
		}
	})
}

// TestCalmRestarts: a service that is stopped and started by the dozen gives back what it has not begun, and RabbitMQ
// before 4.3 counts each time.
func TestCalmRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulation(t, 1, false, func(cfg *harebus.Config) {
			cfg.Consume.Concurrency, cfg.Consume.Prefetch = 2, 50
		})
		sim.slow = 6 * time.Second
		sim.start(t)
		for i := range 60 {
			if err := sim.service.Send(t.Context(), sim.work(0, i, proof.Plain), 0); err != nil {
				t.Fatal(err)
			}
		}
		for range 25 {
			time.Sleep(5500 * time.Millisecond) // virtual: until it consumes with the whole prefetch
			if err := errors.Join(sim.service.Setup.Stop(t.Context()), sim.service.Setup.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		expect := sim.service.Expect()
		expect.Innocent = true
		if verdict := sim.finish(t, expect); len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
	})
}

// TestCalmFullSubscriber: of two subscribers one is full. Its refusal is the answer for both, so the other gets the
// event again with every try: there must be few.
func TestCalmFullSubscriber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const topic, full = "proof.event", "full"
		sim := newSimulation(t, 1, false, func(cfg *harebus.Config) { cfg.Subscriptions = []string{topic} })
		sim.start(t)
		sim.fill(t, topic, full)
		for i := range 10 {
			if err := sim.service.Publish(t.Context(), topic, sim.work(0, i, proof.Plain)); err == nil {
				t.Error("HONESTFAIL: a subscriber has refused the event, and the call returned nil")
			}
		}
		expect := sim.service.Expect()
		expect.MaxCopies = 3
		if verdict := sim.finish(t, expect); len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
	})
}

// fill subscribes a queue to a topic that has no room for anything.
func (s *simulation) fill(t *testing.T, topic, queue string) {
	t.Helper()
	conn, err := amqp.DialConfig(s.broker.URL(), amqp.Config{Dial: s.broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	_, err = ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(queue, topic, "PikaBusTopic", false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Publish("", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent}); err != nil {
		t.Fatal(err)
	}
	filled := func(q brokertest.Queue) bool { return q.Ready == 1 }
	if err := s.broker.WaitQueue(t.Context(), queue, filled); err != nil {
		t.Fatal(err)
	}
}

// TestCalmClocks: the receiver's clock is five minutes behind that of a sender. Its
// deferred message comes when the broker says that it is due.
func TestCalmClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulation(t, 1, false)
		sim.start(t)
		const delay = 2 * time.Second
		if err := sim.service.Send(t.Context(), sim.work(0, 0, proof.Later), delay); err != nil { // which declares
			t.Fatal(err)
		}
		w := sim.work(0, 1, proof.Later)
		body, err := harebus.JSON{}.Encode(w)
		if err != nil {
			t.Fatal(err)
		}
		due := time.Now().Add(delay)
		sim.service.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: w.ID, Key: w.Key, Seq: w.Seq, Sum: ledger.Sum(body), Due: due})
		sim.deferRaw(t, delay, amqp.Publishing{
			MessageId: w.ID, Type: w.MessageType(), ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: body,
			Headers: amqp.Table{"PikaBus.DeferredTime": due.Add(5 * time.Minute).UTC().Format(time.RFC3339Nano)},
		})
		sim.service.Book.Record(ledger.Event{Op: ledger.SendOK, ID: w.ID})
		expect := sim.service.Expect()
		expect.Late = time.Second
		if verdict := sim.finish(t, expect); len(verdict.Violations) > 0 {
			t.Error(verdict)
		}
	})
}

// deferRaw has a plain client send a message into the delay queues.
func (s *simulation) deferRaw(t *testing.T, delay time.Duration, m amqp.Publishing) {
	t.Helper()
	way, err := topology.Delays{}.Route(delay, "", "proof")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := amqp.DialConfig(s.broker.URL(), amqp.Config{Dial: s.broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	labels := make([]any, len(way.CC))
	for i, label := range way.CC {
		labels[i] = label
	}
	m.Headers["CC"] = labels
	confirm, err := ch.PublishWithDeferredConfirm(way.Exchange, way.Key, true, false, m)
	if err != nil || !confirm.Wait() {
		t.Fatalf("not confirmed: %v", err)
	}
}

// look takes all that waits and all that is parked and gives it back.
func (s *simulation) look(t *testing.T) {
	t.Helper()
	conn, err := amqp.DialConfig(s.broker.URL(), amqp.Config{Dial: s.broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // which gives everything back
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range s.broker.Queues() {
		if q.Name != "proof.error" && !strings.HasPrefix(q.Name, "harebus.delay.") {
			continue
		}
		for found := true; found; {
			if _, found, err = ch.Get(q.Name, false); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type simulation struct {
	t       *testing.T
	rng     *rand.Rand
	seed    uint64
	broker  *brokertest.Broker
	service *proof.Service
	faults  []string
	slow    time.Duration // what each handler takes beside the usual
	vault   *vault        // of a sealed schedule

	observed atomic.Int64 // operations
}

func newSimulation(t *testing.T, seed uint64, loud bool, changes ...func(*harebus.Config)) *simulation {
	t.Helper()
	opts := []brokertest.Option{brokertest.WithSeed(seed), brokertest.WithDeadLetterRetry(time.Second), brokertest.WithDeliveryLimit(20)}
	if loud {
		opts = append(opts, brokertest.WithLog(func(format string, args ...any) {
			t.Logf(time.Now().Format("05.000000 ")+format, args...)
		}))
	}
	if seed%5 == 0 {
		opts = append(opts, brokertest.WithFrameMax(8192), brokertest.WithChannelMax(8))
	}
	s := &simulation{t: t, rng: rand.New(rand.NewPCG(seed, 1)), seed: seed, broker: brokertest.New(opts...)} //nolint:gosec // repeatable on purpose
	cfg := harebus.Config{
		URL: s.broker.URL(), Dial: s.broker.Dial, Queue: "proof",
		ErrorQueue: harebus.ErrorQueueConfig{Name: "proof.error"},
		Consume:    harebus.ConsumeConfig{Concurrency: 1 + s.rng.IntN(4), Prefetch: 4 + s.rng.IntN(20)},
		Publish:    harebus.PublishConfig{Channels: 1 + s.rng.IntN(3), Window: 1 + s.rng.IntN(50)},
		Retry: harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff {
			return backoff.NewConstantBackOff(time.Second)
		}},
	}
	if seed%2 == 0 {
		cfg.Connect.Heartbeat = 5 * time.Second // a frozen broker is noticed
	}
	for _, change := range changes {
		change(&cfg)
	}
	options := proof.Options{Others: others(seed), Pause: time.Second, Linger: 3 * time.Minute, Gate: func(w proof.Work) {
		time.Sleep(s.slow + time.Duration(10+w.Seq%3*150)*time.Millisecond) // virtual: some handlers outlive a reconnect
	}, Observe: s.observe}
	if sealed(seed) {
		s.seal(&cfg, &options)
	}
	var err error
	s.service, err = proof.NewService(cfg, ledger.NewBook(), options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// others are more endpoints: two of three seeds have one.
func others(seed uint64) []harebus.EndpointConfig {
	if seed%3 == 1 {
		return nil
	}
	other := harebus.EndpointConfig{
		Queue: "other", ErrorQueue: harebus.ErrorQueueConfig{Name: "other.error"},
		Consume: harebus.ConsumeConfig{Concurrency: 1 + int(seed%4), Consumers: 1 + int(seed%7)/6}, //nolint:gosec // small
	}
	if seed%4 == 0 {
		other.QueueOptions.Type = topology.Classic
	}
	return []harebus.EndpointConfig{other}
}

// observe is an observer that panics now and then.
func (s *simulation) observe(harebus.Operation) {
	if s.observed.Add(1)%17 == 0 {
		panic("the observer panics")
	}
}

func (s *simulation) start(t *testing.T) {
	t.Helper()
	t.Cleanup(s.broker.Close)
	if err := s.service.Setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// run sends messages while faults happen, heals, waits for quiet and drains.
func (s *simulation) run(t *testing.T) *ledger.Verdict {
	t.Helper()
	s.start(t)
	ctx := t.Context()
	var producers sync.WaitGroup
	for p := range 3 {
		producer := rand.New(rand.NewPCG(s.rng.Uint64(), uint64(p))) //nolint:gosec // repeatable on purpose
		producers.Go(func() { s.produce(ctx, p, producer) })
	}
	var operators sync.WaitGroup
	quiet := make(chan struct{})
	if s.vault != nil {
		producers.Go(func() { s.vault.trouble(ctx, s) })
	}
	for i, e := range s.service.Others {
		operator := rand.New(rand.NewPCG(s.seed, uint64(1000+i))) //nolint:gosec // repeatable on purpose
		operators.Go(func() { s.operate(ctx, e, operator, quiet) })
	}
	done := make(chan struct{})
	go func() { // from here on the seed's source belongs to the faults
		defer close(done)
		s.disturb()
	}()
	producers.Wait()
	<-done
	close(quiet)
	operators.Wait()
	s.checkLiveness(t)
	expect := s.service.Expect()
	expect.Innocent = true
	return s.finish(t, expect)
}

// finish waits for quiet, stops the service, drains and judges.
func (s *simulation) finish(t *testing.T, expect ledger.Expect) *ledger.Verdict {
	t.Helper()
	ctx := t.Context()
	if err := s.service.Settle(ctx, 10*time.Minute); err != nil {
		t.Error(err)
	}
	if err := s.service.Setup.Stop(ctx); err != nil {
		t.Error(err)
	}
	conn, err := amqp.DialConfig(s.broker.URL(), amqp.Config{Dial: s.broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := s.service.Drain(conn); err != nil {
		t.Error(err)
	}
	return s.service.Book.Verdict(expect)
}

// checkLiveness sends a few messages when all faults are over: they must get
// through.
func (s *simulation) checkLiveness(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for i := range 5 {
		if err := s.service.Send(ctx, s.work(99, i, proof.Plain), 0); err != nil {
			t.Errorf("LIVENESS: seed %d, faults %s: after all faults: %v", s.seed, strings.Join(s.faults, ", "), err)
		}
	}
}

func (s *simulation) produce(ctx context.Context, p int, rng *rand.Rand) {
	const messages = 12
	kinds := []proof.Kind{proof.Plain, proof.Plain, proof.Parent, proof.Flaky, proof.Failing, proof.Later, proof.Later}
	var background sync.WaitGroup
	defer background.Wait()
	for seq := 0; seq < messages; seq++ {
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		w := s.work(p, seq, kinds[rng.IntN(len(kinds))])
		switch {
		case w.Kind == proof.Later && rng.IntN(2) == 0: // cancelled in time, or just so, or too late
			delay := time.Duration(1+rng.IntN(20_000)) * time.Millisecond
			after := time.Duration(rng.Int64N(int64(delay + delay/4)))
			background.Go(func() { _ = s.service.SendAndCancel(ctx, w, delay, after) })
		case w.Kind == proof.Later:
			_ = s.service.Send(ctx, w, time.Duration(rng.IntN(5000))*time.Millisecond)
		case rng.IntN(4) == 0:
			together := []proof.Work{w, s.work(p, seq+1, proof.Plain), s.work(p, seq+2, proof.Parent)}
			seq += 2
			_ = s.service.SendTogether(ctx, together, rng.IntN(3) > 0)
		default:
			short, cancel := context.WithTimeout(ctx, time.Duration(50+rng.IntN(20_000))*time.Millisecond)
			_ = s.service.Send(short, w, 0)
			cancel()
		}
	}
}

func (s *simulation) work(p, seq int, kind proof.Kind) proof.Work {
	w := proof.Work{ID: proof.NewID(fmt.Sprintf("s%d", s.seed), p, seq, kind), Key: fmt.Sprint(p), Seq: seq, Kind: kind}
	if s.vault != nil {
		w.Pad = canary
	}
	return w
}

// operate changes the concurrency of one endpoint and pauses it, again and again, until all
// is quiet. The service may be stopped or without a connection meanwhile.
func (s *simulation) operate(ctx context.Context, e *harebus.Endpoint, rng *rand.Rand, quiet <-chan struct{}) {
	for {
		select {
		case <-quiet:
			return
		case <-time.After(time.Duration(rng.IntN(1500)) * time.Millisecond):
		}
		if rng.IntN(3) > 0 {
			concurrency := 1 + rng.IntN(6)
			if err := e.SetConcurrency(concurrency, concurrency+rng.IntN(20)); err != nil {
				s.t.Errorf("LIVENESS: set concurrency: %v", err)
			}
			continue
		}
		s.pauseAWhile(ctx, e, time.Duration(rng.IntN(2000))*time.Millisecond)
	}
}

// pauseAWhile pauses an endpoint. Its handlers may take longer to end than it waits for
// them; the pause holds all the same.
func (s *simulation) pauseAWhile(ctx context.Context, e *harebus.Endpoint, d time.Duration) {
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_ = e.Pause(short) // the service may be stopped
	time.Sleep(d)      // virtual
	if err := e.Resume(); err != nil && !errors.Is(err, harebus.ErrNotStarted) {
		s.t.Errorf("LIVENESS: resume: %v", err)
	}
}

// disturb makes a few faults happen, one after the other, and takes them back.
func (s *simulation) disturb() {
	for range 1 + s.rng.IntN(4) {
		time.Sleep(time.Duration(s.rng.IntN(2000)) * time.Millisecond)
		fault := faults[s.rng.IntN(len(faults))]
		s.faults = append(s.faults, fault.name)
		fault.happen(s)
	}
}

func (s *simulation) pause(most time.Duration) {
	time.Sleep(time.Duration(s.rng.Int64N(int64(most))))
}

// inject puts a fault to work for a while.
func (s *simulation) inject(f brokertest.Fault) {
	f.Nth = 1 + s.rng.IntN(5)
	injection := s.broker.Inject(f)
	s.pause(3 * time.Second)
	injection.Remove()
	injection.Release()
}

// refuse has the broker refuse methods, until the function it returns is called.
func (s *simulation) refuse(match func(brokertest.Frame) bool, methods ...string) func() {
	var injections []*brokertest.Injection
	for _, m := range methods {
		injections = append(injections, s.broker.Inject(brokertest.Fault{
			On: m, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Times: -1, Match: match,
		}))
	}
	return func() {
		for _, i := range injections {
			i.Remove()
		}
	}
}

var faults = []struct {
	name   string
	happen func(s *simulation)
}{
	{"cut connections", func(s *simulation) { s.broker.CutConnections() }},
	{"flapping network", func(s *simulation) {
		for range 8 {
			s.broker.CutConnections()
			s.pause(400 * time.Millisecond)
		}
	}},
	{"close connections", func(s *simulation) { s.broker.CloseConnections("shutdown") }},
	{"restart", func(s *simulation) { s.broker.Restart() }},
	{"outage", func(s *simulation) {
		s.broker.Refuse(time.Duration(s.rng.IntN(10_000)) * time.Millisecond)
		s.broker.CutConnections()
	}},
	{"block", func(s *simulation) {
		s.broker.Block("memory")
		s.pause(40 * time.Second)
		s.broker.Unblock()
	}},
	{"freeze", func(s *simulation) {
		s.broker.Freeze(time.Minute)
		s.pause(2 * time.Minute)
	}},
	{"restart the service by the dozen", func(s *simulation) {
		for range 12 + s.rng.IntN(20) {
			s.pause(500 * time.Millisecond)
			if err := s.service.Setup.Stop(s.t.Context()); err != nil {
				s.t.Errorf("LIVENESS: stop: %v", err)
			}
			if err := s.service.Setup.Start(s.t.Context()); err != nil {
				s.t.Errorf("LIVENESS: start: %v", err)
			}
		}
	}},
	{"refuse a subscription", func(s *simulation) {
		refused := s.refuse(func(f brokertest.Frame) bool { return f.RoutingKey == "secret.#" }, "queue.bind")
		if err := s.service.Setup.Subscribe(s.t.Context(), "secret.#"); err == nil {
			s.t.Error("HONESTFAIL: a subscription that the broker refuses returned nil")
		}
		s.pause(3 * time.Minute)
		refused()
	}},
	{"revoke rights", func(s *simulation) {
		refused := s.refuse(nil, "queue.declare", "queue.bind", "exchange.declare")
		if s.rng.IntN(2) == 0 {
			s.broker.CutConnections()
		}
		s.pause(3 * time.Minute)
		refused()
	}},
	{"cancel consumers", func(s *simulation) {
		for _, queue := range s.service.Queues() {
			_ = s.broker.CancelConsumers(queue)
		}
	}},
	{"cut before publish", func(s *simulation) { s.inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutBefore}) }},
	{"cut after publish", func(s *simulation) { s.inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter}) }},
	{"cut before ack", func(s *simulation) { s.inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore}) }},
	{"cut after ack", func(s *simulation) { s.inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutAfter}) }},
	{"cut at delivery", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.CutAfter})
	}},
	{"drop confirms", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Drop, Times: 1 + s.rng.IntN(3)})
	}},
	{"hold confirms", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Hold, Times: 1 + s.rng.IntN(9)})
	}},
	{"delay confirms", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Delay, For: 8 * time.Second, Times: 1 + s.rng.IntN(9)})
	}},
	{"nack", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Nack, Times: 1 + s.rng.IntN(9)})
	}},
	{"nack for ever on one channel", func(s *simulation) {
		var sticky string // the channel, until it is closed: its number may be used again
		name := func(f brokertest.Frame) string { return fmt.Sprint(f.Connection, f.Channel) }
		s.broker.Inject(brokertest.Fault{On: "channel.close", Do: brokertest.Delay, Times: -1, Match: func(f brokertest.Frame) bool {
			if sticky == name(f) {
				sticky = "closed"
			}
			return false
		}})
		s.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Nack, Times: -1, Match: func(f brokertest.Frame) bool {
			if sticky == "" {
				sticky = name(f)
			}
			return sticky == name(f)
		}})
	}},
	{"return", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Return, Times: 1 + s.rng.IntN(9)})
	}},
	{"channel error on publish", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED"})
	}},
	{"connection error on publish", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 541, Text: "INTERNAL_ERROR"})
	}},
	{"channel error on ack", func(s *simulation) {
		s.inject(brokertest.Fault{On: "basic.ack", Do: brokertest.Raise, Code: 406, Text: "PRECONDITION_FAILED"})
	}},
}
