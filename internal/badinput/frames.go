package badinput

import (
	"encoding/binary"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Frames encodes a basic.publish of the case through the default exchange, with
// its Table for headers: to be written beside a plain client on its connection.
// Of the properties it has content type, correlation id and type.
func (c *Case) Frames(channel uint16, queue string) []byte {
	m := &c.Message
	method := binary.BigEndian.AppendUint16(nil, 60)
	method = binary.BigEndian.AppendUint16(method, 40)
	method = append(method, 0, 0, 0) // ticket, exchange ""
	method = shortString(method, queue)
	method = append(method, 0)

	out := frame(nil, 1, channel, method)
	out = frame(out, 2, channel, contentHeader(m, c.Table))
	if len(m.Body) > 0 {
		out = frame(out, 3, channel, m.Body)
	}
	return out
}

func contentHeader(m *amqp.Publishing, table []byte) []byte {
	header := binary.BigEndian.AppendUint16(nil, 60)
	header = binary.BigEndian.AppendUint16(header, 0)
	header = binary.BigEndian.AppendUint64(header, uint64(len(m.Body)))
	const contentType, headers, correlation, kind = 1 << 15, 1 << 13, 1 << 10, 1 << 5
	header = binary.BigEndian.AppendUint16(header, contentType|headers|correlation|kind)
	header = shortString(header, m.ContentType)
	header = binary.BigEndian.AppendUint32(header, uint32(len(table)))
	header = append(header, table...)
	header = shortString(header, m.CorrelationId)
	return shortString(header, m.Type)
}

func shortString(out []byte, s string) []byte { return append(append(out, byte(len(s))), s...) }

func frame(out []byte, kind byte, channel uint16, payload []byte) []byte {
	out = append(out, kind)
	out = binary.BigEndian.AppendUint16(out, channel)
	out = binary.BigEndian.AppendUint32(out, uint32(len(payload)))
	return append(append(out, payload...), 0xCE)
}
