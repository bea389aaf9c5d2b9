package session_test

import (
	"net"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/session"
)

// oneByOne writes each half of a frame by itself, so that no message can be put in place of what
// the client writes.
type oneByOne struct{ net.Conn }

func (o oneByOne) Write(b []byte) (int, error) {
	for _, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		if _, err := o.Conn.Write(part); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// TestTable: an encoded table goes as it is. Where that is impossible, the message is not sent
// without its headers.
func TestTable(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		table := []byte("\x00\x00\x00\x07\x01kt\x01\x01nV")
		for queue, wrap := range map[string]func(net.Conn) net.Conn{"whole": nil, "parts": func(c net.Conn) net.Conn { return oneByOne{c} }} {
			cfg := config(b, "host")
			dialer := session.NewDialer(cfg)
			dialer.UnderClient = wrap
			l := session.NewLink("link", dialer, 0)
			defer l.Close()
			s := up(t, l)
			if err := s.WithChannel(t.Context(), func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclare(queue, true, false, false, false, nil)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			plain := 0
			c, err := session.OpenConfirmChannel(t.Context(), s, session.ConfirmConfig{
				Window: 1, Timeout: cfg.Timeout, Log: cfg.Log, Waits: cfg.Waits, Plain: func(bool) { plain++ },
			})
			if err != nil {
				t.Fatal(err)
			}
			send := func(p session.Publishing) session.Result {
				if err := c.Acquire(t.Context()); err != nil {
					t.Fatal(err)
				}
				return c.Wait(t.Context(), c.Publish(t.Context(), &p, func() bool { return false }))
			}
			r := send(session.Publishing{Key: queue, Mandatory: true, Table: table, Message: amqp.Publishing{MessageId: "m"}})
			messages := b.Messages(queue)
			if wrap == nil && (r.Verdict != session.Confirmed || len(messages) != 1 || len(messages[0].Headers) != 2 || messages[0].Headers["k"] != true) {
				t.Errorf("%+v, %v", r, messages)
			}
			if wrap != nil && (r.Verdict != session.NotSent || !strings.Contains(r.Err.Error(), "cannot send a table") || len(messages) != 0) {
				t.Errorf("%+v, %v", r, messages)
			}
			if r = send(session.Publishing{Key: queue, Mandatory: true}); r.Verdict != session.Confirmed || (plain == 1) != (wrap != nil) {
				t.Errorf("the next one: %+v, %d encoded by the client", r, plain)
			}
		}
	})
}
