package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

func TestUnroutable(t *testing.T) {
	t.Parallel()
	p := shared(t)
	s, _ := p.service(p.config("a"))
	nowhere, topic := p.queue("nowhere"), p.name+".silence"
	calls := map[string]struct {
		call          func(ctx context.Context) error
		exchange, key string
	}{
		"send": {func(ctx context.Context) error {
			return s.Bus().Send(ctx, nowhere, note{1}, harebus.WithMessageID("mine"))
		}, "PikaBusDirect", nowhere},
		"publish": {func(ctx context.Context) error {
			return s.Bus().Publish(ctx, topic, note{1}, harebus.WithMessageID("mine"))
		}, "PikaBusTopic", topic},
		"defer": {func(ctx context.Context) error {
			return s.Bus().Defer(ctx, nowhere, time.Hour, note{1}, harebus.WithMessageID("mine"))
		}, "PikaBusDirect", nowhere},
		"send through another exchange": {func(ctx context.Context) error {
			return s.Bus().Send(ctx, nowhere, note{1}, harebus.WithMessageID("mine"), harebus.WithExchange("amq.direct"))
		}, "amq.direct", nowhere},
	}
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{T: t}
			started := time.Now()
			err := c.call(p.within(patience))
			p.inTime("the error", started, soon)
			p.is(err, harebus.ErrUnroutable)
			p.mentions(err, c.exchange, c.key)
			var failed *harebus.PublishError
			if !errors.As(err, &failed) {
				t.Fatalf("got %T", err)
			}
			want := harebus.PublishError{MessageID: "mine", Exchange: c.exchange, RoutingKey: c.key, Outcome: harebus.Returned, Err: failed.Err}
			if *failed != want {
				t.Errorf("got %#v\nwant %#v", *failed, want)
			}
		})
	}
	ctx := p.within(patience)
	p.try(s.Bus().Publish(ctx, topic, note{1}, harebus.NonMandatory()))
	p.try(s.Bus().Send(ctx, nowhere, note{1}, harebus.NonMandatory()))
}

// Unroutable messages among many others: each call gets its own outcome, whatever it shares a channel with.
func TestOutcomesAreNotMixedUp(t *testing.T) {
	t.Parallel()
	p := shared(t)
	s, in := p.service(p.config("a"))
	ctx := p.within(2 * patience)
	var wg sync.WaitGroup
	const goroutines, each = 20, 10
	for g := range goroutines {
		wg.Go(func() {
			for n := range each {
				id := fmt.Sprintf("%d-%d", g, n)
				if g%2 == 0 {
					if err := s.Bus().Send(ctx, p.queue("a"), note{n}, harebus.WithMessageID(id)); err != nil {
						t.Error(err)
					}
					continue
				}
				// All calls use the same id: only the broker's answers differ.
				err := s.Bus().Send(ctx, p.queue("nowhere"), note{n}, harebus.WithMessageID("0-0"), harebus.WithExchange("amq.direct"))
				if !errors.Is(err, harebus.ErrUnroutable) {
					t.Errorf("got %v", err)
				}
				if n == 1 {
					return // each costs a second of tries
				}
			}
		})
	}
	wg.Wait()
	in.await(p, goroutines/2*each)
	if s.Stats().Connections != 2 {
		t.Errorf("%d connections", s.Stats().Connections)
	}
}

func TestNackedByAFullQueue(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		b := p.broker()
		full := p.queue("full")
		b.declareQueue(full, amqp.Table{"x-queue-type": string(queueType), "x-max-length": 2, "x-overflow": "reject-publish"})
		bus := p.bus()
		ctx := p.within(patience)
		accepted := 0
		var err error
		for err == nil && accepted < 10 { // a quorum queue takes a few more before it says no
			err = bus.Send(ctx, full, note{accepted}, harebus.WithMessageID("mine"))
			if err == nil {
				accepted++
			}
		}
		p.is(err, harebus.ErrNacked)
		p.mentions(err, full)
		var failed *harebus.PublishError
		if !errors.As(err, &failed) || failed.MessageID != "mine" || failed.Outcome != harebus.Nacked {
			t.Errorf("got %#v", err)
		}
		for n, d := range b.take(full, accepted) {
			if got := number(p, &harebus.Message{Body: d.Body}); got != n {
				t.Errorf("message %d is %d", n, got)
			}
		}
		b.empty(full)
		p.try(bus.Send(ctx, full, note{0})) // there is room again
	})
}

