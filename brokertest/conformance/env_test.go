package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/harebus/harebus/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target is a broker the suite runs on.
type target struct {
	name    string
	url     string
	version string // of a real broker, as it says itself
	modern  bool   // a broker of this run is 4.0 or later
	newest  bool   // a broker of this run is 4.3 or later

	delivered atomic.Int64 // by the broker in process
	dial      func(network, addr string) (net.Conn, error)
}

// patience is how long a test waits for something that must happen, quiet how
// long for something that must not.
const (
	patience = 10 * time.Second
	quiet    = 150 * time.Millisecond
)

// targets starts the broker in process and lists the real ones.
func targets(t testing.TB) []*target {
	t.Helper()
	b := brokertest.New()
	t.Cleanup(b.Close)
	inProcess := &target{name: "brokertest", url: b.URL(), dial: b.Dial}
	b.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Match: func(brokertest.Frame) bool {
		inProcess.delivered.Add(1)
		return false // it only counts
	}})
	out := []*target{inProcess}
	for i, url := range realBrokers() {
		conn, err := amqp.Dial(url)
		if err != nil {
			t.Fatalf("broker %d of AMQP_URLS: %v", i+1, err)
		}
		version, _ := conn.Properties["version"].(string)
		_ = conn.Close() // it served its purpose
		out = append(out, &target{name: "rabbitmq-" + version, url: url, version: version, dial: amqp.DefaultDial(patience)})
	}
	modern := slices.ContainsFunc(out, func(b *target) bool { return b.atLeast(4, 0) })
	newest := slices.ContainsFunc(out, func(b *target) bool { return b.atLeast(4, 3) })
	for _, b := range out {
		b.modern, b.newest = modern, newest
	}
	return out
}

// realBrokers returns the addresses in AMQP_URL and AMQP_URLS.
func realBrokers() []string {
	var urls []string
	for _, name := range []string{"AMQP_URL", "AMQP_URLS"} {
		for url := range strings.SplitSeq(os.Getenv(name), ",") {
			if url != "" {
				urls = append(urls, url)
			}
		}
	}
	return urls
}

// atLeast says whether a real broker has at least the given version. The broker
// in process behaves like 3.10.
func (b *target) atLeast(major, minor int) bool {
	var ma, mi int
	if _, err := fmt.Sscanf(b.version, "%d.%d", &ma, &mi); err != nil {
		ma, mi = 3, 10
	}
	return ma > major || ma == major && mi >= minor
}

// env is one test on one broker.
type env struct {
	*testing.T
	broker *target
	prefix string
	conn   *amqp.Connection
	ch     *amqp.Channel
}

// behaviour is a named test.
type behaviour struct {
	name string
	run  func(*env)
}

// runAll runs behaviours on every broker.
func runAll(t *testing.T, behaviours []behaviour) {
	t.Helper()
	for _, b := range targets(t) {
		t.Run(b.name, func(t *testing.T) {
			for _, bh := range behaviours {
				t.Run(bh.name, func(t *testing.T) {
					t.Parallel()
					bh.run(newEnv(t, b))
				})
			}
		})
	}
}

func newEnv(t *testing.T, b *target) *env {
	e := &env{T: t, broker: b, prefix: fmt.Sprintf("ct-%d-", rand.Uint64())}
	e.conn = e.dial()
	e.ch = e.channel(e.conn)
	return e
}

// n makes a name no other test uses.
func (e *env) n(name string) string { return e.prefix + name }

func (e *env) dial() *amqp.Connection {
	e.Helper()
	conn, err := e.tryDial(e.broker.url, amqp.Config{})
	if err != nil {
		e.Fatal(err)
	}
	return conn
}

func (e *env) tryDial(url string, cfg amqp.Config) (*amqp.Connection, error) {
	cfg.Dial = e.broker.dial
	cfg.Heartbeat = patience
	conn, err := amqp.DialConfig(url, cfg)
	if err == nil {
		e.Cleanup(func() { _ = conn.Close() }) // the test may have closed it
	}
	return conn, err
}

