package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// What a service declares by default is what a PikaBus service would declare, so that either may come first.
func TestDefaultTopology(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	cfg := harebus.Config{URL: p.url, Queue: "orders", Subscriptions: []string{"payment.*"}}
	_, in := p.service(cfg)

	exchanges := rows(p.ctl("list_exchanges", "-p", p.name, "name", "type", "durable", "auto_delete", "internal", "arguments"))
	for _, want := range []string{"PikaBusDirect\tdirect\ttrue\tfalse\tfalse\t[]", "PikaBusTopic\ttopic\ttrue\tfalse\tfalse\t[]"} {
		if !slices.Contains(exchanges, want) {
			t.Errorf("no exchange %q among %q", want, exchanges)
		}
	}
	bindings := rows(p.ctl("list_bindings", "-p", p.name, "source_name", "destination_name", "routing_key", "arguments"))
	for _, want := range []string{
		"PikaBusDirect\torders\torders\t[]", "PikaBusTopic\torders\tpayment.*\t[]", "PikaBusDirect\terror\terror\t[]",
	} {
		if !slices.Contains(bindings, want) {
			t.Errorf("no binding %q among %q", want, bindings)
		}
	}
	queues := rows(p.ctl("list_queues", "-p", p.name, "name", "type", "durable", "auto_delete"))
	for _, want := range []string{"orders\tquorum\ttrue\tfalse", "error\tquorum\ttrue\tfalse"} {
		if !slices.Contains(queues, want) {
			t.Errorf("no queue %q among %q", want, queues)
		}
	}

	b := p.broker()
	args := amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": int64(20), "x-overflow": "reject-publish",
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "error", "x-dead-letter-strategy": "at-least-once",
	}
	declare := func(name string, args amqp.Table) func(*amqp.Channel) error {
		return func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, true, false, false, false, args)
			return err
		}
	}
	if code := b.refusal(declare("orders", args)); code != 0 {
		t.Errorf("the listener queue has not the documented arguments: %d", code)
	}
	for key := range args {
		fewer := amqp.Table{}
		for k, v := range args {
			if k != key {
				fewer[k] = v
			}
		}
		if code := b.refusal(declare("orders", fewer)); code != amqp.PreconditionFailed {
			t.Errorf("the listener queue seems to lack %s: redeclared without it gives %d", key, code)
		}
	}
	if code := b.refusal(declare("error", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int64(1_000_000)})); code != 0 {
		t.Errorf("the error queue has not the documented arguments: %d", code)
	}
	b.publish("PikaBusTopic", "payment.made", amqp.Publishing{MessageId: "event"})
	b.publish("PikaBusDirect", "orders", amqp.Publishing{MessageId: "command"})
	in.await(p, 2)
}

// With PikaBus services in the virtual host the error queue has to be as they declare it.
func TestClassicErrorQueueIsThatOfPeers(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	p.service(harebus.Config{URL: p.url, Queue: "orders", ErrorQueue: harebus.ErrorQueueConfig{Type: topology.Classic}})
	for generation, args := range map[string]amqp.Table{"2.x": nil, "1.x": {"ha-mode": "all"}} {
		if code := p.broker().refusal(func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("error", true, false, false, false, args)
			return err
		}); code != 0 {
			t.Errorf("a PikaBus %s service could not declare the error queue: %d", generation, code)
		}
	}
}

// rows are the lines of a table that rabbitmqctl printed, without carriage returns and the heading.
func rows(output string) []string {
	return strings.Split(strings.ReplaceAll(strings.TrimSpace(output), "\r", ""), "\n")
}