// A queue that is full for a moment only delays a Send.
func TestNackedForAMomentOnly(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	full := p.queue("full")
	b.declareQueue(full, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	s := p.setup(p.config(""))
	ctx := p.within(patience)
	p.try(s.Bus().Send(ctx, full, note{0}))
	done := make(chan error, 1)
	go func() { done <- s.Bus().Send(ctx, full, note{1}) }()
	p.eventually(patience, func() error {
		if s.Stats().Republished == 0 {
			return errors.New("no second attempt")
		}
		return nil
	})
	b.take(full, 1)
	p.try(<-done)
	b.take(full, 1)
}

func TestMissingExchangeHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	p := shared(t)
	s, in := p.service(p.config("a"))
	ctx := p.within(patience)
	messages := p.stream(s.Bus(), p.queue("a"), 4)
	for range 10 {
		started := time.Now()
		err := s.Bus().Send(ctx, "x", note{1}, harebus.WithExchange(p.name+".missing"))
		p.is(err, harebus.ErrUnroutable)
		p.mentions(err, p.name+".missing", "does not exist")
		p.inTime("the error", started, soon)
		err = s.Bus().Defer(ctx, "x", time.Minute, note{1}, harebus.WithExchange(p.name+".missing"))
		p.is(err, harebus.ErrUnroutable)
	}
	messages.progress(p, 50, soon)
	messages.settle(p, in)
	if stats := s.Stats(); stats.Connections != 2 || stats.Republished != 0 {
		t.Errorf("others were harmed: %+v", stats)
	}
}

