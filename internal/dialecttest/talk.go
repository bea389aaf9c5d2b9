package dialecttest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/topology"
)

// Place is a broker on which a service and a peer meet.
type Place struct {
	URL  string
	Dial func(network, address string) (net.Conn, error)
	// Goldens is the folder with the goldens; empty is testdata.
	Goldens string
}

// Script is a conversation between a service and a plain client that plays a peer, from the goldens, byte for byte.
type Script struct {
	Dialect dialect.Dialect
	// Ask is a request of the peer, of the wire name Asks, and Waits the queue for its answer.
	Ask, Asks, Waits string
	// Via is the exchange by which the peer sends commands; empty is the default exchange.
	Via string
	// Change makes a request (true) or an event of a golden that is something else; nil leaves all as they are.
	Change func(w *dialect.Wire, request bool)
	// Answered and Failed check the answers of a handler that takes the request, and of one that fails with "no such order". Without Failed the
	// peer knows no such answer, and Parked checks what is in the error queue; nil checks nothing more.
	Answered, Failed func(t *testing.T, asked, answer *dialect.Wire)
	Parked           func(t *testing.T, parked *dialect.Wire)
	// Answer and Fault are answers of the peer to a request of ours; Adapt makes one of a golden for that request. Without Fault there is none.
	Answer, Fault string
	Adapt         func(t *testing.T, answer, asked *dialect.Wire)
	// Said is the text of Fault, or a part of it.
	Said string
	// Event is what the peer publishes, of the wire name EventType.
	Event, EventType string
	// Listens is the exchange to which the peer binds a queue for our event of EventType. Named says that our call names it, because the dialect
	// has no convention for that; events of the peer have no correlation id then.
	Listens string
	Named   bool
	Heard   func(t *testing.T, event *dialect.Wire)
	// Declare has the peer make what it makes at its start: once before the service has made its own, and once after. The broker must not refuse either.
	Declare func(peer *amqp.Channel) error
	// Topology is what the service declares for the peer, for its queue orders.
	Topology topology.Topology
}

type (
	question struct {
		ID int `json:"id"`
	}
	status struct {
		ID     int    `json:"id"`
		Status string `json:"status"`
	}
	event struct {
		ID int `json:"id"`
	}
)

func (status) MessageType() string { return "OrderStatus" }

// stage is one run of a script.
type stage struct {
	*testing.T
	ctx   context.Context
	of    *Script
	at    Place
	peer  *amqp.Channel
	bus   *harebus.Bus
	event chan *harebus.Message
}

// Talk plays a script.
func Talk(t *testing.T, at Place, s Script) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	x := &stage{T: t, ctx: ctx, of: &s, at: at, event: make(chan *harebus.Message, 1)}
	conn, err := amqp.DialConfig(at.URL, amqp.Config{Dial: at.Dial})
	x.must(err)
	defer func() { _ = conn.Close() }()
	x.peer, err = conn.Channel()
	x.must(err)
	x.must(x.peer.Confirm(false))
	x.declare()
	setup := x.service(at)
	defer func() { x.must(setup.Close()) }()
	x.bus = setup.Bus()
	x.declare()
	for _, queue := range []string{s.Waits, "theirs", "events"} {
		_, err = x.peer.QueueDeclare(queue, false, true, false, false, nil)
		x.must(err)
	}
	x.theyAsk()
	x.weAsk()
	x.theyPublish()
	x.wePublish()
}

func (x *stage) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

// declare has the peer start.
func (x *stage) declare() {
	x.Helper()
	if x.of.Declare != nil {
		x.must(x.of.Declare(x.peer))
	}
}

func (x *stage) load(golden string) dialect.Wire {
	x.Helper()
	return load(x, cmp.Or(x.at.Goldens, "testdata"), golden)
}

// service starts the service.
func (x *stage) service(at Place) *harebus.Setup {
	x.Helper()
	setup, err := harebus.New(harebus.Config{
		URL: at.URL, Dial: at.Dial, Queue: "orders", Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{x.of.Dialect}},
		Declare: harebus.DeclareConfig{Topology: x.of.Topology},
	})
	x.must(err)
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, q question) error {
		if q.ID < 0 {
			return harebus.NoRetry(errors.New("no such order"))
		}
		return bus.Reply(ctx, status{q.ID, "placed"})
	}, harebus.WithType(x.of.Asks))
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, _ event) error {
		x.event <- harebus.Incoming(ctx)
		return nil
	}, harebus.WithType(x.of.EventType))
	x.must(setup.Start(x.ctx))
	return setup
}

