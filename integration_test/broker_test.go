package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// A broker is the broker as a client sees it that knows nothing of the library. Every call has a channel of its own,
// because a refusal closes it.
type broker struct {
	t    *testing.T
	conn *amqp.Connection
}

func dialBroker(t *testing.T, url string) (*broker, error) {
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(10 * time.Second), Heartbeat: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil && !errors.Is(err, amqp.ErrClosed) {
			t.Log("close:", err)
		}
	})
	return &broker{t, conn}, nil
}

// broker connects to the place's broker.
func (p *place) broker() *broker {
	p.Helper()
	b, err := dialBroker(p.T, p.url)
	if err != nil {
		p.Fatal(err)
	}
	return b
}

func (b *broker) do(fn func(ch *amqp.Channel) error) error {
	ch, err := b.conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	return fn(ch)
}

// must is do for what has to work.
func (b *broker) must(fn func(ch *amqp.Channel) error) {
	b.t.Helper()
	if err := b.do(fn); err != nil {
		b.t.Fatal(err)
	}
}

// declareQueue declares a durable queue, which the test's end deletes.
func (b *broker) declareQueue(name string, args amqp.Table) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		return err
	})
	b.t.Cleanup(func() { b.deleteQueue(name) })
}

// deleteQueue deletes a queue with what is in it. Nobody minds when it is not there.
func (b *broker) deleteQueue(name string) {
	_ = b.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(name, false, false, false)
		return err
	})
}

func (b *broker) declareExchange(name, kind string) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error { return ch.ExchangeDeclare(name, kind, true, false, false, false, nil) })
	b.t.Cleanup(func() { b.deleteExchange(name) })
}

func (b *broker) deleteExchange(name string) {
	_ = b.do(func(ch *amqp.Channel) error { return ch.ExchangeDelete(name, false, false) })
}

func (b *broker) bind(queue, key, exchange string) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error { return ch.QueueBind(queue, key, exchange, false, nil) })
}

// refusal is the broker's reply code to fn, 0 when it did not mind.
func (b *broker) refusal(fn func(ch *amqp.Channel) error) int {
	b.t.Helper()
	err := b.do(fn)
	var refused *amqp.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		return refused.Code
	default:
		b.t.Fatal(err)
		return -1
	}
}

// look asks for a queue without touching it.
func (b *broker) look(queue string) (q amqp.Queue, err error) {
	err = b.do(func(ch *amqp.Channel) error {
		q, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	return q, err
}

func (b *broker) exists(queue string) bool {
	b.t.Helper()
	_, err := b.look(queue)
	var refused *amqp.Error
	if err != nil && (!errors.As(err, &refused) || refused.Code != amqp.NotFound) {
		b.t.Fatal(err)
	}
	return err == nil
}

// publish sends a message and fails the test unless it is confirmed and in a queue.
func (b *broker) publish(exchange, key string, msg amqp.Publishing) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		returns := ch.NotifyReturn(make(chan amqp.Return, 1))
		confirm, err := ch.PublishWithDeferredConfirm(exchange, key, true, false, msg)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(b.t.Context(), patience)
		defer cancel()
		if ok, err := confirm.WaitContext(ctx); !ok {
			return fmt.Errorf("publish to %q with key %q: nacked: %w", exchange, key, err)
		}
		select {
		case r := <-returns:
			return fmt.Errorf("publish to %q with key %q: %s", exchange, key, r.ReplyText)
		default:
			return nil
		}
	})
}

// publishAll sends messages to a queue, all confirmed.
func (b *broker) publishAll(queue string, msgs []amqp.Publishing) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		var last *amqp.DeferredConfirmation
		for _, msg := range msgs {
			confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false, msg)
			if err != nil {
				return err
			}
			last = confirm
		}
		if !last.Wait() {
			return fmt.Errorf("publish to queue %q: nacked", queue)
		}
		return nil
	})
}

// consume returns what a queue has and gets, acknowledged.
func (b *broker) consume(queue string) <-chan amqp.Delivery {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return deliveries
}