// What would close the channel or the connection is refused before it gets there.
func TestLocalRefusals(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Payload.MaxBody = 1 << 20
	s, in := p.service(cfg)
	bus, ctx, long := s.Bus(), p.within(patience), strings.Repeat("x", 256)
	send := func(opts ...harebus.SendOption) func() error {
		return func() error { return bus.Send(ctx, cfg.Queue, note{1}, opts...) }
	}
	many := map[string]any{}
	for n := range 200 {
		many[fmt.Sprint("x", n)] = strings.Repeat("y", 1000)
	}
	calls := map[string]func() error{
		"queue":           func() error { return bus.Send(ctx, long, note{1}) },
		"no queue":        func() error { return bus.Send(ctx, "", note{1}) },
		"topic":           func() error { return bus.Publish(ctx, long, note{1}) },
		"message id":      send(harebus.WithMessageID(long)),
		"correlation id":  send(harebus.WithCorrelationID(long)),
		"type":            send(harebus.WithType(long)),
		"reply address":   send(harebus.WithReplyTo(long)),
		"exchange":        send(harebus.WithExchange(long)),
		"header key":      send(harebus.WithHeader(long, 1)),
		"headers":         send(harebus.WithHeaders(many)),
		"NaN":             send(harebus.WithHeader("x", math.NaN())),
		"channel":         send(harebus.WithHeader("x", make(chan int))),
		"CC":              send(harebus.WithHeader("CC", []any{"elsewhere"})),
		"BCC":             send(harebus.WithHeader("BCC", []any{"elsewhere"})),
		"x-death":         send(harebus.WithHeader("x-death", "x")),
		"standard header": send(harebus.WithHeader("PikaBus.MessageId", "x")),
		"expiration":      send(harebus.WithExpiration(-time.Second)),
		"deferred expiring": func() error {
			return bus.Defer(ctx, cfg.Queue, time.Second, note{1}, harebus.WithExpiration(time.Second))
		},
		"delay":        func() error { return bus.Defer(ctx, cfg.Queue, -time.Second, note{1}) },
		"body":         func() error { return bus.Send(ctx, cfg.Queue, make([]byte, 2<<20)) },
		"not JSON":     func() error { return bus.Send(ctx, cfg.Queue, func() {}) },
		"content type": send(harebus.WithContentType("application/nonsense")),
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	p.is(bus.Reply(ctx, note{1}), harebus.ErrReplyOutsideHandler)
	p.try(bus.Send(ctx, cfg.Queue, note{1}, harebus.WithHeader("big", int(math.MaxInt64)), harebus.WithMessageID("good")))
	good := in.awaitID(p, "good")
	if good.Headers["big"] != int64(math.MaxInt64) {
		t.Errorf("an int arrived as %T %v", good.Headers["big"], good.Headers["big"])
	}
	if stats := s.Stats(); stats.Connections != 2 || stats.Republished != 0 || stats.Delivered != 1 {
		t.Errorf("%+v", stats)
	}
}

// The options arrive as what they say, and nobody's map is kept.
func TestOptionsArrive(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	target, other := p.queue("target"), p.name+".other"
	b.declareQueue(target, nil)
	b.declareExchange(other, "direct")
	b.bind(target, "key", other)
	headers := map[string]any{"custom": "x", "number": 7, "nested": map[string]any{"list": []any{1, "two", true}}}
	before := maps.Clone(headers)
	p.try(p.bus().Publish(p.within(patience), "key", note{1}, harebus.WithExchange(other), harebus.WithHeaders(headers),
		harebus.WithMessageID("id"), harebus.WithCorrelationID("conversation"), harebus.WithType("Other"), harebus.WithReplyTo("me"),
		harebus.WithPriority(4), harebus.WithExpiration(time.Hour), harebus.WithAppID("app-1")))
	if len(headers) != len(before) {
		t.Errorf("the caller's map has changed: %v", headers)
	}
	d := b.take(target, 1)[0]
	want := amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 4,
		CorrelationId: "conversation", ReplyTo: "me", Expiration: "3600000", MessageId: "id", Type: "Other", AppId: "app-1",
	}
	got := amqp.Publishing{
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId, Type: d.Type, AppId: d.AppId,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("properties %+v\nwant %+v", got, want)
	}
	if d.Exchange != other || d.RoutingKey != "key" {
		t.Errorf("it came through %q with key %q", d.Exchange, d.RoutingKey)
	}
	if d.Headers["custom"] != "x" || fmt.Sprint(d.Headers["number"]) != "7" || fmt.Sprint(d.Headers["nested"]) != "map[list:[1 two true]]" {
		t.Errorf("headers %v", d.Headers)
	}
}

// A message that has expired is gone from its queue; here the broker passes it on, so that it can be seen.
func TestExpiration(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		b := p.broker()
		b.declareQueue(p.queue("late"), nil)
		b.declareQueue(p.queue("a"), amqp.Table{
			"x-queue-type": string(queueType), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": p.queue("late"),
		})
		bus := p.bus()
		p.try(bus.Send(p.within(patience), p.queue("a"), note{1}, harebus.WithExpiration(50*time.Millisecond)))
		p.try(bus.Send(p.within(patience), p.queue("a"), note{2}, harebus.WithExpiration(time.Hour)))
		if d := b.take(p.queue("late"), 1)[0]; number(p, &harebus.Message{Body: d.Body}) != 1 {
			t.Errorf("expired: %s", d.Body)
		}
		if d := b.take(p.queue("a"), 1)[0]; number(p, &harebus.Message{Body: d.Body}) != 2 {
			t.Errorf("left: %s", d.Body)
		}
	})
}

