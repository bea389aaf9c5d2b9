package consume

import amqp "github.com/rabbitmq/amqp091-go"

// Which delivery a free worker takes next is decided here, and nowhere else: the oldest of its
// feed, or the one that the lanes of an ordered queue have chosen.

// next is the dispatcher: it waits for the delivery of a feed that this worker is to
// handle, perhaps again: one that was held. ok is false when the feed has ended, or when the worker retires.
func (w *worker) next(f *feed) (d amqp.Delivery, held *Delivery, ok bool) {
	select {
	case <-w.retire: // first, because select chooses at random
		return d, nil, false
	default:
	}
	select {
	case d, ok = <-f.deliveries:
		return d, nil, ok
	case held = <-f.again:
		return held.asItCame(), held, true
	case <-w.retire:
		return d, nil, false
	}
}

// nextOf is next for an ordered queue.
func (w *worker) nextOf(t *tenure) (d *Delivery, ok bool) {
	select {
	case <-w.retire:
		return nil, false
	default:
	}
	select {
	case d, ok = <-t.ready:
		return d, ok
	case <-w.retire:
		return nil, false
	}
}

func (w *worker) retired() bool {
	select {
	case <-w.retire:
		return true
	default:
		return false
	}
}
