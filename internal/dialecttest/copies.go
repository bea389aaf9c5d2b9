package dialecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
)

// Copies sends each golden to a service whose handler postpones it, fails, fails for good, and takes it when it has come back from
// the error queue; then the handler stores the message and has it forwarded to another queue. Each time the
// message must be read as the first time, and in the error queue it must have all that its peer wrote.
func Copies(t *testing.T, d dialect.Dialect, goldens ...string) {
	t.Helper()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := Load(t, name)
			synctest.Test(t, func(t *testing.T) { travel(t, d, w) })
		})
	}
}

// trip is what becomes of one message.
type trip struct {
	*testing.T
	ctx    context.Context
	broker *brokertest.Broker
	seen   []*harebus.Message
	notes  map[string]any // that the peer's tools need of a parked message
}

func travel(t *testing.T, d dialect.Dialect, w dialect.Wire) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	x := &trip{T: t, ctx: ctx, broker: brokertest.New(), notes: map[string]any{}}
	if parker, ok := d.(dialect.Parker); ok {
		x.notes = parker.Parked(dialect.Failure{Queue: "orders", Kind: "error", Text: "attempt 3"})
	}
	defer x.broker.Close()
	s, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: x.broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{d}},
		Retry: harebus.RetryConfig{MaxRetries: 1, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.HandleMessage(harebus.AnyType, x.handle)
	second, err := s.Endpoint(harebus.EndpointConfig{Queue: "second"})
	if err != nil {
		t.Fatal(err)
	}
	second.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		x.seen = append(x.seen, m)
		return nil
	})
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	x.put(publishing(&w))
	x.quiet("error")
	parked := x.broker.Messages("error")
	if len(parked) != 1 || len(x.seen) != 3 {
		t.Fatalf("%d messages parked after %d attempts", len(parked), len(x.seen))
	}
	x.kept(&w, &parked[0].Publishing, d.Name())
	x.redrive()
	x.quiet()
	if len(x.seen) != 5 {
		t.Fatalf("%d attempts", len(x.seen))
	}
	for i, m := range x.seen[1:] {
		x.same(i+2, m, x.seen[0])
	}
	for key := range x.notes {
		if value, left := x.seen[3].Headers[key]; left {
			t.Errorf("moved back, it still has the header %s: %v", key, value)
		}
	}
}

// handle is the handler of the first queue.
func (x *trip) handle(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
	x.seen = append(x.seen, m)
	switch len(x.seen) {
	case 1:
		return harebus.Postpone(time.Minute, errors.New("later"))
	case 2, 3:
		return fmt.Errorf("attempt %d", len(x.seen))
	}
	e, err := m.Envelope("", "second")
	if err != nil {
		return err
	}
	head, err := e.Head()
	if err != nil {
		return err
	}
	stored, err := harebus.OpenEnvelope(e.Exchange(), e.RoutingKey(), head, bytes.Clone(e.Body()))
	if err != nil {
		return err
	}
	return errors.Join(bus.Forward(ctx, []harebus.Envelope{stored})...)
}

// put publishes the message as its peer does.
func (x *trip) put(p amqp.Publishing) {
	x.Helper()
	p.Expiration = "" // the test takes longer
	x.publish("orders", p)
}

func (x *trip) publish(queue string, p amqp.Publishing) {
	x.Helper()
	conn, err := amqp.DialConfig(x.broker.URL(), amqp.Config{Dial: x.broker.Dial})
	if err != nil {
		x.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		x.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false, p)
	if err != nil {
		x.Fatal(err)
	}
	if ok, err := confirm.WaitContext(x.ctx); !ok || err != nil {
		x.Fatal(ok, err)
	}
}

func (x *trip) quiet(except ...string) {
	x.Helper()
	if err := x.broker.WaitQuiet(x.ctx, except...); err != nil {
		x.Fatal(err)
	}
}

// redrive moves the message back.
func (x *trip) redrive() {
	x.Helper()
	err := errorqueue.With(x.ctx, errorqueue.Config{Connect: harebus.ConnectConfig{URLs: []string{x.broker.URL()}}, Dial: x.broker.Dial, NoAudit: true}, func(q *errorqueue.Queue) error {
		found, err := q.Look(x.ctx, errorqueue.Filter{})
		if err != nil {
			return err
		}
		_, err = q.Retry(x.ctx, found.Messages, errorqueue.Options{})
		return err
	})
	if err != nil {
		x.Fatal(err)
	}
}

