package redrive

import (
	"errors"
	"maps"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

// look is a message that was taken from the queue.
type look struct {
	*amqp.Delivery

	from *taker
	// table is the headers as they came, if not all of them can be read. Headers then
	// has those that can.
	table wire.RawTable
	// broken says that the properties are not AMQP. The message can only stay.
	broken bool
}

// unpack reads the properties of a delivery.
func unpack(d *amqp.Delivery, from *taker) look {
	l := look{Delivery: d, from: from}
	err := wire.Unpack(d)
	if err == nil {
		return l
	}
	var unreadable *wire.UnreadableError
	whole := false
	if errors.As(err, &unreadable) && !unreadable.All {
		l.table = unreadable.Raw
		d.Headers, whole = l.table.Readable()
	}
	l.broken = !whole
	return l
}

// cleaned is a parked message as it was before it failed: what the bus and the
// broker wrote about the failure is gone, and so are CC and BCC, which would make
// this program write to any queue that a stranger names. Everything else is as it
// came.
func cleaned(l look, prefix, login string) session.Publishing {
	failure := map[string]bool{}
	for _, name := range []string{
		harebus.HeaderErrorRetries, harebus.HeaderErrorDetails, harebus.HeaderSourceQueue, harebus.HeaderDeferredTime, harebus.HeaderFirstFailed,
	} {
		failure[prefix+name] = true
	}
	return without(l, login, func(key string) bool {
		return failure[key] || wire.OfOneDelivery(key) ||
			key == "x-death" || strings.HasPrefix(key, "x-first-death-") || strings.HasPrefix(key, "x-last-death-")
	})
}

// renewed is a message to be published again as it is.
func renewed(l look, login string) session.Publishing { return without(l, login, wire.OfOneDelivery) }

// without is a message to be published again without some of its headers. A table that
// cannot be read goes as it came, but for these. The expiration is left out, because
// the message would be dropped if it is late. A user id that is not that of the login
// is left out, because the broker refuses it.
func without(l look, login string, drop func(key string) bool) session.Publishing {
	p := wire.FromDelivery(l.Delivery)
	p.Expiration, p.DeliveryMode = "", amqp.Persistent // what is moved must not be lost on the way
	if l.UserId == login {
		p.UserId = login
	}
	if l.table != nil {
		return session.Publishing{Message: p, Table: l.table.Without(drop)}
	}
	p.Headers = maps.Clone(l.Headers)
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool { return drop(key) })
	return session.Publishing{Message: p}
}