// A service takes over a queue of a PikaBus service, with the messages in it.
func TestClassicQueueTakesOverAnExistingOne(t *testing.T) {
	t.Parallel()
	for generation, args := range map[string]amqp.Table{"2.x": nil, "1.x": {"ha-mode": "all"}} {
		t.Run(generation, func(t *testing.T) {
			t.Parallel()
			p := shared(t)
			cfg := p.config("a")
			cfg.QueueOptions.Type = topology.Classic
			b := p.broker()
			b.declareQueue(cfg.Queue, args)
			b.publish("", cfg.Queue, amqp.Publishing{MessageId: "old", DeliveryMode: amqp.Persistent})
			s, in := p.service(cfg)
			in.awaitID(p, "old")
			p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithMessageID("new")))
			in.awaitID(p, "new")
		})
	}
}

// Arguments can be added, changed and taken away.
func TestQueueArguments(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.QueueOptions.Arguments = map[string]any{"x-max-length": 1000, "x-delivery-limit": 7, "x-dead-letter-strategy": nil}
	p.service(cfg)
	b := p.broker()
	if code := b.refusal(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(cfg.Queue, true, false, false, false, amqp.Table{
			"x-queue-type": "quorum", "x-delivery-limit": int64(7), "x-overflow": "reject-publish", "x-max-length": int64(1000),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": cfg.ErrorQueue.Name,
		})
		return err
	}); code != 0 {
		t.Errorf("redeclared with these arguments: %d", code)
	}
}

// The error queue belongs to all services: one that is there with other properties is used as it is.
func TestErrorQueueThatExistsIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	b := p.broker()
	b.declareQueue(cfg.ErrorQueue.Name, amqp.Table{"x-queue-type": "quorum"})
	log := p.journal(cfg.Queue)
	cfg.Logger = log.logger()
	s := p.setup(cfg)
	s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error {
		return harebus.NoRetry(errors.New("no"))
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithMessageID("bad")))
	if d := b.take(cfg.ErrorQueue.Name, 1)[0]; d.MessageId != "bad" {
		t.Errorf("parked %q", d.MessageId)
	}
	b.publish("PikaBusDirect", cfg.ErrorQueue.Name, amqp.Publishing{MessageId: "from a peer"}) // it is bound
	if !strings.Contains(log.text(), "the error queue exists with other properties") {
		t.Error("it does not say so")
	}
}

func TestConfigTopologyIsDeclared(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Declare.Topology = topology.Topology{
		Exchanges: []topology.Exchange{{Name: p.name + ".match", Kind: topology.Headers}},
		Queues:    []topology.Queue{{Name: p.queue("audit"), Type: topology.Classic}},
		Bindings: []topology.Binding{
			{Exchange: p.name + ".match", Queue: cfg.Queue, Arguments: map[string]any{"x-match": "all", "tenant": "north"}},
			{Exchange: p.name + ".match", Queue: p.queue("audit"), Arguments: map[string]any{"x-match": "all", "tenant": "south"}},
		},
	}
	s, in := p.service(cfg)
	b := p.broker()
	t.Cleanup(func() { b.deleteExchange(p.name + ".match"); b.deleteQueue(p.queue("audit")) })
	for _, tenant := range []string{"north", "south"} {
		p.try(s.Bus().Publish(p.within(patience), "whatever", note{1}, harebus.WithExchange(p.name+".match"),
			harebus.WithHeader("tenant", tenant), harebus.WithMessageID(tenant)))
	}
	in.awaitID(p, "north")
	if d := b.take(p.queue("audit"), 1)[0]; d.MessageId != "south" {
		t.Errorf("got %q", d.MessageId)
	}
	p.is(s.Bus().Publish(p.within(patience), "whatever", note{1}, harebus.WithExchange(p.name+".match")), harebus.ErrUnroutable)
}

