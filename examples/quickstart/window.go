package main

import (
	"context"
	"fmt"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/topology"
)

// window is a plain AMQP connection, to look into queues from outside and to
// leave a broker as it was. A service needs none of it.
type window struct {
	conn *amqp.Connection
	ch   *amqp.Channel
}

func openWindow(ctx context.Context, url string, dial func(network, address string) (net.Conn, error)) (*window, error) {
	if dial == nil {
		dialer := net.Dialer{Timeout: patience}
		dial = func(network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return conn, conn.SetDeadline(time.Now().Add(patience)) // of the handshake; the client lifts it
		}
	}
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: dial, Locale: "en_US"})
	if err != nil {
		if _, parseErr := amqp.ParseURI(url); parseErr != nil { // its text may hold the password
			return nil, fmt.Errorf("the address is not of the form amqp://user:password@host:port/vhost")
		}
		return nil, fmt.Errorf("connect: %w", err)
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	return &window{conn, ch}, nil
}

// clean removes the queues of the quickstart. The exchanges and the delay queues
// stay: all services on a broker share them.
func (w *window) clean() error {
	queues := []string{ordersQueue, billingQueue, shippingQueue, shopQueue, errorQueue}
	for _, queue := range queues {
		var exits topology.Delays
		for _, exit := range exits.Exit("", queue).Queues {
			queues = append(queues, exit.Name)
		}
	}
	for _, queue := range queues {
		if _, err := w.ch.QueueDelete(queue, false, false, false); err != nil {
			return fmt.Errorf("delete queue %s: %w", queue, err)
		}
	}
	return nil
}

// look takes a message from a queue.
func (w *window) look(queue string) (amqp.Delivery, error) {
	d, ok, err := w.ch.Get(queue, true)
	if err == nil && !ok {
		err = fmt.Errorf("nothing is in it")
	}
	if err != nil {
		return d, fmt.Errorf("look into queue %s: %w", queue, err)
	}
	return d, nil
}

func (w *window) close() { _ = w.conn.Close() }
