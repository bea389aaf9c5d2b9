package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// TestRequestsOutliveConnections: two thousand requests are with the handlers of a service when rabbitmqctl closes every
// connection, and again while the replies are on their way. Each request gets its own reply.
func TestRequestsOutliveConnections(t *testing.T) {
	t.Parallel()
	const n = 2000
	p := vhosted(t)
	cfg := p.config("orders")
	cfg.Consume.Concurrency = n
	orders := p.setup(cfg)
	gate := make(chan struct{})
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, cmd placeOrder) error {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
		return bus.Reply(ctx, orderAccepted{ID: cmd.ID})
	})
	p.start(orders)

	shop := p.setup(p.config(""))
	ctx := p.within(3 * patience)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			got, err := harebus.Request[orderAccepted](ctx, shop.Bus(), cfg.Queue, placeOrder{ID: i})
			if err != nil || got.ID != i {
				t.Errorf("request %d: %+v, %v", i, got, err)
			}
		})
	}
	p.eventually(2*patience, func() error {
		if in := orders.Stats().InFlight; in != n {
			return fmt.Errorf("%d requests are with their handlers", in)
		}
		return nil
	})
	p.ctl("close_all_connections", "--vhost", p.name, "a test")
	close(gate)
	p.eventually(patience, func() error {
		if handled := orders.Stats().Handled; handled < n/20 {
			return fmt.Errorf("%d handled", handled)
		}
		return nil
	})
	p.ctl("close_all_connections", "--vhost", p.name, "a test")
	all.Wait()
	stats := shop.Stats()
	t.Logf("%d handled, %d connections of the sender, %d late replies", orders.Stats().Handled, stats.Connections, stats.LateReplies)
	if stats.Connections < 4 {
		t.Errorf("the sender had %d connections", stats.Connections)
	}
}

// TestRequestOfPikaBus: a PikaBus service binds the queue that it replies to, and replies by headers only.
func TestRequestOfPikaBus(t *testing.T) {
	t.Parallel()
	for _, g := range generations {
		t.Run(string(g), func(t *testing.T) {
			t.Parallel()
			p := vhosted(t)
			billing := p.peer(g, "billing")
			cfg := p.config("")
			if g == pika1 {
				cfg.Payload.TimeFormat = harebus.TimeLegacy
			}
			s := p.setup(cfg)
			type result struct {
				got struct{ ID int }
				err error
			}
			results := make(chan result, 1)
			go func() {
				var r result
				r.got, r.err = harebus.Request[struct{ ID int }](p.within(patience), s.Bus(), "billing", placeOrder{ID: 7})
				results <- r
			}()
			d, _ := billing.next()
			billing.reply(d, map[string]int{"ID": 8})
			if r := <-results; r.err != nil || r.got.ID != 8 {
				t.Errorf("got %+v, %v", r.got, r.err)
			}
			if stats := s.Stats(); stats.Republished != 0 {
				t.Errorf("%d attempts were repeated", stats.Republished)
			}
		})
	}
}

// TestRequestOfAnRPCServer: servers that know reply_to and correlation_id only are enough, and a handler answers the clients of
// such servers.
func TestRequestOfAnRPCServer(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	b.declareQueue(p.queue("rpc"), nil)
	requests := b.consume(p.queue("rpc"))
	go func() {
		for d := range requests {
			b.publish("", d.ReplyTo, amqp.Publishing{CorrelationId: d.CorrelationId, Body: d.Body})
		}
	}()
	s := p.setup(p.config(""))
	got, err := harebus.Request[placeOrder](p.within(patience), s.Bus(), p.queue("rpc"), placeOrder{ID: 7})
	if err != nil || got.ID != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := harebus.Request[placeOrder](p.within(patience), s.Bus(), p.queue("nowhere"), placeOrder{ID: 7}); !errors.Is(err, harebus.ErrUnroutable) {
		t.Errorf("a queue that is not there: %v", err)
	}

	cfg := p.config("orders")
	cfg.Reply.Reserved = true
	orders := p.setup(cfg)
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, cmd placeOrder) error {
		return bus.Reply(ctx, orderAccepted{ID: cmd.ID})
	})
	p.start(orders)
	b.must(func(ch *amqp.Channel) error {
		const directReplyTo = "amq.rabbitmq.reply-to"
		replies, err := ch.Consume(directReplyTo, "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		question := amqp.Publishing{Type: "PlaceOrder", ReplyTo: directReplyTo, CorrelationId: "question", Body: []byte(`{"id":9}`)}
		if err := ch.PublishWithContext(p.within(patience), "", cfg.Queue, true, false, question); err != nil {
			return err
		}
		select {
		case d := <-replies:
			if d.CorrelationId != "question" || string(d.Body) != `{"id":9}` {
				t.Errorf("a plain client got %s for %q", d.Body, d.CorrelationId)
			}
		case <-p.within(patience).Done():
			t.Error("a plain client got no reply")
		}
		return nil
	})
}