func TestSubscribeWhileRunning(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	topic := func(s string) string { return p.name + "." + s }
	cfg.Subscriptions = []string{topic("configured")}
	s, in := p.service(cfg)
	ctx := p.within(patience)
	bus := s.Bus()
	publish := func(topic string) error { return bus.Publish(ctx, topic, note{1}, harebus.WithMessageID(topic)) }

	p.try(publish(topic("configured")))
	p.is(publish(topic("one")), harebus.ErrUnroutable)
	p.try(s.Subscribe(ctx, topic("one")))
	p.try(s.Subscribe(ctx, topic("two.*"), topic("three.#")))
	p.try(publish(topic("one")))
	p.try(publish(topic("two.x")))
	p.try(publish(topic("three.x.y")))
	p.try(publish(topic("three")))
	in.await(p, 5)

	p.try(s.Unsubscribe(ctx, topic("one"), topic("three.#")))
	p.try(s.Unsubscribe(ctx, topic("never subscribed")))
	p.is(publish(topic("one")), harebus.ErrUnroutable)
	p.is(publish(topic("three.x.y")), harebus.ErrUnroutable)
	p.try(publish(topic("two.y")))
	p.is(s.Subscribe(ctx, strings.Repeat("x", 256)), harebus.ErrRefused)

	// What was subscribed is bound again when the queue vanishes, and what was unsubscribed is not.
	p.broker().deleteQueue(cfg.Queue)
	p.eventually(soon, func() error { return publish(topic("two.z")) })
	p.try(publish(topic("configured")))
	p.is(publish(topic("one")), harebus.ErrUnroutable)
	in.awaitID(p, topic("two.z"))
}

// If the broker refuses one topic of hundreds, Subscribe and Unsubscribe change nothing.
func TestOneOfManyTopicsIsRefused(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	cfg := p.config("a")
	user := p.name
	p.ctl("add_user", user, "secret")
	t.Cleanup(func() {
		if _, err := p.node.Ctl(context.Background(), "delete_user", user); err != nil {
			t.Error(err)
		}
	})
	p.ctl("set_permissions", "-p", p.name, user, ".*", ".*", ".*")
	may := func(read string) {
		p.ctl("set_topic_permissions", "-p", p.name, user, "PikaBusTopic", ".*", read)
	}
	cfg.URL, cfg.Subscriptions = p.withUser(user, "secret"), []string{"open.7"}
	s, _ := p.service(cfg)
	topics := make([]string, 400)
	for n := range topics {
		topics[n] = fmt.Sprint("open.", n)
	}
	topics[150] = "closed"
	bound := func(want int) {
		t.Helper()
		list := p.ctl("list_bindings", "-q", "-p", p.name, "source_name", "routing_key")
		if n := strings.Count(list, "PikaBusTopic"); n != want {
			t.Errorf("%d topics are bound, want %d", n, want)
		}
	}
	ctx := p.within(4 * patience)

	may("^open")
	p.mentions(s.Subscribe(ctx, topics...), "ACCESS_REFUSED", "closed")
	bound(1)
	may(".*")
	p.try(s.Subscribe(ctx, topics...))
	bound(400)
	may("^open")
	p.mentions(s.Unsubscribe(ctx, topics...), "ACCESS_REFUSED", "closed")
	bound(400)
	may(".*")
	p.try(s.Unsubscribe(ctx, topics...))
	bound(0)
}

func TestSubscribeWithArguments(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Exchanges.Direct, cfg.Exchanges.Topic = p.name+".direct", p.name+".topic"
	s, in := p.service(cfg)
	b := p.broker()
	t.Cleanup(func() { b.deleteExchange(cfg.Exchanges.Direct); b.deleteExchange(cfg.Exchanges.Topic) })
	ctx := p.within(patience)
	p.try(s.SubscribeWith(ctx, map[string]any{"x-some": "argument"}, "a.topic"))
	p.try(s.Bus().Publish(ctx, "a.topic", note{1}))
	in.await(p, 1)
	// Only the same arguments unbind it.
	b.must(func(ch *amqp.Channel) error {
		return ch.QueueUnbind(cfg.Queue, "a.topic", cfg.Exchanges.Topic, amqp.Table{"x-some": "argument"})
	})
	p.is(s.Bus().Publish(ctx, "a.topic", note{2}), harebus.ErrUnroutable)
}