// take waits for n messages from a queue.
func (b *broker) take(queue string, n int) []amqp.Delivery {
	b.t.Helper()
	return b.takeWithin(queue, n, patience)
}

func (b *broker) takeWithin(queue string, n int, most time.Duration) []amqp.Delivery {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	defer ch.Close()
	if err := ch.Qos(n, 0, false); err != nil {
		b.t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	var got []amqp.Delivery
	for len(got) < n {
		select {
		case d, ok := <-deliveries:
			if !ok {
				b.t.Fatalf("queue %q: the consumer ended", queue)
			}
			if err := d.Ack(false); err != nil {
				b.t.Fatal(err)
			}
			got = append(got, d)
		case <-timeout.C:
			b.t.Fatalf("queue %q: %d messages within %v; want %d", queue, len(got), most, n)
		}
	}
	return got
}

// empty fails the test when there is a message in a queue.
func (b *broker) empty(queue string) {
	b.t.Helper()
	b.must(func(ch *amqp.Channel) error {
		d, ok, err := ch.Get(queue, true)
		if ok {
			b.t.Errorf("queue %q: message %q is in it; want none", queue, d.MessageId)
		}
		return err
	})
}

// A road leads to a broker and can be closed, and all who are on it thrown off: a network that fails.
type road struct {
	address string // of the near end
	target  string

	mu       sync.Mutex // guards what follows
	listener net.Listener
	open     map[net.Conn]struct{}
	stalled  bool
	wg       sync.WaitGroup

	gate sync.RWMutex // held by a stall
}

// road builds one to the place's broker. It is closed at first.
func (p *place) road() *road {
	p.Helper()
	uri, err := amqp.ParseURI(p.url)
	if err != nil {
		p.Fatal(err)
	}
	r := &road{
		address: fmt.Sprintf("127.0.0.1:%d", rabbit.NeedPort(p)), target: net.JoinHostPort(uri.Host, fmt.Sprint(uri.Port)),
		open: map[net.Conn]struct{}{},
	}
	p.Cleanup(func() {
		r.cut()
		r.wg.Wait()
	})
	return r
}

// over is the place's address by way of the road.
func (p *place) over(r *road) string {
	p.Helper()
	uri, err := amqp.ParseURI(p.url)
	if err != nil {
		p.Fatal(err)
	}
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		p.Fatal(err)
	}
	uri.Host = host
	if _, err := fmt.Sscan(port, &uri.Port); err != nil {
		p.Fatal(err)
	}
	return uri.String()
}

func (r *road) listen(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listener = listener
	r.wg.Go(func() { r.accept(listener) })
	return nil
}

func (r *road) accept(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.target)
		if err != nil {
			near.Close()
			continue
		}
		r.mu.Lock()
		if r.listener != listener {
			r.mu.Unlock()
			near.Close()
			far.Close()
			continue
		}
		r.open[near], r.open[far] = struct{}{}, struct{}{}
		r.mu.Unlock()
		for from, to := range map[net.Conn]net.Conn{near: far, far: near} {
			r.wg.Go(func() {
				_, _ = io.Copy(struct{ io.Writer }{to}, stalling{from, &r.gate}) // an end is an end
				from.Close()
				to.Close()
			})
		}
	}
}

// allow opens the road.
func (r *road) allow() error { return r.listen(r.address) }

// cut closes the road and resets everything on it.
func (r *road) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		r.listener.Close()
		r.listener = nil
	}
	r.reset()
}

// stall has nothing go through until the next reset.
func (r *road) stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stalled {
		r.gate.Lock()
		r.stalled = true
	}
}

// reset is called with r.mu held.
func (r *road) reset() {
	if r.stalled {
		r.gate.Unlock()
		r.stalled = false
	}
	for conn := range r.open {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
	}
	clear(r.open)
}

// hiccup throws everybody off; the road stays open.
func (r *road) hiccup() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reset()
}

// declareQueueQuietly is declareQueue where somebody else may have been faster.
func (b *broker) declareQueueQuietly(name string, args map[string]any) {
	_ = b.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		return err
	})
}
