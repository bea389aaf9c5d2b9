package proof_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/badinput"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

// elsewhere are the kinds of bad input that no case of package badinput stands for: proved by another test, or about
// something that the library does not do.
var elsewhere = map[string]string{
	"26": "not built: authenticated user ids",
	"27": "not built: authenticated user ids",
	"37": "a name in the gzip header has no effect; the client's limits are those of compress/gzip (512 bytes)",
	"38": "not built: codecs other than JSON, text and bytes",
	"39": "New refuses a service on its error queue (TestConfigFaults), so no failure goes in circles there",
}

// contentOf is the body as whoever gets it sees it: a handler gets a compressed one as it was.
func contentOf(c *badinput.Case) []byte {
	if plain, err := (harebus.Gzip{}).Decompress(c.Message.Body, 1<<20); err == nil && c.Want == badinput.Handled {
		return plain
	}
	return c.Message.Body
}

// Every kind of bad input comes while a service works under load. Each is parked as it was, or handled; no good message
// is lost, repeated or parked for it, and no connection is.
func TestBadInput(t *testing.T) {
	node := private(t, rabbit.Options{})
	var good, all int
	for _, tight := range []bool{false, true} {
		t.Run(map[bool]string{false: "usual", true: "tight"}[tight], func(t *testing.T) {
			b := beginBadInput(t, node, tight)
			all += len(b.cases)
			good += b.judge()
		})
	}
	for n := 1; n <= 40; n++ {
		number := fmt.Sprintf("%02d", n)
		covered := slices.ContainsFunc(badinput.All(), func(c badinput.Case) bool {
			return strings.HasPrefix(c.Name, number+" ")
		})
		if _, other := elsewhere[number]; covered == other {
			t.Errorf("bad input %s: %q beside a case in the table, or neither", number, elsewhere[number])
		}
	}
	t.Logf("bad input: %d of %d cases", good, all)
	for _, number := range slices.Sorted(maps.Keys(elsewhere)) {
		t.Logf("bad input %s: %s", number, elsewhere[number])
	}
}

// badInput is a run into which bad messages come.
type badInput struct {
	*run
	cases map[string]*badinput.Case // by their correlation id, which is their id in the ledger

	mu     sync.Mutex // guards what follows
	faults map[string][]error
	ended  map[string]bool // handled or parked
}

// beginBadInput is begin for a service that also handles the bad messages.
func beginBadInput(t *testing.T, node *rabbit.Node, tight bool) *badInput {
	t.Helper()
	r := &run{
		T: t, plan: plan{nodes: []*rabbit.Node{node}, rate: 200},
		name: "proof-" + uuid.NewString()[:8], stopped: make(chan struct{}),
	}
	b := &badInput{run: r, cases: map[string]*badinput.Case{}, faults: map[string][]error{}, ended: map[string]bool{}}
	for i, c := range badinput.All() {
		if c.Tight == tight {
			b.cases[fmt.Sprintf("%s/bad/%d %s", r.name, i, plainly(c.Name))] = &c
		}
	}
	const soon = 200 * time.Millisecond
	r.cfg = r.config()
	r.cfg.Subscriptions = []string{badinput.Subscription}
	r.cfg.ErrorQueue.Name = badinput.ErrorQueue
	r.cfg.ErrorQueue.Type = topology.Classic         // a quorum queue would add x-delivery-count to what is looked at
	r.cfg.Handling.Unhandled = harebus.UnhandledPark // the kinds of input say which are parked at once
	r.cfg.Retry = harebus.RetryConfig{MaxRetries: badinput.MaxRetries, BackOff: func() backoff.BackOff {
		return backoff.NewConstantBackOff(soon)
	}}
	if tight {
		badinput.Tighten(&r.cfg)
	}
	var err error
	r.service, err = proof.NewService(r.cfg, ledger.NewBook(), proof.Options{Pause: soon, Linger: time.Second})
	r.try(err)
	badinput.Handle(r.service.Setup, b.saw)
	b.start()
	return b
}