// Whatever somebody deletes is there again, and what comes afterwards arrives.
func TestVanishedTopologyIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		deletions := map[string]func(b *broker, cfg harebus.Config){
			"queue":           func(b *broker, cfg harebus.Config) { b.deleteQueue(cfg.Queue) },
			"direct exchange": func(b *broker, cfg harebus.Config) { b.deleteExchange(cfg.Exchanges.Direct) },
			"topic exchange":  func(b *broker, cfg harebus.Config) { b.deleteExchange(cfg.Exchanges.Topic) },
			"everything": func(b *broker, cfg harebus.Config) {
				b.deleteExchange(cfg.Exchanges.Direct)
				b.deleteExchange(cfg.Exchanges.Topic)
				b.deleteQueue(cfg.Queue)
			},
		}
		for name, remove := range deletions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := shared(t)
				cfg := p.ownExchanges(p.config("a"))
				cfg.QueueOptions.Type = queueType
				cfg.Subscriptions = []string{"news.#"}
				s, in := p.service(cfg)
				b := p.broker()
				t.Cleanup(func() { b.deleteExchange(cfg.Exchanges.Direct); b.deleteExchange(cfg.Exchanges.Topic) })
				ctx := p.within(4 * patience)
				p.try(s.Bus().Send(ctx, cfg.Queue, note{1}))
				p.try(s.Bus().Publish(ctx, "news.today", note{2}))
				in.await(p, 2)

				remove(b, cfg)
				n := 100
				arrives := func(how string, send func(id string) error) {
					p.eventually(patience, func() error {
						n++
						id := fmt.Sprint(how, n)
						if err := send(id); err != nil {
							return err
						}
						in.awaitID(p, id) // it was confirmed
						return nil
					})
				}
				arrives("command", func(id string) error {
					return s.Bus().Send(ctx, cfg.Queue, note{n}, harebus.WithMessageID(id))
				})
				arrives("event", func(id string) error {
					return s.Bus().Publish(ctx, "news.again", note{n}, harebus.WithMessageID(id))
				})
				p.ready(s, soon)
			})
		}
	})
}

// Bindings that somebody removes are back with the next connection at the latest; commands arrive all the time.
func TestVanishedBindings(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.ownExchanges(p.config("a"))
	cfg.URL = p.over(way)
	cfg.Subscriptions = []string{"news.#"}
	s, in := p.service(cfg)
	b := p.broker()
	t.Cleanup(func() { b.deleteExchange(cfg.Exchanges.Direct); b.deleteExchange(cfg.Exchanges.Topic) })
	b.must(func(ch *amqp.Channel) error {
		return errors.Join(ch.QueueUnbind(cfg.Queue, cfg.Queue, cfg.Exchanges.Direct, nil),
			ch.QueueUnbind(cfg.Queue, "news.#", cfg.Exchanges.Topic, nil))
	})
	ctx := p.within(patience)
	p.try(s.Bus().Send(ctx, cfg.Queue, note{1}, harebus.WithMessageID("command")))
	in.awaitID(p, "command")
	way.hiccup()
	p.eventually(soon, func() error { return s.Bus().Publish(ctx, "news.today", note{2}, harebus.WithMessageID("event")) })
	in.awaitID(p, "event")
	b.publish(cfg.Exchanges.Direct, cfg.Queue, amqp.Publishing{MessageId: "from a peer"})
	in.awaitID(p, "from a peer")
}

// A Send needs no binding at its destination: PikaBus 1.x services have none until somebody sends to them.
func TestSendReachesAQueueWithoutBinding(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		b := p.broker()
		b.declareQueue(p.queue("bare"), amqp.Table{"x-queue-type": string(queueType)})
		started := time.Now()
		p.try(p.bus().Send(p.within(patience), p.queue("bare"), note{1}))
		p.inTime("Send", started, soon)
		d := b.take(p.queue("bare"), 1)[0]
		if d.Exchange != "" || d.RoutingKey != p.queue("bare") {
			t.Errorf("it came through exchange %q with key %q", d.Exchange, d.RoutingKey)
		}
	})
}