func TestPriority(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.QueueOptions.Type, cfg.QueueOptions.Arguments = topology.Classic, map[string]any{"x-max-priority": 9}
	cfg.Consume.Concurrency, cfg.Consume.Prefetch = 1, 1
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, in.take)
	p.try(s.Init(p.within(patience)))
	for _, priority := range []uint8{1, 9, 0, 5} {
		p.try(p.bus().Send(p.within(patience), cfg.Queue, note{int(priority)}, harebus.WithPriority(priority)))
	}
	p.start(s)
	var order []int
	for _, a := range in.await(p, 4) {
		order = append(order, number(p, a.Message))
		if int(a.Properties.Priority) != number(p, a.Message) {
			t.Errorf("message %d has priority %d", number(p, a.Message), a.Properties.Priority)
		}
	}
	if !slices.Equal(order, []int{9, 5, 1, 0}) {
		t.Errorf("handled in the order %v", order)
	}
}

func TestManyGoroutines(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		cfg.Publish.Channels, cfg.Publish.Window = 3, 7
		cfg.Subscriptions = []string{p.name + ".#"}
		s, in := p.service(cfg)
		bus := s.Bus()
		ctx := p.within(8 * patience)
		const goroutines, each = 50, 20
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for n := range each {
					id := fmt.Sprintf("%d-%d", g, n)
					var err error
					switch n % 4 {
					case 0:
						err = bus.Send(ctx, cfg.Queue, note{n}, harebus.WithMessageID(id))
					case 1:
						err = bus.Publish(ctx, p.name+".x", note{n}, harebus.WithMessageID(id))
					case 2:
						err = bus.Defer(ctx, cfg.Queue, time.Millisecond, note{n}, harebus.WithMessageID(id))
					default:
						err = bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
							return tx.Send(ctx, cfg.Queue, note{n}, harebus.WithMessageID(id))
						})
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		in.awaitWithin(p, goroutines*each, 4*patience)
		for id, copies := range in.copies() {
			if copies != 1 {
				t.Errorf("message %q came %d times", id, copies)
			}
		}
		if got := len(in.copies()); got != goroutines*each {
			t.Errorf("%d different messages; want %d", got, goroutines*each)
		}
	})
}

// Reply goes where the message asks, with its correlation, and to nowhere it should not.
func TestReply(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("server")
	cfg.Reply.Policy = func(m *harebus.Message) error {
		if m.ReplyTo == p.queue("private") {
			return errors.New("that one is private")
		}
		return nil
	}
	server := p.setup(cfg)
	outcome := make(chan error, 1)
	server.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		err := bus.Reply(ctx, note{number(p, m) * 2})
		outcome <- err
		return harebus.NoRetry(err)
	})
	p.start(server)
	client, in := p.service(p.config("client"))
	ctx := p.within(patience)
	p.try(client.Bus().Send(ctx, cfg.Queue, note{21}, harebus.WithCorrelationID("question")))
	p.try(<-outcome)
	answer := in.await(p, 1)[0]
	if number(p, answer.Message) != 42 || answer.CorrelationID != "question" || answer.OriginatingAddress != cfg.Queue || answer.Intent != harebus.IntentCommand {
		t.Errorf("got %s from %q with correlation %q", answer.Body, answer.OriginatingAddress, answer.CorrelationID)
	}
	b := p.broker()
	for _, address := range []string{p.queue("private"), "amq.rabbitmq.trace", cfg.ErrorQueue.Name} {
		p.try(client.Bus().Send(ctx, cfg.Queue, note{1}, harebus.WithReplyTo(address)))
		p.is(<-outcome, harebus.ErrRefused)
		b.take(cfg.ErrorQueue.Name, 1)
	}
	body, err := json.Marshal(note{1})
	p.try(err)
	b.publish("", cfg.Queue, amqp.Publishing{Body: body, ContentType: "application/json"}) // nobody to reply to
	p.is(<-outcome, harebus.ErrNoReplyAddress)
	b.take(cfg.ErrorQueue.Name, 1)
}
