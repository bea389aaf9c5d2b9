package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

type placeOrder struct {
	ID   int  `json:"id"`
	Fail bool `json:"fail,omitempty"`
}

func (placeOrder) MessageType() string { return "PlaceOrder" }

type orderAccepted struct {
	ID int `json:"id"`
}

func (orderAccepted) MessageType() string { return "OrderAccepted" }

type orderPlaced struct {
	ID int `json:"id"`
}

func (orderPlaced) MessageType() string { return "OrderPlaced" }

// Two services on one bus, ours and one acted from captures of PikaBus, with the defaults of both: one pair of exchanges,
// one error queue. Each sends the other commands, events, replies, deferred messages and messages that fail.
func TestTwoServices(t *testing.T) {
	t.Parallel()
	for _, g := range generations {
		t.Run(string(g), func(t *testing.T) {
			t.Parallel()
			for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
				t.Run(string(queueType), func(t *testing.T) {
					t.Parallel()
					twoServices(t, g, queueType)
				})
			}
		})
	}
}

func twoServices(t *testing.T, g generation, queueType topology.QueueType) {
	p := vhosted(t)
	billing := p.peer(g, "billing")
	b := billing.broker
	b.bind("billing", "order.*", "PikaBusTopic")

	cfg := harebus.Config{
		URL: p.url, Queue: "orders", QueueOptions: harebus.QueueOptions{Type: queueType}, Subscriptions: []string{"payment.*"},
		Retry:      harebus.RetryConfig{BackOff: pauses(20 * time.Millisecond)},
		ErrorQueue: harebus.ErrorQueueConfig{Type: topology.Classic}, // PikaBus shares it
	}
	if g == pika1 {
		cfg.Payload.TimeFormat = harebus.TimeLegacy
	}
	orders := p.setup(cfg)
	replies, events, deferred := newInbox(), newInbox(), newInbox()
	attempts := make(chan int, 20)
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, cmd placeOrder) error {
		m := harebus.Incoming(ctx)
		if cmd.Fail {
			attempts <- m.Attempt
			return errors.New("out of stock")
		}
		if cmd.ID == 3 || !m.DeferredUntil.IsZero() { // 3 without DeferredUntil, if it became due while its way was declared
			deferred.add(m)
			return nil
		}
		if err := bus.Publish(ctx, "order.placed", orderPlaced{cmd.ID}); err != nil {
			return err
		}
		return bus.Reply(ctx, orderAccepted{cmd.ID})
	})
	orders.HandleMessage("Golden.Reply", replies.take)
	orders.HandleMessage("Golden.Event", events.take)
	p.start(orders)
	ctx := p.within(4 * patience) // the first Defer declares a hundred queues
	bus := orders.Bus()
	isOurs := amqp.Table{"PikaBus.OriginatingAddress": "orders", "PikaBus.ReplyToAddress": "orders"}
	as := func(name string) amqp.Table {
		return amqp.Table{"PikaBus.MessageType": name, "PikaBus.OriginatingAddress": "orders", "PikaBus.ReplyToAddress": "orders"}
	}

	// The peer sends a command; it gets a reply and an event.
	command := typed(billing.message("send", placeOrder{ID: 1}), "PlaceOrder")
	billing.send("orders", command)
	event := billing.nextOfType("OrderPlaced")
	billing.looksLike(event, "publish", as("OrderPlaced"), "PikaBus.CausationId") // a header that is ours alone
	if event.Exchange != "PikaBusTopic" || event.RoutingKey != "order.placed" {
		t.Errorf("the event came through %q with key %q", event.Exchange, event.RoutingKey)
	}
	reply := billing.nextOfType("OrderAccepted")
	billing.looksLike(reply, "reply", as("OrderAccepted"), "PikaBus.CausationId", "PikaBus.Hops")
	if reply.Exchange != "PikaBusDirect" && reply.Exchange != "" || reply.RoutingKey != "billing" {
		t.Errorf("the reply came through %q with key %q", reply.Exchange, reply.RoutingKey)
	}
	for _, d := range []amqp.Delivery{event, reply} {
		if d.Headers["PikaBus.CorrelationId"] != command.CorrelationId || string(d.Body) != `{"id":1}` {
			t.Errorf("%v answers with correlation %v: %s", d.Headers["PikaBus.MessageType"], d.Headers["PikaBus.CorrelationId"], d.Body)
		}
	}

	// We send a command; the peer replies.
	p.try(bus.Send(ctx, "billing", placeOrder{ID: 2}, harebus.WithType("Golden.Send"), harebus.WithCorrelationID("ours")))
	got, _ := billing.next()
	billing.looksLike(got, "send", isOurs)
	if got.Exchange != "PikaBusDirect" && got.Exchange != "" || got.RoutingKey != "billing" {
		t.Errorf("the command came through %q with key %q", got.Exchange, got.RoutingKey)
	}
	billing.reply(got, map[string]any{"answer": 42})
	answer := replies.await(p, 1)[0]
	if answer.CorrelationID != "ours" || answer.OriginatingAddress != "billing" || answer.Intent != harebus.IntentCommand || string(answer.Body) != `{"answer":42}` {
		t.Errorf("the reply is %+v", answer.Message)
	}

	// The peer publishes an event.
	published := billing.message("publish", nil)
	b.publish("PikaBusTopic", "payment.made", published)
	heard := events.await(p, 1)[0]
	if heard.ID != published.MessageId || heard.Intent != harebus.IntentEvent || heard.RoutingKey != "payment.made" ||
		heard.ReplyTo != "billing" || heard.ContentType != "application/json" || heard.ContentEncoding != "utf-8" || heard.TimeSent.IsZero() {
		t.Errorf("the event is %+v", heard.Message)
	}

	// The peer defers a command to us: it sends at once and leaves the waiting to us.
	later := typed(billing.message("defer", placeOrder{ID: 3}), "PlaceOrder")
	later.Headers["PikaBus.DeferredTime"] = g.time(time.Now().Add(1500 * time.Millisecond))
	due := g.read(p, later.Headers["PikaBus.DeferredTime"])
	billing.send("orders", later)
	if a := deferred.await(p, 1)[0]; a.at.Before(due) || a.ID != later.MessageId {
		t.Errorf("message %q came %v early", a.ID, due.Sub(a.at))
	}

	// We defer a command to the peer: it comes when it is due, so that the peer never has to turn it round.
	asked := time.Now()
	p.try(bus.Defer(ctx, "billing", 1200*time.Millisecond, placeOrder{ID: 4}, harebus.WithType("Golden.Defer")))
	got, bounced := billing.next()
	if bounced != 0 || time.Since(asked) < 1200*time.Millisecond {
		t.Errorf("it came after %v and was bounced %d times", time.Since(asked), bounced)
	}
	for key := range got.Headers { // what the way left; a peer keeps it and does not look at it
		if strings.HasPrefix(key, "x-") || key == "CC" && !strings.HasPrefix(p.node.Version(), "3.") {
			delete(got.Headers, key)
		}
	}
	billing.looksLike(got, "defer", as("Golden.Defer"))

	// A command of the peer's fails with us: six attempts, then the error queue both share.
	bad := typed(billing.message("send", placeOrder{ID: 5, Fail: true}), "PlaceOrder")
	billing.send("orders", bad)
	for want := 1; want <= 6; want++ {
		if attempt := <-attempts; attempt != want {
			t.Errorf("attempt %d; want %d", attempt, want)
		}
	}
	parked := b.take("error", 1)[0]
	failed := peer{p, pika2, "billing", b} // of either generation: ours writes the smallest integer, and both read any
	failed.generation = g
	pika2.read(p, parked.Headers["PikaBus.FirstFailed"]) // ours, as what describes the parking: PikaBus neither writes nor reads it
	for _, ours := range []string{"FirstFailed", "ErrorId", "ErrorKind", "ErrorGroup", "Attempts", "Host"} {
		if _, ok := parked.Headers["PikaBus."+ours]; !ok {
			t.Errorf("a parked message has no %s", ours)
		}
		delete(parked.Headers, "PikaBus."+ours)
	}
	parked.Headers["PikaBus.ErrorRetries"] = sameCount(p, g, parked.Headers["PikaBus.ErrorRetries"], 6)
	failed.looksLike(parked, "error", amqp.Table{
		"PikaBus.MessageType": "PlaceOrder", "PikaBus.SourceQueue": "orders", "PikaBus.ErrorRetries": g.count(6),
		"PikaBus.OriginatingAddress": "billing", "PikaBus.ReplyToAddress": "billing",
	})
	if string(parked.Body) != string(bad.Body) || parked.MessageId != bad.MessageId {
		t.Errorf("parked %q with body %s", parked.MessageId, parked.Body)
	}

	// A command of ours fails with the peer: it makes retry copies in its own queue and parks in the same error queue.
	p.try(bus.Send(ctx, "billing", placeOrder{ID: 6}, harebus.WithMessageID("ours")))
	for attempt := 1; ; attempt++ {
		got, _ = billing.next()
		if billing.fail(got, 2, 50*time.Millisecond) {
			if attempt != 3 {
				t.Errorf("the peer parked after %d attempts", attempt)
			}
			break
		}
	}
	parked = b.take("error", 1)[0]
	if parked.MessageId != "ours" || parked.Headers["PikaBus.ErrorRetries"] != g.count(3) || parked.Headers["PikaBus.SourceQueue"] != "billing" {
		t.Errorf("the peer parked %v", parked.Headers)
	}

	// What the peer has parked is read completely, also when it comes to us: as a replay, from the first attempt on.
	b.publish("", "orders", amqp.Publishing{
		Headers: parkedByPeer(parked.Headers, g.count(6)), ContentType: parked.ContentType, ContentEncoding: parked.ContentEncoding,
		DeliveryMode: parked.DeliveryMode, MessageId: parked.MessageId, CorrelationId: parked.CorrelationId, ReplyTo: "billing",
		Type: parked.Type, Timestamp: parked.Timestamp, Body: []byte(`{"id":6}`),
	})
	if a := deferred.await(p, 2)[1]; a.Attempt != 1 || a.SourceQueue != "billing" || a.ErrorDetails == "" {
		t.Errorf("attempt %d of a replay from %q because of %q", a.Attempt, a.SourceQueue, a.ErrorDetails)
	}

	// A retry copy of a peer's, as one would find in a queue that we take over.
	copied := typed(billing.message("error", placeOrder{ID: 7, Fail: true}), "PlaceOrder")
	copied.Headers["PikaBus.ErrorRetries"] = g.count(4)
	copied.Headers["PikaBus.DeferredTime"] = g.time(time.Now().Add(-time.Second))
	billing.send("orders", copied)
	for want := 5; want <= 6; want++ {
		if attempt := <-attempts; attempt != want {
			t.Errorf("attempt %d; want %d", attempt, want)
		}
	}
	b.take("error", 1)
	p.eventually(patience, func() error {
		for _, queue := range []string{"orders", "billing", "error"} {
			q, err := b.look(queue)
			if err != nil || q.Messages > 0 {
				return fmt.Errorf("queue %q: %d messages, %w", queue, q.Messages, err)
			}
		}
		return nil
	})
}

