package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// finding is one of the doctor's.
type finding struct {
	Fault          bool
	What, Why, Fix string
}

// examine runs the doctor and returns the findings by what they are.
func examine(t *testing.T, url, file string) map[string]finding {
	t.Helper()
	r := execute(t, "", "doctor", "-json", "-url", url, file)
	var report struct {
		Findings []finding
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v\nstdout:\n%s\nstderr:\n%s", err, r.out, r.err)
	}
	if (r.code == exitOK) != (len(report.Findings) == 0) {
		t.Errorf("exit code %d with %d findings", r.code, len(report.Findings))
	}
	found := map[string]finding{}
	for _, f := range report.Findings {
		found[f.What+": "+f.Why] = f
	}
	return found
}

// matching returns the finding whose text has all words.
func matching(found map[string]finding, words ...string) (finding, bool) {
	for text, f := range found {
		all := true
		for _, word := range words {
			all = all && strings.Contains(text, word)
		}
		if all {
			return f, true
		}
	}
	return finding{}, false
}

// queueFault replaces the queue by one with other arguments: the wanted ones, changed.
func queueFault(queue string, change func(q *topology.Queue)) func(*testing.T, *amqp.Channel) {
	return func(t *testing.T, ch *amqp.Channel) {
		t.Helper()
		setup, err := harebus.New(ordersService)
		if err != nil {
			t.Fatal(err)
		}
		var found topology.Topology
		for _, q := range setup.Topology().Queues {
			if q.Name == queue {
				change(&q)
				found.Queues = append(found.Queues, q)
			}
		}
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
		for _, b := range setup.Topology().Bindings {
			if b.Queue == queue {
				found.Bindings = append(found.Bindings, b)
			}
		}
		if err := found.Declare(ch); err != nil {
			t.Fatal(err)
		}
	}
}

func argument(name string, value any) func(*topology.Queue) {
	return func(q *topology.Queue) {
		if q.Arguments[name] = value; value == nil {
			delete(q.Arguments, name)
		}
	}
}

// faults are what can be wrong with a broker, the words by which the doctor names it, and the
// command that it prints.
var faults = map[string]struct {
	plant func(*testing.T, *amqp.Channel)
	words []string
	fix   string
}{
	"no listener queue": {deleted("orders"), []string{`queue "orders" does not exist`, "returned to the sender"}, "topology apply"},
	"no error queue":    {deleted("error"), []string{`queue "error" does not exist`, "no place to go"}, "topology apply"},
	"no exchange": {func(t *testing.T, ch *amqp.Channel) {
		if err := ch.ExchangeDelete("PikaBusTopic", false, false); err != nil {
			t.Fatal(err)
		}
	}, []string{`exchange "PikaBusTopic" does not exist`}, "topology apply"},
	"other kind of exchange": {exchangeFault("fanout", nil, false), []string{"kind fanout → direct", "does not start"}, "topology apply -replace-exchanges"},
	"alternate exchange":     {exchangeFault("direct", amqp.Table{"alternate-exchange": "amq.fanout"}, false), []string{"alternate-exchange", "reports success"}, "topology apply -replace-exchanges"},
	"internal exchange":      {exchangeFault("direct", nil, true), []string{"internal true", "refuses whatever is published"}, "topology apply -replace-exchanges"},
	"classic queue": {queueFault("orders", func(q *topology.Queue) { q.Type, q.Arguments = topology.Classic, nil }),
		[]string{"type classic → quorum", "lives on one node"}, "topology migrate"},
	"auto-delete queue": {queueFault("orders", func(q *topology.Queue) { q.Type, q.Arguments, q.AutoDelete = topology.Classic, nil, true }),
		[]string{"auto-delete true → false", "when its last consumer ends"}, "topology migrate"},
	"queue that is not durable": {queueFault("orders", func(q *topology.Queue) { q.Type, q.Arguments, q.Transient = topology.Classic, nil, true }),
		[]string{"transient true → false", "after a restart"}, "topology migrate"},
	"time to live":            {queueFault("orders", argument("x-message-ttl", 60000)), []string{"x-message-ttl 60000 → none", "waits longer"}, "topology migrate"},
	"expiry":                  {queueFault("orders", argument("x-expires", 3600000)), []string{"x-expires", "nobody has consumed"}, "topology migrate"},
	"no delivery limit":       {queueFault("orders", argument("x-delivery-limit", nil)), []string{"x-delivery-limit none → 20", "again and again"}, "topology migrate"},
	"no dead-lettering":       {queueFault("orders", undead), []string{"x-dead-letter-exchange none", "drops the message instead of parking"}, "topology migrate"},
	"at most once":            {queueFault("orders", argument("x-dead-letter-strategy", nil)), []string{"x-dead-letter-strategy none", "lost on the way to the error queue"}, "topology migrate"},
	"overflow":                {queueFault("orders", argument("x-overflow", nil)), []string{"x-overflow none", "falls back to at-most-once"}, "topology migrate"},
	"dead letters to nowhere": {queueFault("orders", argument("x-dead-letter-routing-key", "nowhere")), []string{`names queue "nowhere", which does not exist`}, "topology migrate"},
	"dead letters to no exchange": {queueFault("orders", argument("x-dead-letter-exchange", "gone")),
		[]string{`x-dead-letter-exchange "gone" does not exist`}, "topology migrate"},
	"maximum length": {queueFault("error", argument("x-max-length", 1000)), []string{"x-max-length 1000 → none", "drops the oldest"}, "topology migrate"},
	"error queue without limit": {queueFault("error", argument("x-delivery-limit", nil)),
		[]string{`"error"`, "looked at 21 times"}, "topology migrate"},
	"error queue with a low limit": {queueFault("error", argument("x-delivery-limit", 20)),
		[]string{`"error"`, "x-delivery-limit 20: the broker drops"}, "topology migrate"},
	"failed messages": {func(t *testing.T, ch *amqp.Channel) {
		put(t, ch, "error", amqp.Publishing{Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}})
	}, []string{"1 failed messages wait"}, "redrive"},
	"lost deferred messages": {func(t *testing.T, ch *amqp.Channel) {
		if err := (topology.Delays{}).Base().Declare(ch); err != nil {
			t.Fatal(err)
		}
		put(t, ch, "harebus.delay.lost", amqp.Publishing{Headers: amqp.Table{"CC": []any{"due//orders"}}})
	}, []string{`1 deferred messages lie in queue "harebus.delay.lost"`}, "deferred restore -lost"},
}

