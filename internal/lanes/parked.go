package lanes

import (
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/order"
)

// Describe describes a key by the headers of its first message.
func Describe(k Key, headers amqp.Table, n *Names) order.Parked {
	p := order.Parked{Key: k.Key, Held: k.First.Held, Due: k.First.Due, Waiting: k.Waiting, ID: k.First.ID}
	if p.Held {
		p.Due = time.Time{}
	}
	if id, ok := field.Text(headers[n.ID]); ok { // not that of its content
		p.ID = id
	}
	p.Failures, _ = field.ParseCount(headers[n.Retries])
	p.Type, _ = field.Text(headers[n.Type])
	p.Error, _ = field.Text(headers[n.Details])
	p.Error, _, _ = strings.Cut(p.Error, "\n") // without the stack of a panic
	since, _ := field.Text(headers[n.FirstFailed])
	p.Since, _ = time.Parse("2006-01-02T15:04:05.999999Z07:00", since) // zero if it never failed
	return p
}

// Collect are the keys of messages that were read from a parking queue which no instance has.
func Collect(messages []amqp.Delivery, config *Config) []order.Parked {
	l := New("", config.MaxParked)
	for i := range messages {
		d := &messages[i]
		if _, is := ReadNote(&config.Names, d.Headers); is {
			continue
		}
		m := &Message{Parked: true, Of: d, ID: d.MessageId, Key: KeyOf(d.Headers, config.Names.Key)}
		if m.Place, _ = ReadPlace(&config.Names, d.Headers); m.Key != "" { // what has no place comes last
			l.Park(m)
		}
	}
	all := []order.Parked{}
	for _, key := range l.Keys() {
		if d, ok := key.First.Of.(*amqp.Delivery); ok {
			all = append(all, Describe(key, d.Headers, &config.Names))
		}
	}
	return all
}
