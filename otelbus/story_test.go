package otelbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/otelbus"
)

// PlaceOrder is a command.
type PlaceOrder struct{ ID int }

// MessageType is the wire name.
func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// OrderPlaced is an event.
type OrderPlaced struct{ ID int }

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// OptionalEvent allows that nobody has subscribed.
func (OrderPlaced) OptionalEvent() bool { return true }

// rig is a service on the in-process broker, whose spans are recorded.
type rig struct {
	t      *testing.T
	ctx    context.Context // ends after a virtual day
	broker *brokertest.Broker
	spans  *tracetest.SpanRecorder
	tracer *sdk.TracerProvider
}

func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		spans := tracetest.NewSpanRecorder()
		r := &rig{t: t, ctx: ctx, broker: brokertest.New(), spans: spans, tracer: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))}
		defer r.broker.Close()
		test(t, r)
	})
}

// setup makes a setup with an Observer.
func (r *rig) setup(queue string, cfg otelbus.Config) *harebus.Setup {
	r.t.Helper()
	cfg.TracerProvider = r.tracer
	telemetry, err := otelbus.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{
		URL: r.broker.URL(), Dial: r.broker.Dial, Queue: queue, Consume: harebus.ConsumeConfig{Concurrency: 1},
		Observers: []harebus.Observer{telemetry},
		Retry:     harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := setup.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return setup
}

func (r *rig) start(setups ...*harebus.Setup) {
	r.t.Helper()
	for _, setup := range setups {
		if err := setup.Start(r.ctx); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) do(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// wantTree compares the spans that have ended with a drawing.
func (r *rig) wantTree(want string) {
	r.t.Helper()
	r.do(r.broker.WaitQuiet(r.ctx, "error"))
	synctest.Wait()
	var got strings.Builder
	tree(&got, r.spans.Ended())
	if got.String() != want {
		r.t.Errorf("the traces are\n%s\nwant\n%s", got.String(), want)
	}
}

var errDatabase = errors.New("no connection to the database")

// A message that fails twice and is then handled is one trace: the attempts are beside each other below the sending, each with
// a link to the one before. None of them is an error.
func TestRetried(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		s := r.setup("orders", otelbus.Config{})
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
			if harebus.Incoming(ctx).Attempt < 3 {
				return errDatabase
			}
			return bus.Publish(ctx, "orders.placed", OrderPlaced(o))
		})
		r.start(s)
		r.do(s.Bus().Send(r.ctx, "orders", PlaceOrder{7}))
		r.wantTree(`trace 1
  send orders
    process orders (1: retried)
      retry orders
    process orders (2: retried) → process orders (1: retried)
      retry orders
    process orders (3: handled) → process orders (2: retried)
      publish PikaBusTopic
      commit → publish PikaBusTopic
`)
	})
}

// A message that fails for good is an error, in its last attempt alone. What is taken from the error queue starts a new trace
// with links to the sending and to the last attempt.
func TestParkedAndRedriven(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		broken := true
		s := r.setup("orders", otelbus.Config{})
		harebus.Handle(s, func(context.Context, *harebus.Bus, PlaceOrder) error {
			if broken {
				return errDatabase
			}
			return nil
		})
		r.start(s)
		r.do(s.Bus().Send(r.ctx, "orders", PlaceOrder{7}))
		r.do(r.broker.WaitQuiet(r.ctx, "error"))
		broken = false
		r.redrive()
		r.wantTree(`trace 1
  send orders
    process orders (1: retried)
      retry orders
    process orders (2: retried) → process orders (1: retried)
      retry orders
    process orders (3: parked) ERROR no connection to the database → process orders (2: retried)
      park error
trace 2
  process orders (1: handled) → process orders (3: parked) → send orders
`)
	})
}