func (e *env) channel(conn *amqp.Connection) *amqp.Channel {
	e.Helper()
	ch, err := conn.Channel()
	e.ok(err)
	return ch
}

// confirming opens a channel in confirm mode.
func (e *env) confirming() *amqp.Channel {
	e.Helper()
	ch := e.channel(e.conn)
	e.ok(ch.Confirm(false))
	return ch
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// want compares what came with what should.
func want[T comparable](e *env, what string, got, wanted T) {
	e.Helper()
	if got != wanted {
		e.Fatalf("%s: got %v, want %v", what, got, wanted)
	}
}

// code checks that an error is the broker's, with a code.
func (e *env) code(err error, code int) {
	e.Helper()
	var ae *amqp.Error
	if !errors.As(err, &ae) {
		e.Fatalf("got error %v, want one with code %d", err, code)
	}
	if ae.Code != code {
		e.Fatalf("got %d %q, want code %d", ae.Code, ae.Reason, code)
	}
}

// fails runs f on a channel of its own and checks that it fails with code and
// that the channel is closed by it.
func (e *env) fails(code int, f func(ch *amqp.Channel) error) {
	e.Helper()
	ch := e.channel(e.conn)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := f(ch); err != nil {
		e.code(err, code)
		return
	}
	e.closes(closed, code)
}

// closes waits for a channel or connection to be closed with a code.
func (e *env) closes(closed chan *amqp.Error, code int) {
	e.Helper()
	select {
	case err := <-closed:
		if err == nil {
			e.Fatalf("closed without error, want code %d", code)
		}
		e.code(err, code)
	case <-time.After(patience):
		e.Fatalf("not closed, want code %d", code)
	}
}

// kills runs f on a connection of its own and checks that the connection is
// closed with code.
func (e *env) kills(code int, f func(ch *amqp.Channel) error) {
	e.Helper()
	conn := e.dial()
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	_ = f(e.channel(conn)) // what it returns depends on what arrives first
	e.closes(closed, code)
}

// queue declares a queue that is gone after the test. Transient queues are
// exclusive, which every version of RabbitMQ allows.
func (e *env) queue(name string, args amqp.Table) string {
	e.Helper()
	q, err := e.ch.QueueDeclare(e.n(name), true, false, false, false, args)
	e.ok(err)
	e.dropQueue(q.Name)
	return q.Name
}

func (e *env) dropQueue(name string) {
	e.Cleanup(func() {
		conn, err := e.tryDial(e.broker.url, amqp.Config{})
		if err != nil {
			return
		}
		defer conn.Close()
		if ch, err := conn.Channel(); err == nil {
			_, _ = ch.QueueDelete(name, false, false, false) // it may be gone
		}
	})
}

func (e *env) exchange(name, kind string, args amqp.Table) string {
	e.Helper()
	e.ok(e.ch.ExchangeDeclare(e.n(name), kind, true, false, false, false, args))
	e.dropExchange(e.n(name))
	return e.n(name)
}

func (e *env) dropExchange(name string) {
	e.Cleanup(func() {
		conn, err := e.tryDial(e.broker.url, amqp.Config{})
		if err != nil {
			return
		}
		defer conn.Close()
		if ch, err := conn.Channel(); err == nil {
			_ = ch.ExchangeDelete(name, false, false) // it may be gone
		}
	})
}

func (e *env) bind(queue, key, exchange string) {
	e.Helper()
	e.ok(e.ch.QueueBind(queue, key, exchange, false, nil))
}

// outcome is what became of a publish.
type outcome string

const (
	confirmed outcome = "confirmed"
	nacked    outcome = "nacked"
	returned  outcome = "returned"
)

// publish publishes, mandatory and confirmed, and says what became of it.
func (e *env) publish(exchange, key string, p amqp.Publishing) outcome {
	e.Helper()
	ch := e.confirming()
	defer ch.Close()
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, p)
	e.ok(err)
	acked, err := c.WaitContext(ctx)
	e.ok(err)
	select {
	case r := <-returns:
		want(e, "return code", r.ReplyCode, uint16(amqp.NoRoute))
		return returned
	default:
	}
	if !acked {
		return nacked
	}
	return confirmed
}

