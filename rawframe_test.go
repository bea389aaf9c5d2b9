package harebus_test

import (
	"encoding/binary"
	"net"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publishTable publishes a message whose headers table is given in bytes, by
// writing the frames beside a plain client on its connection.
func (r *rig) publishTable(queue string, m amqp.Publishing, table []byte) {
	r.t.Helper()
	var raw net.Conn
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		c, err := r.broker.Dial(network, address)
		raw = c
		return c, err
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := raw.Write(frames(1, queue, m, table)); err != nil {
		r.t.Fatal(err)
	}
	// An answer to a request means that what came before has been handled.
	if _, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
}

// frames encodes a basic.publish through the default exchange.
func frames(channel uint16, queue string, m amqp.Publishing, table []byte) []byte {
	method := binary.BigEndian.AppendUint16(nil, 60)
	method = binary.BigEndian.AppendUint16(method, 40)
	method = append(method, 0, 0, 0) // ticket, exchange ""
	method = append(append(method, byte(len(queue))), queue...)
	method = append(method, 0)

	header := binary.BigEndian.AppendUint16(nil, 60)
	header = binary.BigEndian.AppendUint16(header, 0)
	header = binary.BigEndian.AppendUint64(header, uint64(len(m.Body)))
	const contentType, headers, kind = 1 << 15, 1 << 13, 1 << 5
	header = binary.BigEndian.AppendUint16(header, contentType|headers|kind)
	header = append(append(header, byte(len(m.ContentType))), m.ContentType...)
	header = binary.BigEndian.AppendUint32(header, uint32(len(table)))
	header = append(header, table...)
	header = append(append(header, byte(len(m.Type))), m.Type...)

	out := frame(nil, 1, channel, method)
	out = frame(out, 2, channel, header)
	if len(m.Body) > 0 {
		out = frame(out, 3, channel, m.Body)
	}
	return out
}

func frame(out []byte, kind byte, channel uint16, payload []byte) []byte {
	out = append(out, kind)
	out = binary.BigEndian.AppendUint16(out, channel)
	out = binary.BigEndian.AppendUint32(out, uint32(len(payload)))
	return append(append(out, payload...), 0xCE)
}