// send has the peer publish a message.
func (x *stage) send(exchange, key string, w *dialect.Wire) {
	x.Helper()
	confirm, err := x.peer.PublishWithDeferredConfirm(exchange, key, true, false, publishing(w))
	x.must(err)
	ok, err := confirm.WaitContext(x.ctx)
	x.must(err)
	if !ok {
		x.Fatal("not confirmed")
	}
}

// receive has the peer take a message.
func (x *stage) receive(queue string) *dialect.Wire {
	x.Helper()
	for x.ctx.Err() == nil {
		d, ok, err := x.peer.Get(queue, true)
		x.must(err)
		if ok {
			p := dialect.Properties{
				ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority, CorrelationID: d.CorrelationId,
				ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageID: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, AppID: d.AppId,
			}
			return &dialect.Wire{Exchange: d.Exchange, RoutingKey: d.RoutingKey, Headers: d.Headers, Properties: p, Body: d.Body}
		}
		time.Sleep(10 * time.Millisecond)
	}
	x.Fatalf("nothing came to %s", queue)
	return nil
}

// theyAsk has the peer ask, and be answered, and once with a request that fails.
func (x *stage) theyAsk() {
	x.Helper()
	ask := func() dialect.Wire {
		w := x.load(x.of.Ask)
		if x.of.Change != nil {
			x.of.Change(&w, true)
		}
		return w
	}
	key := map[bool]string{true: "orders"}[x.of.Via == ""]
	asked := ask()
	x.send(x.of.Via, key, &asked)
	x.of.Answered(x.T, &asked, x.receive(x.of.Waits))
	asked.Body = bytes.Replace(asked.Body, []byte(`7`), []byte(`-7`), 1)
	if bytes.Contains(asked.Body, []byte(`"id": 7`)) { // it is an envelope
		asked = ask()
		asked.Body = bytes.Replace(asked.Body, []byte(`"id": 7`), []byte(`"id": -7`), 1)
	}
	x.send(x.of.Via, key, &asked)
	if x.of.Failed != nil {
		x.of.Failed(x.T, &asked, x.receive(x.of.Waits))
		return
	}
	if parked := x.receive("error"); x.of.Parked != nil {
		x.of.Parked(x.T, parked)
	}
}

// weAsk has the service ask.
func (x *stage) weAsk() {
	x.Helper()
	for _, golden := range []string{x.of.Answer, x.of.Fault} {
		if golden == "" {
			continue
		}
		type result struct {
			status
			err error
		}
		done := make(chan result, 1)
		go func() {
			got, err := harebus.Request[status](x.ctx, x.bus, "theirs", question{7}, harebus.WithType(x.of.Asks), harebus.As(x.of.Dialect))
			done <- result{got, err}
		}()
		asked := x.receive("theirs")
		answer := x.load(golden)
		x.of.Adapt(x.T, &answer, asked)
		x.send("", answer.RoutingKey, &answer)
		got := <-done
		var fault *harebus.FaultError
		switch isFault := golden == x.of.Fault; {
		case isFault && (!errors.As(got.err, &fault) || !strings.Contains(fault.Details, x.of.Said)):
			x.Errorf("%s: the request ended with %+v", golden, got)
		case !isFault && (got.err != nil || got.ID != 7):
			x.Errorf("%s: the request ended with %+v", golden, got)
		}
	}
}

// theyPublish has the peer publish.
func (x *stage) theyPublish() {
	x.Helper()
	w := x.load(x.of.Event)
	if x.of.Change != nil {
		x.of.Change(&w, false)
	}
	x.send(w.Exchange, w.RoutingKey, &w)
	select {
	case m := <-x.event:
		if m.Type != x.of.EventType || m.ID == "" || m.CorrelationID == "" && !x.of.Named {
			x.Errorf("got %+v", m)
		}
	case <-x.ctx.Done():
		x.Fatal("the event has not come")
	}
}

// wePublish has the service publish.
func (x *stage) wePublish() {
	x.Helper()
	options, key := []harebus.SendOption{harebus.WithType(x.of.EventType), harebus.As(x.of.Dialect)}, ""
	if x.of.Named {
		options, key = append(options, harebus.WithExchange(x.of.Listens)), "order.placed"
	}
	x.must(x.peer.QueueBind("events", key, x.of.Listens, false, nil))
	x.must(x.bus.Publish(x.ctx, "order.placed", event{8}, options...))
	<-x.event // our own queue has subscribed, too
	w := x.receive("events")
	if !strings.Contains(string(w.Body), `"id":8`) {
		x.Errorf("the body is %s", w.Body)
	}
	x.of.Heard(x.T, w)
}