// redrive moves the messages of the error queue back, without the headers of the failure, as the command harebus redrive does.
func (r *rig) redrive() {
	r.t.Helper()
	ch := r.channel()
	for {
		d, ok, err := ch.Get("error", true)
		if r.do(err); !ok {
			return
		}
		for _, name := range []string{
			harebus.HeaderErrorRetries, harebus.HeaderErrorDetails, harebus.HeaderSourceQueue, harebus.HeaderDeferredTime, harebus.HeaderFirstFailed,
		} {
			delete(d.Headers, "PikaBus."+name)
		}
		r.do(ch.PublishWithContext(r.ctx, "", "orders", true, false, amqp.Publishing{
			Headers: d.Headers, ContentType: d.ContentType, MessageId: d.MessageId, CorrelationId: d.CorrelationId, Type: d.Type, Body: d.Body,
		}))
	}
}

// channel is one of a client of its own.
func (r *rig) channel() *amqp.Channel {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.do(err)
	r.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	r.do(err)
	return ch
}

// A message that waited for longer than NewTraceAfter starts a new trace, and so does each attempt if that is negative.
func TestNewTrace(t *testing.T) {
	t.Run("deferred for an hour", func(t *testing.T) {
		bubble(t, func(_ *testing.T, r *rig) {
			s := r.setup("orders", otelbus.Config{})
			harebus.Handle(s, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
			r.start(s)
			r.do(s.Bus().Defer(r.ctx, "orders", time.Minute, PlaceOrder{1}))
			r.do(s.Bus().Defer(r.ctx, "orders", time.Hour, PlaceOrder{2}))
			r.wantTree(`trace 1
  defer orders
    process orders (1: handled)
trace 2
  defer orders
trace 3
  process orders (1: handled) → defer orders
`)
		})
	})
	t.Run("always", func(t *testing.T) {
		bubble(t, func(_ *testing.T, r *rig) {
			s := r.setup("orders", otelbus.Config{NewTraceAfter: -1})
			harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ PlaceOrder) error {
				if harebus.Incoming(ctx).Attempt == 1 {
					return errDatabase
				}
				return nil
			})
			r.start(s)
			r.do(s.Bus().Send(r.ctx, "orders", PlaceOrder{1}))
			r.wantTree(`trace 1
  send orders
trace 2
  process orders (1: retried) → send orders
    retry orders
trace 3
  process orders (2: handled) → process orders (1: retried) → send orders
`)
		})
	})
}

// A conversation of several services is one trace. A handler that passes on all headers of its message does not pass on the
// trace context and the attempt in them: the receiver belongs to the new message.
func TestConversation(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		orders, shop := r.setup("orders", otelbus.Config{}), r.setup("shop", otelbus.Config{})
		harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
			m := harebus.Incoming(ctx)
			if m.Attempt == 1 {
				return errDatabase
			}
			return bus.Reply(ctx, OrderPlaced(o), harebus.WithHeaders(m.CustomHeaders()))
		})
		harebus.Handle(shop, func(context.Context, *harebus.Bus, OrderPlaced) error { return nil })
		r.start(orders, shop)
		r.do(shop.Bus().Send(r.ctx, "orders", PlaceOrder{7}))
		r.wantTree(`trace 1
  send orders
    process orders (1: retried)
      retry orders
    process orders (2: handled) → process orders (1: retried)
      reply
        process shop (1: handled)
      commit → reply
`)
	})
}

// A request lasts until its reply has come; the reply is below the attempt to handle it.
func TestRequest(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		orders, shop := r.setup("orders", otelbus.Config{}), r.setup("", otelbus.Config{})
		harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
			return bus.Reply(ctx, OrderPlaced(o))
		})
		r.start(orders)
		if _, err := harebus.Request[OrderPlaced](r.ctx, shop.Bus(), "orders", PlaceOrder{7}); err != nil {
			r.t.Fatal(err)
		}
		r.wantTree(`trace 1
  request orders
    process orders (1: handled)
      reply
      commit → reply
`)
	})
}