func undead(q *topology.Queue) {
	for name := range q.Arguments {
		if strings.HasPrefix(name, "x-dead-letter") {
			delete(q.Arguments, name)
		}
	}
}

func deleted(queue string) func(*testing.T, *amqp.Channel) {
	return func(t *testing.T, ch *amqp.Channel) {
		t.Helper()
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
	}
}

func exchangeFault(kind string, args amqp.Table, internal bool) func(*testing.T, *amqp.Channel) {
	return func(t *testing.T, ch *amqp.Channel) {
		t.Helper()
		if err := ch.ExchangeDelete("PikaBusDirect", false, false); err != nil {
			t.Fatal(err)
		}
		if err := ch.ExchangeDeclare("PikaBusDirect", kind, true, false, internal, false, args); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDoctorFindsFaults plants each fault on a broker of its own, runs the command that the
// doctor prints, and the doctor finds it no more.
func TestDoctorFindsFaults(t *testing.T) {
	t.Parallel()
	if len(faults) < 20 {
		t.Errorf("only %d faults", len(faults))
	}
	file := topologyFile(t, ordersService)
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
			if f, ok := matching(examine(t, url, file), fault.words...); ok {
				t.Fatalf("found before it was planted: %+v", f)
			}
			fault.plant(t, client(t, b))
			before := objectNames(b)
			f, ok := matching(examine(t, url, file), fault.words...)
			if !ok {
				t.Fatalf("not found among %+v", examine(t, url, file))
			}
			if after := objectNames(b); after != before {
				t.Errorf("the doctor has changed %s to %s", before, after)
			}
			if !strings.HasPrefix(f.Fix, "harebus "+fault.fix) {
				t.Fatalf("the fix is %q", f.Fix)
			}
			mend(t, b, url, f.Fix)
			if again, ok := matching(examine(t, url, file), fault.words...); ok {
				t.Errorf("after %s there is still %+v", f.Fix, again)
			}
		})
	}
}

func objectNames(b *brokertest.Broker) string {
	var names []string
	for _, q := range b.Queues() {
		names = append(names, q.Name)
	}
	for _, x := range b.Exchanges() {
		names = append(names, x.Name)
	}
	return strings.Join(names, " ")
}

// mend runs a printed command of harebus. No consumer holds anything here, so it need not wait.
func mend(t *testing.T, b *brokertest.Broker, url, command string) {
	t.Helper()
	command, _, _ = strings.Cut(command, "   (")
	command = strings.ReplaceAll(command, "-api http://HOST:15672", "-api "+managementOf(t, b))
	if strings.Contains(command, "topology migrate -api") {
		command = strings.Replace(command, "-api", "-settle 30s -api", 1)
	}
	words := strings.Fields(strings.ReplaceAll(command, "-settle 30s", "-settle 50ms"))[1:]
	at := 1
	if words[0] == "topology" || words[0] == "deferred" {
		at = 2
	}
	args := append(append(append([]string{}, words[:at]...), "-url", url), words[at:]...)
	execute(t, "", args...).check(t, exitOK, "")
}

// TestDoctorIsQuiet: nothing is found for a service that runs on a broker as it should be.
func TestDoctorIsQuiet(t *testing.T) {
	t.Parallel()
	_, url := newBroker(t)
	cfg := ordersService
	cfg.URL = url
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	setup.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = setup.Stop(context.Background()) }()
	r := execute(t, "", "doctor", "-url", url, topologyFile(t, ordersService))
	r.check(t, exitOK, "")
	for _, want := range []string{"✓ ", "0 findings", "– not checked: policies", "the consumer timeout"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("doctor does not print %q:\n%s", want, r.out)
		}
	}
}

// TestDoctorSeesTheBroker: what is wrong with the broker itself, or with its limits.
func TestDoctorSeesTheBroker(t *testing.T) {
	t.Parallel()
	file := topologyFile(t, ordersService)
	for name, test := range map[string]struct {
		options []brokertest.Option
		block   string
		words   []string
		fix     string
	}{
		"memory":   {nil, "low on memory", []string{"takes no messages: low on memory"}, "set_vm_memory_high_watermark"},
		"disk":     {nil, "low on disk", []string{"takes no messages: low on disk"}, "set_disk_free_limit"},
		"frames":   {[]brokertest.Option{brokertest.WithFrameMax(8192)}, "", []string{"frame_max is 8192"}, "frame_max, 131072"},
		"channels": {[]brokertest.Option{brokertest.WithChannelMax(8)}, "", []string{"only 8 channels"}, "channel_max, 2047"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.New(test.options...)
			t.Cleanup(b.Close)
			at, err := b.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			url := "amqp://guest:guest@" + at.String() + "/"
			if test.block != "" {
				b.Block(test.block)
			}
			f, ok := matching(examine(t, url, file), test.words...)
			if !ok || !strings.Contains(f.Fix, test.fix) {
				t.Errorf("found %+v", examine(t, url, file))
			}
		})
	}
}
