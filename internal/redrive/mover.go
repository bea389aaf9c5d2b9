package redrive

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// mover is a connection with a channel that takes and acknowledges and one that
// publishes. Only one message is under way at a time, so whatever the broker
// says on the publishing channel is about that message.
type mover struct {
	conn    *amqp.Connection
	socket  net.Conn
	timeout time.Duration
	take    *amqp.Channel
	out     *amqp.Channel // nil until needed, and after it has failed
	returns chan amqp.Return
	closes  chan *amqp.Error
	late    atomic.Bool // guard has cut the connection
}

// leftError says that a message was not moved and nothing is wrong with the
// connection: others can be.
type leftError struct{ reason string }

func (e *leftError) Error() string { return e.reason }

func connect(ctx context.Context, o Options) (*mover, error) {
	if _, err := amqp.ParseURI(o.URL); err != nil { // its text may quote a password
		return nil, errors.New("the address is not of the form amqp://user:password@host:port/vhost")
	}
	m := &mover{timeout: o.Timeout}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName("harebus redrive")
	conn, err := amqp.DialConfig(o.URL, amqp.Config{
		Heartbeat:       5 * time.Second,
		Properties:      properties,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		Dial: func(network, address string) (net.Conn, error) {
			dialer := net.Dialer{Timeout: o.Timeout}
			socket, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			m.socket = socket
			return socket, socket.SetDeadline(time.Now().Add(o.Timeout)) // the client lifts it after the handshake
		},
	})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	m.conn = conn
	if m.take, err = conn.Channel(); err != nil {
		return nil, errors.Join(fmt.Errorf("open a channel: %w", err), conn.Close())
	}
	return m, nil
}

// guard cuts the connection if stop is not called in time: the client waits for
// the broker without a limit of its own.
func (m *mover) guard() (stop func()) {
	t := time.AfterFunc(m.timeout, func() {
		m.late.Store(true)
		_ = m.socket.Close()
	})
	return func() { t.Stop() }
}

// depth is the number of messages that are ready.
func (m *mover) depth(queue string) (int, error) {
	defer m.guard()()
	q, err := m.take.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		return 0, fmt.Errorf("look at the error queue %q: %w", queue, err)
	}
	return q.Messages, nil
}

// get takes the next message; ok is false when there is none.
func (m *mover) get(queue string) (d amqp.Delivery, ok bool, err error) {
	defer m.guard()()
	if d, ok, err = m.take.Get(queue, false); err != nil {
		return d, false, fmt.Errorf("take a message from %q: %w", queue, err)
	}
	return d, ok, nil
}

// move publishes p to a queue, waits for the confirm and acknowledges d. A
// *leftError means that p is nowhere and the run can go on. Any other error ends
// the connection: p may have arrived, or it has and d was not acknowledged.
func (m *mover) move(queue string, p amqp.Publishing, d *amqp.Delivery) error {
	defer m.guard()()
	if err := m.publish(queue, p); err != nil {
		return err
	}
	if err := d.Ack(false); err != nil {
		return fmt.Errorf("it was sent to %q but could not be removed here, so it is in both: %w", queue, err)
	}
	return nil
}

func (m *mover) publish(queue string, p amqp.Publishing) error {
	if err := m.open(); err != nil {
		return err
	}
	confirm, err := m.out.PublishWithDeferredConfirm("", queue, true, false, p)
	if err != nil {
		return fmt.Errorf("send it to %q, where it may have arrived or not: %w", queue, err)
	}
	<-confirm.Done() // a channel that ends resolves it too
	if confirm.Acked() {
		select {
		case <-m.returns: // a return comes before its confirm
			return &leftError{fmt.Sprintf("there is no queue %q", queue)}
		default:
			return nil
		}
	}
	return m.refused(queue)
}

// refused says why there was no confirm. The channel is not used again.
func (m *mover) refused(queue string) error {
	out, closes := m.out, m.closes
	m.out = nil
	if !out.IsClosed() {
		_ = out.Close() // it has done its duty
		return &leftError{fmt.Sprintf("the broker does not take it into queue %q; is that full?", queue)}
	}
	cause := <-closes
	if cause != nil && !m.conn.IsClosed() {
		return &leftError{fmt.Sprintf("the broker refuses it: %v", cause)}
	}
	err := errors.New("the connection was lost")
	if m.late.Load() {
		err = fmt.Errorf("the broker did not answer within %v", m.timeout)
	} else if cause != nil {
		err = cause
	}
	return fmt.Errorf("send it to %q, where it may have arrived or not: %w", queue, err)
}

// open makes sure that there is a channel to publish on.
func (m *mover) open() error {
	if m.out != nil {
		return nil
	}
	ch, err := m.conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	m.out = ch
	m.returns = ch.NotifyReturn(make(chan amqp.Return, 1))
	m.closes = ch.NotifyClose(make(chan *amqp.Error, 1))
	return nil
}

// close ends the connection in order. The broker then gives back whatever was not
// acknowledged. That is left to it on purpose: a nack of many messages at once
// takes a classic queue of RabbitMQ 3.10 time that grows with their square (8,000
// messages: over a minute, in which the queue does nothing else; the end of the
// channel: 16 ms).
func (m *mover) close() error {
	defer m.guard()()
	if m.conn.IsClosed() {
		return nil
	}
	var faults []error
	if !m.take.IsClosed() { // the answer says that all acknowledgements have been read
		faults = append(faults, m.take.Close())
	}
	faults = append(faults, m.conn.Close())
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}