// The attempts to handle a message that came without a trace context are one trace all the same: the first is the parent of
// the others.
func TestWithoutTrace(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		s := r.setup("orders", otelbus.Config{})
		harebus.Handle(s, func(context.Context, *harebus.Bus, PlaceOrder) error { return errDatabase })
		r.start(s)
		r.publish(amqp.Table{})
		r.wantTree(`trace 1
  process orders (1: retried)
    retry orders
    process orders (2: retried) → process orders (1: retried)
      retry orders
    process orders (3: parked) ERROR no connection to the database → process orders (2: retried)
      park error
`)
	})
}

// A message that comes before its time, as PikaBus sends it, is put off without an attempt.
func TestEarly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup("orders", otelbus.Config{})
		harebus.Handle(s, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
		r.start(s)
		r.publish(amqp.Table{
			"traceparent":          "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01",
			"PikaBus.DeferredTime": time.Now().Add(time.Minute).UTC().Format(time.RFC3339),
		})
		r.do(r.broker.WaitQuiet(r.ctx))
		synctest.Wait()
		for at, name := range []string{"postpone orders", "process orders"} {
			span := r.spans.Ended()[at]
			if span.Name() != name || span.Parent().SpanID().String() != "0102030405060708" || len(span.Links()) > 0 {
				t.Errorf("span %d is %s below %v, links %v", at, span.Name(), span.Parent().SpanID(), span.Links())
			}
		}
	})
}

// publish sends an order as a client of its own does.
func (r *rig) publish(headers amqp.Table) {
	r.t.Helper()
	r.do(r.channel().PublishWithContext(r.ctx, "", "orders", true, false, amqp.Publishing{
		Headers: headers, ContentType: "application/json", Type: "PlaceOrder", Body: []byte(`{"ID":7}`),
	}))
}

// What other buses write is read, and what is no trace context does no harm.
func TestHeadersOfOthers(t *testing.T) {
	const (
		ours  = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
		other = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-0102030405060708-01"
	)
	for name, test := range map[string]struct {
		headers amqp.Table
		known   bool
	}{
		"W3C":                       {amqp.Table{"traceparent": ours}, true},
		"W3C, as bytes":             {amqp.Table{"traceparent": []byte(ours)}, true},
		"MassTransit":               {amqp.Table{"MT-Activity-Id": ours}, true},
		"MassTransit and W3C":       {amqp.Table{"MT-Activity-Id": other, "traceparent": ours}, true},
		"Wolverine":                 {amqp.Table{"parent-id": ours}, true},
		"a number":                  {amqp.Table{"traceparent": int64(1)}, false},
		"an old activity":           {amqp.Table{"MT-Activity-Id": "|1a2b.3c."}, false},
		"too long":                  {amqp.Table{"traceparent": strings.Repeat("0", 100_000)}, false},
		"no hexadecimal":            {amqp.Table{"traceparent": strings.Replace(ours, "1", "x", 1)}, false},
		"an attempt without a link": {amqp.Table{"attempt-traceparent": "nothing"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup("orders", otelbus.Config{})
				harebus.Handle(s, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
				r.start(s)
				r.publish(test.headers)
				r.do(r.broker.WaitQuiet(r.ctx))
				synctest.Wait()
				span := r.spans.Ended()[0]
				if known := span.Parent().TraceID().String() == "0102030405060708090a0b0c0d0e0f10"; known != test.known || len(span.Links()) > 0 {
					t.Errorf("the parent is %v, links %v", span.Parent(), span.Links())
				}
			})
		})
	}
}

// verbose is a propagator that writes a header of 100 kB.
type verbose struct{ propagation.TraceContext }

func (v verbose) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	c.Set("baggage", "tenant0="+strings.Repeat("x", 100_000))
	v.TraceContext.Inject(ctx, c)
}

