package publish

import (
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/topology"
)

// Faults are those of the message's texts and of its address, which would end the connection.
func (m *Message) Faults() (faults []error) {
	p := &m.Publishing
	for _, short := range []struct{ name, value string }{
		{"message id", p.MessageId}, {"correlation id", p.CorrelationId}, {"message type", p.Type},
		{"reply address", p.ReplyTo}, {"app id", p.AppId}, {"content type", p.ContentType},
	} {
		if err := field.CheckShort(short.name, short.value); err != nil {
			faults = append(faults, err)
		}
	}
	return append(faults, m.AddressFaults()...)
}

// AddressFaults are those of the exchange and the routing key. Fanout and headers
// exchanges do not look at the key.
func (m *Message) AddressFaults() (faults []error) {
	if err := field.CheckShort("exchange", m.Exchange); err != nil {
		faults = append(faults, err)
	}
	if err := topology.ValidRoutingKey(m.Key); err != nil && (m.Key != "" || !m.Foreign) {
		faults = append(faults, err)
	}
	return faults
}
