package harebus_test

import (
	"net"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/badinput"
)

// publishTable publishes a message whose headers table is given in bytes, by
// writing the frames beside a plain client on its connection.
func (r *rig) publishTable(queue string, c *badinput.Case) {
	r.t.Helper()
	var raw net.Conn
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		socket, err := r.broker.Dial(network, address)
		raw = socket
		return socket, err
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := raw.Write(c.Frames(1, queue)); err != nil {
		r.t.Fatal(err)
	}
	// An answer to a request means that what came before has been handled.
	if _, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
}