// Baggage travels if the propagator does that: from the sender to the handler, and with what the handler sends. A header that is
// longer than the W3C allows baggage to be is left out, and the trace goes on.
func TestBaggage(t *testing.T) {
	both := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	for name, test := range map[string]struct {
		propagator propagation.TextMapPropagator
		members    int
		travels    bool
	}{
		"one":                 {both, 1, true},
		"as much as possible": {both, 50, true},
		"no":                  {nil, 1, false},
		"too long":            {verbose{}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup("orders", otelbus.Config{Propagator: test.propagator})
				var found []string
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
					found = append(found, baggage.FromContext(ctx).Member("tenant0").Value())
					if o.ID > 1 {
						return nil
					}
					return bus.Send(ctx, "orders", PlaceOrder{o.ID + 1})
				})
				r.start(s)
				var members []baggage.Member
				for n := range test.members {
					member, err := baggage.NewMember(fmt.Sprint("tenant", n), strings.Repeat("x", 150))
					r.do(err)
					members = append(members, member)
				}
				bag, err := baggage.New(members...)
				r.do(err)
				r.do(s.Bus().Send(baggage.ContextWithBaggage(r.ctx, bag), "orders", PlaceOrder{1}))
				r.do(r.broker.WaitQuiet(r.ctx))
				synctest.Wait()
				if travels := len(found) == 2 && found[0] != "" && found[1] != ""; travels != test.travels {
					t.Errorf("the handler found %q", found)
				}
				if spans := r.spans.Ended(); spans[len(spans)-1].SpanContext().TraceID() != spans[0].SpanContext().TraceID() {
					t.Error("the trace ends")
				}
			})
		})
	}
}

// Spans have the attributes of the messaging conventions.
func TestAttributes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup("orders", otelbus.Config{})
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
			return bus.Publish(ctx, "orders.placed.7", OrderPlaced(o))
		})
		r.start(s)
		r.do(s.Bus().Send(r.ctx, "orders", PlaceOrder{7}, harebus.WithMessageID("id-7"), harebus.WithCorrelationID("conversation-7")))
		if err := s.Bus().Send(r.ctx, "nowhere", PlaceOrder{8}); err == nil {
			t.Error("sent to a queue that does not exist")
		}
		r.do(r.broker.WaitQuiet(r.ctx))
		synctest.Wait()
		for _, want := range []struct {
			name string
			kind trace.SpanKind
			attributes
		}{
			{"send orders", trace.SpanKindProducer, attributes{
				"messaging.system": "rabbitmq", "messaging.operation.name": "send", "messaging.operation.type": "send",
				"messaging.destination.name": "orders", "messaging.message.id": "id-7", "server.address": "brokertest", "server.port": "5672",
				"messaging.message.conversation_id": "conversation-7", "harebus.message.type": "PlaceOrder",
			}},
			{"send nowhere", trace.SpanKindProducer, attributes{"error.type": "returned"}},
			{"process orders", trace.SpanKindConsumer, attributes{
				"messaging.system": "rabbitmq", "messaging.operation.name": "process", "messaging.operation.type": "process",
				"messaging.destination.name": "orders", "messaging.message.id": "id-7", "messaging.message.conversation_id": "conversation-7",
				"harebus.message.type": "PlaceOrder", "server.port": "5672", "harebus.attempt": "1", "harebus.outcome": "handled",
			}},
			{"publish PikaBusTopic", trace.SpanKindProducer, attributes{
				"messaging.operation.type": "create", "messaging.destination.name": "PikaBusTopic",
				"messaging.rabbitmq.destination.routing_key": "orders.placed.7", "harebus.message.type": "OrderPlaced",
			}},
			{"commit", trace.SpanKindClient, attributes{"messaging.operation.type": "send", "messaging.batch.message_count": "1", "server.address": "brokertest"}},
		} {
			at := slices.IndexFunc(r.spans.Ended(), func(s sdk.ReadOnlySpan) bool { return s.Name() == want.name })
			if at < 0 {
				t.Errorf("no span %q", want.name)
				continue
			}
			span := r.spans.Ended()[at]
			got := values(span)
			for key, value := range want.attributes {
				if got[key] != value {
					t.Errorf("%s: %s is %q, not %q", want.name, key, got[key], value)
				}
			}
			if span.SpanKind() != want.kind {
				t.Errorf("%s is a %v", want.name, span.SpanKind())
			}
		}
	})
}

type attributes = map[string]string
