package dialecttest

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
	"github.com/harebus/harebus/internal/wire"
)

// Costs fails the test if reading a golden, from the bytes of its properties on, takes more than 1.5 times the allocations of reading the
// same content with harebus' own headers; or if a dialect that is configured makes those dearer. Headers of the golden that the
// dialect does not read, but passes on to handlers, are in both messages. [Times] measures the time.
func Costs(t *testing.T, d dialect.Dialect, golden string, passedOn ...string) {
	t.Helper()
	const most = 1.5
	bare, configured, foreign := readers(t, d, golden, passedOn)
	a, b, c := testing.AllocsPerRun(200, bare), testing.AllocsPerRun(200, configured), testing.AllocsPerRun(200, foreign)
	if b != a {
		t.Errorf("%v allocations for a message of harebus with the dialect, %v without", b, a)
	}
	if c > most*a {
		t.Errorf("%v allocations for a message of %s, %v for one of harebus", c, d.Name(), a)
	}
}

// Times measures how long reading a golden takes, and reports how many times as long as reading the same content with harebus' own
// headers that is. Both are read in turn, so that a busy machine slows both.
func Times(b *testing.B, d dialect.Dialect, golden string, passedOn ...string) {
	b.Helper()
	const calls = 100
	bare, _, foreign := readers(b, d, golden, passedOn)
	var ours, theirs time.Duration
	measure := func(fn func(), sum *time.Duration) {
		began := time.Now()
		for range calls {
			fn()
		}
		*sum += time.Since(began)
	}
	rounds := 0
	for b.Loop() {
		measure(bare, &ours)
		measure(foreign, &theirs)
		rounds++
	}
	b.ReportMetric(float64(theirs.Nanoseconds())/float64(rounds*calls), "ns/read")
	b.ReportMetric(float64(theirs)/float64(ours), "x-harebus")
}

// readers are functions that read a message of harebus, the same with the dialect configured, and the golden.
func readers(t testing.TB, d dialect.Dialect, golden string, passedOn []string) (bare, configured, foreign func()) {
	t.Helper()
	own := &header.Dialect{Prefix: "PikaBus.", Names: header.NamesOf("PikaBus."), Time: header.ISOTime}
	without, with := peer.New(own, nil, nil, nil, 16<<20), peer.New(own, []dialect.Dialect{d}, nil, []amqp.URI{{Host: Broker.Hosts[0], Vhost: Broker.VirtualHost}}, 16<<20)
	w := Load(t, golden)
	f, _, faults := Read(d, &w)
	if f == nil || len(faults) > 0 {
		t.Fatalf("read: %v", faults)
	}
	others := amqp.Table{}
	for _, name := range passedOn {
		value, ok := w.Headers[name]
		if !ok {
			t.Fatalf("%s has no header %s", golden, name)
		}
		others[name] = value
	}
	ours := packed(t, ownMessage(own, f, others))
	return read(t, without, ours, f.Body), read(t, with, ours, f.Body), read(t, with, packed(t, publishing(&w)), w.Body)
}

// ownMessage has the content of a message as harebus sends it.
func ownMessage(own *header.Dialect, f *peer.Foreign, others amqp.Table) amqp.Publishing {
	const id = "0193a7c2-5f4e-7d3a-8000-000000000000"
	return own.Stamp(&header.Head{
		ID: id, CorrelationID: id, CausationID: id, Type: f.Type, Intent: header.Command, ReplyTo: "orders", OriginatingAddress: "orders",
		ContentType: "application/json", ContentEncoding: "utf-8", TimeSent: time.Now(),
	}, others)
}

// packed are the properties of a message as they come.
func packed(t testing.TB, p amqp.Publishing) []byte {
	t.Helper()
	b, err := wire.AppendProperties(nil, &p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read returns what reads a message.
func read(t testing.TB, p *peer.Peers, properties, body []byte) func() {
	t.Helper()
	return func() {
		d := amqp.Delivery{Body: body}
		if err := wire.ReadProperties(properties, &d); err != nil {
			t.Error(err)
		}
		if _, _, faults := p.Read(&d); len(faults) > 0 {
			t.Error(faults)
		}
	}
}
