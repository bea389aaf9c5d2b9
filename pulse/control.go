package pulse

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// Order changes a queue of the instances that are told so. It lasts until another order, or
// the end of the process; nothing is stored.
type Order struct {
	// Do is Pause, Resume, Concurrency, Rate or Log.
	Do string `json:"do"`
	// Queue is the listener queue.
	Queue string `json:"queue"`
	// Concurrency and Prefetch are those of harebus.Endpoint.SetConcurrency.
	Concurrency int `json:"concurrency,omitempty"`
	Prefetch    int `json:"prefetch,omitempty"`
	// Rate is how many messages each instance may begin a second; 0 is as many as it can.
	Rate float64 `json:"rate,omitempty"`
	// Level is the level that the log of the whole instance has for the time Within: "debug",
	// "info", "warn" or "error". Within is in nanoseconds and at most a day; 0 is ten minutes.
	Level  string        `json:"level,omitempty"`
	Within time.Duration `json:"within,omitempty"`
	// From is who gives the order, as he says. The audit line has beside it the user that the
	// message names, which the broker has checked. [Client] names the user that has logged in;
	// another program may name none, and then the line says so.
	From string `json:"from,omitempty"`
}

// What an [Order] does.
const (
	Pause       = "pause"
	Resume      = "resume"
	Concurrency = "concurrency"
	Rate        = "rate"
	Log         = "log"
)

// unknownUser is in the log when an order does not name its user: the broker checks a name that is
// there, and demands none.
const unknownUser = "unknown, the order names none"

// order carries out an order and logs it.
func (p *Pulse) order(ctx context.Context, setup *harebus.Setup, m *amqp.Delivery) error {
	const most = 4096
	var o Order
	var err error
	if len(m.Body) > most {
		err = fmt.Errorf("the order has %d bytes, more than %d", len(m.Body), most)
	} else if err = json.Unmarshal(m.Body, &o); err == nil {
		err = p.carryOut(ctx, setup, &o)
	}
	p.log.Info("an operator gave an order", zap.String("do", shorten(o.Do)), zap.String("queue", shorten(o.Queue)), zap.Int("concurrency", o.Concurrency), zap.Int("prefetch", o.Prefetch),
		zap.Float64("rate", o.Rate), zap.String("level", shorten(o.Level)), zap.Duration("within", o.Within), zap.String("user", cmp.Or(m.UserId, unknownUser)), zap.String("from", shorten(o.From)), zap.Error(err))
	return err
}

func (p *Pulse) carryOut(ctx context.Context, setup *harebus.Setup, o *Order) error {
	e := endpointOf(setup, o.Queue)
	if e == nil {
		return fmt.Errorf("this instance has no queue %.255q", o.Queue)
	}
	switch o.Do {
	case Pause:
		return pause(ctx, e)
	case Resume:
		return e.Resume()
	case Concurrency:
		whole := wholeOf(setup, e)
		if err := p.patient(whole, crowd(setup, whole, o.Queue, o.Concurrency), p.rateOf(whole.Queue())); err != nil {
			return err
		}
		return e.SetConcurrency(o.Concurrency, o.Prefetch)
	case Rate:
		return p.setRate(setup, e, o.Rate)
	case Log:
		return p.level.set(o.Level, o.Within)
	default:
		return fmt.Errorf("%.80q is none of pause, resume, concurrency, rate and log", o.Do)
	}
}

func endpointOf(setup *harebus.Setup, queue string) *harebus.Endpoint {
	for _, e := range setup.Endpoints() {
		if e.Queue() == queue {
			return e
		}
	}
	return nil
}

var errNoWait = errors.New("an order does not wait for handlers")

// pause does not wait for handlers: the answer says how many there are. A busy instance that
// waited would answer after the others, when the asker no longer listens.
func pause(ctx context.Context, e *harebus.Endpoint) error {
	ctx, stop := context.WithCancelCause(ctx)
	stop(errNoWait)
	if err := e.Pause(ctx); !errors.Is(err, errNoWait) {
		return err
	}
	return nil // it is paused all the same
}

// The limits of a rate.
const (
	mostRate = 100_000
	// patience is how long a message may wait inside its handler for its turn, at most half of
	// the handler's timeout.
	patience = 30 * time.Second
)

func (p *Pulse) rateOf(queue string) float64 {
	if l := p.limiter(queue); l != nil {
		return l.rate()
	}
	return 0
}

func (p *Pulse) setRate(setup *harebus.Setup, e *harebus.Endpoint, rate float64) error {
	if whole := wholeOf(setup, e); whole.Queue() != e.Queue() {
		return fmt.Errorf("%q is a partition of %q and has no rate of its own; a rate of %[2]q is for all partitions of an instance together", e.Queue(), whole.Queue())
	}
	l := p.limiter(e.Queue())
	if l == nil {
		return errors.New("this queue has no rate of its own: it is a backlog, whose messages count for the rate of its queue, or the program has not passed its config to UseEndpoint")
	}
	if !(rate >= 0 && rate <= mostRate) { // NaN too
		return fmt.Errorf("the rate %v is not between 0 and %d", rate, mostRate)
	}
	if err := p.patient(e, crowd(setup, e, "", 0), rate); err != nil {
		return err
	}
	l.set(rate)
	return nil
}

// wholeOf is the queue whose rate counts for the messages of a queue: that which a partition belongs to, or the queue itself.
func wholeOf(setup *harebus.Setup, e *harebus.Endpoint) *harebus.Endpoint {
	for _, other := range setup.Endpoints() {
		if slices.Contains(other.Consumption().Order.PartitionQueues(other.Queue()), e.Queue()) {
			return other
		}
	}
	return e
}

// crowd is how many handlers may wait for the rate of a queue at once. An instance may come to have all partitions. If ordered
// is the queue, or one of its partitions, the concurrency there is the one that is given.
func crowd(setup *harebus.Setup, e *harebus.Endpoint, ordered string, concurrency int) (handlers int) {
	queues := e.Consumption().Order.PartitionQueues(e.Queue())
	if len(queues) == 0 {
		queues = []string{e.Queue()}
	}
	for _, one := range setup.Endpoints() {
		if !slices.Contains(queues, one.Queue()) {
			continue
		}
		consume := one.Consumption()
		if ordered == e.Queue() || ordered == one.Queue() {
			consume.Concurrency = concurrency
		}
		handlers += consume.Concurrency * consume.Consumers
	}
	return handlers
}

// patient refuses a rate at which so many handlers would wait for too long for their turn.
func (p *Pulse) patient(e *harebus.Endpoint, handlers int, rate float64) error {
	if rate <= 0 {
		return nil
	}
	most := p.limiter(e.Queue()).patience()
	if float64(handlers)/rate > most.Seconds() {
		return fmt.Errorf("%d messages at once and %v a second: each would wait for %v s for its turn, more than %v (30 s, or half of the handler's timeout); lower the concurrency first, or pause the queue",
			handlers, rate, float64(handlers)/rate, most)
	}
	return nil
}
