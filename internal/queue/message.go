package queue

import (
	"errors"
	"maps"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

// Message is a message that was taken from the queue.
type Message struct {
	*amqp.Delivery

	from *taker // nil unless a Conn has taken it
	// Table is the headers as they came, if not all of them can be read. Headers then
	// has those that can.
	Table wire.RawTable
	// Broken says that the properties are not AMQP. The message can only stay.
	Broken bool
}

// Unpack reads the properties of a delivery.
func Unpack(d *amqp.Delivery) *Message {
	m := &Message{Delivery: d}
	err := wire.Unpack(d)
	if err == nil {
		return m
	}
	var unreadable *wire.UnreadableError
	whole := false
	if errors.As(err, &unreadable) && !unreadable.All {
		m.Table = unreadable.Raw
		d.Headers, whole = m.Table.Readable()
	}
	m.Broken = !whole
	return m
}

// Looks is how often a quorum queue has delivered the message before.
func (m *Message) Looks() int64 {
	n, _ := m.Headers["x-delivery-count"].(int64)
	return n
}

// Renewed is the message to be published again as it is.
func (m *Message) Renewed(login string) session.Publishing {
	return m.Without(login, wire.OfOneDelivery)
}

// Without is the message to be published again without some of its headers. A table that
// cannot be read goes as it came, but for these. The expiration is left out, because
// the message would be dropped if it is late. A user id that is not that of the login
// is left out, because the broker refuses it.
func (m *Message) Without(login string, drop func(key string) bool) session.Publishing {
	p := wire.FromDelivery(m.Delivery)
	p.Expiration, p.DeliveryMode = "", amqp.Persistent // what is moved must not be lost on the way
	if m.UserId == login {
		p.UserId = login
	}
	if m.Table != nil {
		return session.Publishing{Message: p, Table: m.Table.Without(drop)}
	}
	p.Headers = maps.Clone(m.Headers)
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool { return drop(key) })
	return session.Publishing{Message: p}
}

// Death is the broker's note about the last queue that a message was dead-lettered
// from: for one without a SourceQueue the queue whose delivery limit it has exceeded.
// x-first-death-queue would name the first delay queue of a message that was deferred.
func (m *Message) Death() amqp.Table {
	deaths, _ := m.Headers["x-death"].([]any)
	if len(deaths) > 0 {
		death, _ := deaths[0].(amqp.Table)
		return death
	}
	if first, ok := m.Headers["x-first-death-queue"]; ok {
		return amqp.Table{"queue": first, "reason": m.Headers["x-first-death-reason"]}
	}
	return nil
}

// Text reads a header that is text, or else the property that stands in for it.
func (m *Message) Text(name, property string) string {
	if v, ok := field.Text(m.Headers[name]); ok && v != "" {
		return v
	}
	return property
}