// send publishes texts to a queue and expects each to be confirmed.
func (e *env) send(queue string, bodies ...string) {
	e.Helper()
	for _, body := range bodies {
		want(e, "publish of "+body, e.publish("", queue, amqp.Publishing{Body: []byte(body)}), confirmed)
	}
}

// consume subscribes as "consumer" with a prefetch of its own, on a channel of
// its own.
func (e *env) consume(queue string, prefetch int) (*amqp.Channel, <-chan amqp.Delivery) {
	e.Helper()
	ch := e.channel(e.conn)
	if prefetch > 0 {
		e.ok(ch.Qos(prefetch, 0, false))
	}
	in, err := ch.Consume(queue, "consumer", false, false, false, false, nil)
	e.ok(err)
	return ch, in
}

// leave closes a channel of consume. Without the cancel a quorum queue may lose
// the last acknowledgements.
func (e *env) leave(ch *amqp.Channel) {
	e.Helper()
	e.ok(ch.Cancel("consumer", false))
	e.ok(ch.Close())
}

// next takes the next delivery.
func (e *env) next(in <-chan amqp.Delivery) amqp.Delivery {
	e.Helper()
	select {
	case d, ok := <-in:
		if !ok {
			e.Fatal("consumer ended")
		}
		return d
	case <-time.After(patience):
		e.Fatal("no delivery")
	}
	panic("unreachable")
}

// expect takes deliveries with these bodies, in this order.
func (e *env) expect(in <-chan amqp.Delivery, bodies ...string) []amqp.Delivery {
	e.Helper()
	var ds []amqp.Delivery
	for i, body := range bodies {
		d := e.next(in)
		want(e, fmt.Sprintf("body of delivery %d", i+1), string(d.Body), body)
		ds = append(ds, d)
	}
	return ds
}

// none checks that nothing comes.
func (e *env) none(in <-chan amqp.Delivery) {
	e.Helper()
	select {
	case d, ok := <-in:
		if ok {
			e.Fatalf("unexpected delivery %q", d.Body)
		}
		e.Fatal("consumer ended")
	case <-time.After(quiet):
	}
}

// get fetches a message within patience.
func (e *env) get(queue string) amqp.Delivery {
	e.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); pause() {
		d, ok, err := e.ch.Get(queue, true)
		e.ok(err)
		if ok {
			return d
		}
	}
	e.Fatalf("%s stays empty", queue)
	panic("unreachable")
}

// pause is between two looks at a broker that cannot say when something is done.
func pause() { <-time.After(5 * time.Millisecond) }

// depth waits until a queue has n ready messages.
func (e *env) depth(queue string, n int) {
	e.Helper()
	last := -1
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); pause() {
		q, err := e.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		e.ok(err)
		if last = q.Messages; last == n {
			return
		}
	}
	e.Fatalf("%s has %d messages, want %d", queue, last, n)
}

// deaths returns the x-death header.
func deaths(e *env, d amqp.Delivery) []amqp.Table {
	e.Helper()
	items, ok := d.Headers["x-death"].([]any)
	if !ok {
		e.Fatalf("x-death is %v", d.Headers["x-death"])
	}
	var out []amqp.Table
	for _, item := range items {
		t, ok := item.(amqp.Table)
		if !ok {
			e.Fatalf("x-death entry is %v", item)
		}
		out = append(out, t)
	}
	return out
}

func text(s string) amqp.Publishing { return amqp.Publishing{Body: []byte(s)} }

var quorum = amqp.Table{"x-queue-type": "quorum"}

// with returns a copy of args that has more.
func with(args amqp.Table, more amqp.Table) amqp.Table {
	out := amqp.Table{}
	for _, t := range []amqp.Table{args, more} {
		maps.Copy(out, t)
	}
	return out
}

// kinds are the queue types most behaviours are the same for.
var kinds = []struct {
	name string
	args amqp.Table
}{{"classic", nil}, {"quorum", quorum}}