// plainly is the beginning of a name, with nothing but letters and digits.
func plainly(name string) string {
	plain := strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '-'
	}, name)
	return plain[:min(len(plain), 60)]
}

// start starts the service and the load, and returns when they have run for a while.
func (b *badInput) start() {
	b.Helper()
	b.try(b.service.Setup.Init(b.within(patience)))
	b.try(b.service.Setup.Start(b.within(patience)))
	b.Cleanup(func() { _ = b.service.Setup.Stop(context.Background()) }) // after a failure; else it is stopped already
	loading, stop := context.WithCancel(b.Context())
	b.stop = stop
	go func() {
		defer close(b.stopped)
		proof.Load{Service: b.service, Run: b.name, Rate: b.plan.rate, Publishers: 20}.Send(loading)
	}()
	time.Sleep(calm)
}

// saw writes down what a handler of a bad message got and is about to return.
func (b *badInput) saw(m *harebus.Message, err error) {
	id := m.Properties.CorrelationID
	c, ok := b.cases[id]
	if !ok {
		id = "unknown " + id // a phantom
		c = &badinput.Case{}
	}
	e := ledger.Event{Op: ledger.Recv, ID: id, Attempt: m.Attempt, Redelivered: m.Redelivered, Sum: ledger.Sum(m.Body)}
	b.service.Book.Record(e)
	e.Op = ledger.Effect
	if err != nil || c.Want == badinput.Retried { // a reply that nobody takes fails after the handler
		e.Op = ledger.Failed
	}
	b.service.Book.Record(e)
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.See != nil {
		b.note(id, c.See(m))
	}
	if e.Op == ledger.Effect {
		b.ended[id] = true
	}
}

// note keeps a fault of a case. It is called with b.mu held.
func (b *badInput) note(id string, err error) {
	if err != nil {
		b.faults[id] = append(b.faults[id], err)
	}
}

// judge sends the bad messages, waits for what becomes of them and lets the ledger judge. It returns the number of
// cases without a fault.
func (b *badInput) judge() int {
	b.Helper()
	p := newPlainClient(b.T, b.plan.nodes[0].URL())
	p.declare(badinput.Victims...)
	before := b.service.Setup.Stats()
	b.service.Book.Record(ledger.Event{Op: ledger.FaultBegin, Err: "bad input"})
	for id, c := range b.cases {
		c.Message.CorrelationId = id
		b.service.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: id, Sum: ledger.Sum(contentOf(c))})
		if c.Topic == "" {
			p.publish(b.cfg.Queue, c)
		} else {
			p.send(b.cfg.Exchanges.Topic, c.Topic, c.Message)
		}
		b.service.Book.Record(ledger.Event{Op: ledger.SendOK, ID: id})
	}
	b.collect(p)
	b.service.Book.Record(ledger.Event{Op: ledger.FaultEnd, Err: "bad input"})
	b.checkVictims(p)
	stats := b.service.Setup.Stats()
	verdict := b.end(func(e *ledger.Expect) {
		e.Fails = func(id string) bool {
			c, bad := b.cases[id]
			return proof.MeantToFail(id) || bad && c.Want != badinput.Handled
		}
	})
	if stats.Connections != before.Connections || stats.Redelivered != before.Redelivered || verdict.Duplicates != 0 {
		b.Errorf("%d duplicated; counts\n before %+v\n after  %+v", verdict.Duplicates, before, stats)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, faults := range b.faults {
		b.Errorf("%s: %v", b.cases[id].Name, errors.Join(faults...))
	}
	return len(b.cases) - len(b.faults)
}