// kept fails the test if the parked message lacks something that its peer wrote.
func (x *trip) kept(w *dialect.Wire, p *amqp.Publishing, name string) {
	x.Helper()
	if p.Headers["PikaBus.Dialect"] != name {
		x.Errorf("the parked message is of the dialect %v", p.Headers["PikaBus.Dialect"])
	}
	for key, value := range x.notes {
		if got, ok := p.Headers[key]; !ok || got != value && !strings.Contains(key, "Time") {
			x.Errorf("the header %s of a parked message is %v, want %v", key, got, value)
		}
		delete(p.Headers, key)
	}
	for key, value := range w.Headers {
		if _, replaced := x.notes[key]; replaced {
			continue
		}
		stored := key
		if header.OfBroker(key) {
			stored = "PikaBus." + key
		}
		if field.Deadly(value) { // it is named instead
			if left := fmt.Sprint(p.Headers["PikaBus.LeftOut"]); !strings.Contains(left, key) {
				x.Errorf("left out are %s, and not %s", left, key)
			}
			continue
		}
		if got, ok := p.Headers[stored]; !ok || !alike(got, value) {
			x.Errorf("the header %s is %#v, and was %#v", key, got, value)
		}
		delete(p.Headers, stored)
	}
	for key := range p.Headers {
		if !strings.HasPrefix(key, "PikaBus.") {
			x.Errorf("the header %s has been added", key)
		}
	}
	was := publishing(w)
	if was.MessageId == "" {
		was.MessageId = p.MessageId // copies have one
	}
	for of, m := range map[*amqp.Publishing]bool{&was: true, p: false} {
		of.DeliveryMode, of.Expiration, of.Headers = 2, "", nil
		if of.Timestamp = of.Timestamp.UTC(); len(of.Body) == 0 && m {
			of.Body = nil
		}
	}
	if !reflect.DeepEqual(was, *p) {
		x.Errorf("the parked message is %+v\nwas %+v", *p, was)
	}
}

// alike compares values of headers, with their types. Times may be of other zones.
func alike(a, b any) bool { return fmt.Sprintf("%#v", plain(a)) == fmt.Sprintf("%#v", plain(b)) }

func plain(v any) any {
	switch v := v.(type) {
	case time.Time:
		return [1]int64{v.Unix()}
	case amqp.Table:
		all := map[string]any{}
		for key, one := range v {
			all[key] = plain(one)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, one := range v {
			all[i] = plain(one)
		}
		return all
	}
	return v
}

// same compares what the handler was given with what it was given first.
func (x *trip) same(attempt int, got, first *harebus.Message) {
	x.Helper()
	of := func(m *harebus.Message) map[string]any {
		headers := maps.Clone(m.Headers)
		maps.DeleteFunc(headers, func(key string, _ any) bool {
			_, noted := x.notes[key]
			return header.OfBroker(key) || strings.HasPrefix(key, "PikaBus.") || noted
		})
		return map[string]any{
			"ID": m.ID, "CorrelationID": m.CorrelationID, "CausationID": m.CausationID, "Type": m.Type, "Intent": m.Intent, "ReplyTo": m.ReplyTo,
			"OriginatingAddress": m.OriginatingAddress, "ContentType": m.ContentType, "ContentEncoding": m.ContentEncoding,
			"TimeSent": m.TimeSent.UTC(), "Headers": plain(amqp.Table(headers)), "Body": string(m.Body),
		}
	}
	a, b := of(got), of(first)
	for name := range a {
		if fmt.Sprintf("%#v", a[name]) != fmt.Sprintf("%#v", b[name]) {
			x.Errorf("attempt %d: %s is %#v, and was %#v", attempt, name, a[name], b[name])
		}
	}
}

// Put publishes a message to a queue as its peer does.
func Put(t *testing.T, broker *brokertest.Broker, queue string, w *dialect.Wire) {
	t.Helper()
	x := &trip{T: t, ctx: t.Context(), broker: broker}
	x.publish(queue, publishing(w))
}