// sameCount fails the test unless an integer of any width is want, and returns it as the generation writes it.
func sameCount(p *place, g generation, value any, want int) any {
	p.Helper()
	if text := fmt.Sprint(value); text != fmt.Sprint(want) {
		p.Errorf("count %v; want %d", value, want)
	}
	if _, ok := value.(string); ok {
		p.Errorf("count %#v is not a number", value)
	}
	return g.count(want)
}

func parkedByPeer(headers amqp.Table, count any) amqp.Table {
	table := amqp.Table{}
	maps.Copy(table, headers)
	table["PikaBus.ErrorRetries"], table["PikaBus.MessageType"] = count, "PlaceOrder"
	return table
}

// Every capture, of either generation, is read completely.
func TestCapturesAreRead(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Exchanges.Direct, cfg.Exchanges.Topic = "PikaBusDirect", "PikaBusTopic"
	cfg.Subscriptions = []string{p.name + ".topic"}
	_, in := p.service(cfg)
	b := p.broker()
	kinds := []string{"send", "publish", "defer", "reply", "error", "send_custom_headers"}
	for _, g := range generations {
		for _, kind := range append(kinds, "send_no_listener_queue") {
			if g == pika1 && kind == "send_no_listener_queue" {
				continue
			}
			name := string(g) + "_" + kind
			c := p.golden(name)
			headers := g.table(c.Properties.Headers)
			msg := amqp.Publishing{
				Headers: headers, ContentType: c.Properties.ContentType, ContentEncoding: c.Properties.ContentEncoding,
				DeliveryMode: 2, CorrelationId: *c.Properties.CorrelationID, MessageId: *c.Properties.MessageID, Body: []byte(c.Body),
			}
			if c.Properties.DeliveryMode != 2 {
				t.Fatalf("%s: delivery mode %d", name, c.Properties.DeliveryMode)
			}
			for value, field := range map[*string]*string{
				c.Properties.ReplyTo: &msg.ReplyTo, c.Properties.Expiration: &msg.Expiration, c.Properties.Type: &msg.Type, c.Properties.AppID: &msg.AppId,
			} {
				if value != nil {
					*field = *value
				}
			}
			if c.Properties.Priority != nil {
				msg.Priority = *c.Properties.Priority
			}
			for _, key := range []string{"PikaBus.DeferredTime", "PikaBus.TimeSent"} { // the captures' own lie in the future or past
				if headers[key] != nil {
					headers[key] = g.time(time.Now().Add(-2 * time.Second))
				}
			}
			key := cfg.Queue
			if c.Routing.Exchange == "PikaBusTopic" {
				key = p.name + ".topic"
			}
			b.publish(c.Routing.Exchange, key, msg)
			m := in.awaitID(p, msg.MessageId)
			text := func(key string) string { s, _ := headers["PikaBus."+key].(string); return s }
			sent := g.read(p, headers["PikaBus.TimeSent"])
			for what, pair := range map[string][2]any{
				"id":                  {m.ID, text("MessageId")},
				"correlation id":      {m.CorrelationID, text("CorrelationId")},
				"type":                {m.Type, text("MessageType")},
				"intent":              {string(m.Intent), text("Intent")},
				"reply to":            {m.ReplyTo, text("ReplyToAddress")},
				"originating address": {m.OriginatingAddress, text("OriginatingAddress")},
				"content type":        {m.ContentType, text("ContentType")},
				"content encoding":    {m.ContentEncoding, text("ContentEncoding")},
				"time sent":           {m.TimeSent.UnixMicro(), sent.UnixMicro()},
				"source queue":        {m.SourceQueue, text("SourceQueue")},
				"error details":       {m.ErrorDetails, text("ErrorDetails")},
				"deferred":            {!m.DeferredUntil.IsZero(), headers["PikaBus.DeferredTime"] != nil},
				"exchange":            {m.Exchange, c.Routing.Exchange},
				"body":                {string(m.Body), c.Body},
				"app id":              {m.Properties.AppID, msg.AppId},
				"expiration":          {m.Properties.Expiration, msg.Expiration},
				"priority":            {m.Properties.Priority, msg.Priority},
				"headers":             {len(m.Headers), len(headers)},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %s is %v; want %v", name, what, pair[0], pair[1])
				}
			}
			wantAttempt := 1
			if kind == "error" {
				wantAttempt = 4 // three failures
			}
			if m.Attempt != wantAttempt {
				t.Errorf("%s: attempt %d; want %d", name, m.Attempt, wantAttempt)
			}
			var value any
			if err := json.Unmarshal(m.Body, &value); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
