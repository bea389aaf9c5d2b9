package consume

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// task is work that a test gives.
type task struct {
	Delivery
	work func(*task)
}

func (t *task) Handle() { t.work(t) }

func (t *task) Store(error) {}

func (t *task) Handling() ([]zap.Field, time.Duration, bool) { return nil, 0, true }

// bubble runs a test in virtual time, with consumers of a queue that do the work, and their session.
func bubble(t *testing.T, work func(*task), test func(t *testing.T, g *Group, s *session.Session)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		link := session.NewLink("consume", session.NewDialer(session.Config{
			Addresses: []amqp.URI{{Scheme: "amqp", Host: "broker", Port: 5672, Username: "guest", Password: "guest", Vhost: "/"}},
			Name:      "test", Dial: b.Dial, BackOff: wait.Default, Log: zap.NewNop(), Waits: wait.Teller{Log: zap.NewNop()},
			Timeout: 10 * time.Second, RequestTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, Heartbeat: 5 * time.Second,
		}), 4)
		defer link.Close()
		s, err := link.Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g := Start(t.Context(), Config{
			Queue: "work", Queues: 1, Consumers: 1, Workers: 2, Prefetch: 10, DeliveryLimit: 20,
			Link: link, BackOff: wait.Default, Log: zap.NewNop(), Waits: wait.Teller{Log: zap.NewNop()}, Stopped: context.Canceled,
			Declare: func(ctx context.Context, on *session.Session, _ time.Time, _ bool) error {
				return on.WithChannel(ctx, func(ch *amqp.Channel) error {
					_, err := ch.QueueDeclare("work", true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
					return err
				})
			},
			Doubt: func() {}, Undeclared: func() error { return nil },
			Task: func() Task { return &task{work: work} },
		})
		if err := g.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, g, s)
		g.Halt()
		g.Wait()
	})
}

// TestUnreadableDelivery: a delivery that cannot be read is not handled and not settled,
// and the connection it came from is given up, so that the broker has it again.
func TestUnreadableDelivery(t *testing.T) {
	bubble(t, func(*task) { t.Error("it was handled") }, func(t *testing.T, g *Group, s *session.Session) {
		c := g.consumers[0]
		f, _, _ := c.enter(nil)
		defer c.exit(f)
		c.handle(f, amqp.Delivery{Body: []byte("{}")}, c.all()[0], nil)
		select {
		case <-s.Done():
		case <-time.After(10 * time.Second):
			t.Error("the connection stays")
		}
	})
}

// TestDeliveryEndsOnce: neither a second Ack nor a GiveBack after an Ack reaches the broker,
// which would end the channel for an unknown tag.
func TestDeliveryEndsOnce(t *testing.T) {
	var handled chan bool
	bubble(t, func(d *task) {
		d.Ack()
		d.Ack()
		d.GiveBack()
		handled <- d.Ended()
	}, func(t *testing.T, g *Group, s *session.Session) {
		handled = make(chan bool, 10) // in the bubble
		for range 3 {
			publish(t, s)
			if !<-handled {
				t.Error("not ended after Ack")
			}
		}
		time.Sleep(time.Minute)
		if faults := g.Faults(); len(faults) > 0 || len(handled) > 0 {
			t.Errorf("%v; %d more deliveries", faults, len(handled))
		}
	})
}

// TestWornOutReadsWhatCame: a handler that changes the headers of its message does not change
// how often the broker has delivered it.
func TestWornOutReadsWhatCame(t *testing.T) {
	var worn chan bool
	bubble(t, func(d *task) {
		if d.Raw.Headers == nil {
			d.Raw.Headers = amqp.Table{}
		}
		delete(d.Raw.Headers, "x-delivery-count")
		if !d.Raw.Redelivered {
			d.Raw.Headers["x-delivery-count"] = int64(1000)
		}
		worn <- d.WornOut()
		if len(worn) == 12 {
			d.Ack()
		}
	}, func(t *testing.T, _ *Group, s *session.Session) {
		worn = make(chan bool, 20)
		publish(t, s)
		time.Sleep(time.Minute)
		for i := range 12 { // half of the limit is 10
			if got := <-worn; got != (i >= 10) {
				t.Errorf("delivery %d: worn out %v", i, got)
			}
		}
	})
}

func publish(t *testing.T, s *session.Session) {
	t.Helper()
	err := s.WithChannel(t.Context(), func(ch *amqp.Channel) error {
		return ch.PublishWithContext(t.Context(), "", "work", false, false, amqp.Publishing{Body: []byte("x")})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestResize: another number of workers counts at once, also while handlers run; those that
// are too many finish, and never are there more than the larger of the two numbers.
func TestResize(t *testing.T) {
	var release chan struct{}
	bubble(t, func(d *task) {
		<-release
		d.Ack()
	}, func(t *testing.T, g *Group, s *session.Session) {
		release = make(chan struct{}) // in the bubble
		defer close(release)
		for range 20 {
			publish(t, s)
		}
		is := func(want int, when string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if got := int(g.Busy()); got != want {
				t.Errorf("%s: %d handlers run, want %d", when, got, want)
			}
		}
		is(2, "at the start")
		g.Resize(5, 10)
		is(5, "after more workers")
		g.Resize(3, 3)
		is(5, "while the handlers run")
		for range 5 { // they wait in the order in which they began
			release <- struct{}{}
		}
		is(3, "after all have finished")
		g.Resize(5, 5)
		is(5, "after more workers again")
		g.Resize(1, 1)
		g.Resize(5, 5)
		is(5, "after fewer and more at once")
		for range 2 {
			release <- struct{}{}
		}
		is(5, "with new ones in their places")
		if faults := g.Faults(); len(faults) > 0 {
			t.Error(faults)
		}
	})
}