// collect waits until every bad message is handled or in the error queue, and takes it out of there. What else lies
// there is left to the ledger.
func (b *badInput) collect(p *plainClient) {
	b.Helper()
	began := time.Now()
	for len(b.open()) > 0 && time.Since(began) < patience {
		d, ok, err := p.ch.Get(badinput.ErrorQueue, false)
		b.try(err)
		if !ok {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if c, bad := b.cases[d.CorrelationId]; bad {
			b.service.Book.Record(ledger.Event{Op: ledger.Parked, ID: d.CorrelationId, Sum: ledger.Sum(d.Body)})
			b.try(d.Ack(false))
			b.mu.Lock()
			b.note(d.CorrelationId, c.CheckCopy(published(&d)))
			b.ended[d.CorrelationId] = true
			b.mu.Unlock()
		}
	}
	for _, id := range b.open() {
		b.mu.Lock()
		b.note(id, fmt.Errorf("neither handled nor parked within %v", patience))
		b.mu.Unlock()
	}
	b.try(p.ch.Nack(0, true, true)) // those of the load
}

// open are the bad messages that have not ended.
func (b *badInput) open() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var open []string
	for id := range b.cases {
		if !b.ended[id] {
			open = append(open, id)
		}
	}
	return open
}

// checkVictims counts the copies that the publisher's own CC made. There must be no other.
func (b *badInput) checkVictims(p *plainClient) {
	b.Helper()
	own := 0
	for _, c := range b.cases {
		if c.Message.Headers["CC"] != nil {
			own++
		}
	}
	for i, want := range []int{own, 0} {
		q, err := p.ch.QueueDelete(badinput.Victims[i], false, false, false)
		b.try(err)
		if q != want {
			b.Errorf("%d messages in %q, which headers name; want %d", q, badinput.Victims[i], want)
		}
	}
}

// published is a delivery as it was published.
func published(d *amqp.Delivery) amqp.Publishing {
	return amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode,
		Priority: d.Priority, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration,
		MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, UserId: d.UserId, AppId: d.AppId, Body: d.Body,
	}
}

// A plainClient is a connection of the client library's own, with a channel that waits for confirms.
type plainClient struct {
	*testing.T
	ch     *amqp.Channel // the first of its connection: number 1
	socket net.Conn
}

func newPlainClient(t *testing.T, url string) *plainClient {
	t.Helper()
	p := &plainClient{T: t}
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		socket, err := amqp.DefaultDial(patience)(network, address)
		p.socket = socket
		return socket, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if p.ch, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	if err := p.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return p
}

// declare declares durable classic queues.
func (p *plainClient) declare(queues ...string) {
	p.Helper()
	for _, queue := range queues {
		if _, err := p.ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			p.Fatal(err)
		}
	}
}

// publish puts a case into a queue and waits for the confirm.
func (p *plainClient) publish(queue string, c *badinput.Case) {
	p.Helper()
	if c.Table == nil {
		p.send("", queue, c.Message)
		return
	}
	other := newPlainClient(p.T, p.url()) // written past the client, which would lose count of its confirms
	if _, err := other.socket.Write(c.Frames(1, queue)); err != nil {
		p.Fatal(err)
	}
	// An answer to a request means that what came before has been handled.
	if _, err := other.ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
		p.Fatal(err)
	}
}

// send publishes a message that some queue must take and waits for the confirm.
func (p *plainClient) send(exchange, key string, m amqp.Publishing) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	confirm, err := p.ch.PublishWithDeferredConfirm(exchange, key, true, false, m)
	if err != nil {
		p.Fatal(err)
	}
	if acked, err := confirm.WaitContext(ctx); err != nil || !acked {
		p.Fatalf("publish to %q: acked %t, %v", key, acked, err)
	}
}

// until calls the function repeatedly until it succeeds. It is for states that no
// event reports.
func (p *plainClient) until(check func() error) {
	p.Helper()
	p.untilWithin(patience, check)
}

func (p *plainClient) untilWithin(most time.Duration, check func() error) {
	p.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > most {
			p.Fatalf("still not so after %v: %v", most, err)
		}
	}
}

func (p *plainClient) url() string {
	return "amqp://guest:guest@" + p.socket.RemoteAddr().String() + "/"
}