// TestRequestIsGivenUp: the fault comes at once, and the request expires with its sender's patience.
func TestRequestIsGivenUp(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("orders")
	orders := p.setup(cfg)
	harebus.Handle(orders, func(_ context.Context, _ *harebus.Bus, cmd placeOrder) error {
		return harebus.NoRetry(fmt.Errorf("no order %d", cmd.ID))
	})
	p.start(orders)
	s := p.setup(p.config(""))
	began := time.Now()
	_, err := harebus.Request[orderAccepted](p.within(patience), s.Bus(), cfg.Queue, placeOrder{ID: 7})
	var fault *harebus.FaultError
	if !errors.As(err, &fault) || fault.Reason != "failed" || !strings.Contains(fault.Details, "no order 7") {
		t.Errorf("got %v", err)
	}
	p.inTime("the fault", began, soon)
	p.broker().take(cfg.ErrorQueue.Name, 1)

	p.broker().declareQueue(p.queue("silent"), nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := harebus.Request[orderAccepted](ctx, s.Bus(), p.queue("silent"), placeOrder{ID: 7}); !errors.Is(err, harebus.ErrNoReply) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody replies: %v", err)
	}
	p.eventually(patience, func() error {
		if q, err := p.broker().look(p.queue("silent")); err != nil || q.Messages != 0 {
			return fmt.Errorf("%d messages, %w", q.Messages, err)
		}
		return nil
	})
}

// TestReplyQueueIsDeleted: somebody deletes the reply queue while a request waits: it fails, and the next one has another.
func TestReplyQueueIsDeleted(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	b := p.broker()
	b.declareQueue("silent", nil)
	s := p.setup(p.config(""))
	errs := make(chan error, 1)
	go func() {
		_, err := harebus.Request[orderAccepted](p.within(patience), s.Bus(), "silent", placeOrder{ID: 1})
		errs <- err
	}()
	reply := b.take("silent", 1)[0].ReplyTo
	b.deleteQueue(reply)
	p.is(<-errs, harebus.ErrReplyLost)
	go func() {
		_, err := harebus.Request[orderAccepted](p.within(patience), s.Bus(), "silent", placeOrder{ID: 2})
		errs <- err
	}()
	d := b.take("silent", 1)[0]
	if d.ReplyTo == reply {
		t.Errorf("the reply queue has the same name %q", reply)
	}
	b.publish("", d.ReplyTo, amqp.Publishing{CorrelationId: d.CorrelationId, Body: []byte(`{"id":2}`)})
	p.try(<-errs)
	p.try(s.Close())
	if b.exists(d.ReplyTo) {
		t.Error("the reply queue is still there after a stop")
	}
}

// TestRequestPermissions: a service that only makes requests needs three permissions on its reply queue. Without one of them
// the request fails at once, and the error names the queue; when it is given, the next request works.
func TestRequestPermissions(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	b := p.broker()
	b.declareExchange("PikaBusDirect", "direct")
	b.declareExchange("PikaBusTopic", "topic")
	b.declareQueue("rpc", nil)
	requests := b.consume("rpc")
	var replied sync.WaitGroup
	replied.Go(func() {
		if d, ok := <-requests; ok { // of the only request that is sent
			b.publish("", d.ReplyTo, amqp.Publishing{CorrelationId: d.CorrelationId, Body: d.Body})
		}
	})
	user := p.name
	p.ctl("add_user", user, "secret")
	t.Cleanup(func() {
		if _, err := p.node.Ctl(context.Background(), "delete_user", user); err != nil {
			t.Error(err)
		}
	})
	s := p.setup(harebus.Config{URL: p.withUser(user, "secret"), Queue: "shop"})
	// request makes one when the user has these permissions on the reply queue.
	request := func(configure, write, read bool) error {
		permissions := []string{"set_permissions", "-p", p.name, user}
		for _, granted := range []bool{configure, write, read} {
			pattern := `^(PikaBusDirect|PikaBusTopic|amq\.default)$`
			if granted {
				pattern += `|^shop\.replies\..*`
			}
			permissions = append(permissions, pattern)
		}
		p.ctl(permissions...)
		_, err := harebus.Request[placeOrder](p.within(patience), s.Bus(), "rpc", placeOrder{ID: 7})
		return err
	}
	for name, err := range map[string]error{
		"configure": request(false, true, true), "write": request(true, false, true), "read": request(true, true, false),
	} {
		p.mentions(err, "ACCESS_REFUSED", "shop.replies.")
		if !errors.Is(err, harebus.ErrNotSent) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	p.try(request(true, true, true))
	replied.Wait()
}
