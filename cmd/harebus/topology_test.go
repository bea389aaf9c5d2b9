package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// topologyFile writes the topology of a service to a file.
func topologyFile(t *testing.T, cfg harebus.Config) string {
	t.Helper()
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return writeTopology(t, setup.Topology())
}

func writeTopology(t *testing.T, of topology.Topology) string {
	t.Helper()
	encoded, err := json.Marshal(of)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "topology.json")
	if err := os.WriteFile(name, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// ordersService is the service of the tests.
var ordersService = harebus.Config{Queue: "orders", Subscriptions: []string{"payment.*", "refund.made"}}

// TestTopologyPlanAndApply: a new broker lacks everything, and after apply nothing.
func TestTopologyPlanAndApply(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	file := topologyFile(t, ordersService)
	r := execute(t, "", "topology", "plan", "-url", url, file)
	r.check(t, exitDiffers, "")
	for _, want := range []string{`+ exchange "PikaBusTopic": topic`, `+ queue "orders": quorum`, `+ queue "error": quorum`, "4 differences", "not compared: 4 bindings"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("plan does not print %q:\n%s", want, r.out)
		}
	}
	if n := len(b.Queues()); n != 0 {
		t.Fatalf("plan has declared %d queues", n)
	}
	r = execute(t, "", "topology", "apply", "-url", url, file)
	r.check(t, exitOK, "")
	if want := "declared 8 objects; 4 of them were missing\n"; r.out != want {
		t.Errorf("apply printed %q, want %q", r.out, want)
	}
	execute(t, "", "topology", "plan", "-url", url, file).check(t, exitOK, "")
	if n := len(b.Bindings()); n != 4 {
		t.Errorf("there are %d bindings: %v", n, b.Bindings())
	}
	if n := len(b.Queues()); n != 2 {
		t.Errorf("there are %d queues", n)
	}

	all := execute(t, "", "topology", "plan", "-delays", "-url", url, file)
	all.check(t, exitDiffers, "")
	if !strings.Contains(all.out, `+ queue "harebus.delay.due//orders": quorum`) {
		t.Errorf("plan -delays does not print the exit:\n%s", all.out)
	}
}

// TestTopologyPlanNamesEachArgument: the broker tells the value and the type of each argument
// that differs, and of the other properties.
func TestTopologyPlanNamesEachArgument(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	if _, err := ch.QueueDeclare("orders", true, true, false, false, amqp.Table{
		"x-max-length": int32(10), "x-overflow": "reject-publish", "x-dead-letter-exchange": "x", "x-dead-letter-routing-key": "it's but current is 'b'",
		"x-single-active-consumer": true, "x-expires": int64(600000), "x-max-priority": 3,
	}); err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("PikaBusDirect", "fanout", false, true, true, false, amqp.Table{"alternate-exchange": "other"}); err != nil {
		t.Fatal(err)
	}
	file := topologyFile(t, ordersService)
	r := execute(t, "", "topology", "plan", "-json", "-url", url, file)
	r.check(t, exitDiffers, "")
	var got struct {
		Differences []struct{ Action, Object, Text, Remedy string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, d := range got.Differences {
		texts[d.Action+" "+d.Object] = d.Text
	}
	for what, want := range map[string]string{
		`migrate queue "orders"`: `type classic → quorum, auto-delete true → false, x-dead-letter-exchange "x" → "", ` +
			`x-dead-letter-routing-key "it's but current is 'b'" → "error", x-dead-letter-strategy none → "at-least-once", x-delivery-limit none → 20, ` +
			`x-expires 600000 → none, x-max-length 10 → none, x-max-priority 3 → none, x-single-active-consumer true → none (0 waiting, 0 consumers)`,
		`replace exchange "PikaBusDirect"`: `kind fanout → direct, transient true → false, auto-delete true → false, internal true → false, alternate-exchange "other" → none`,
	} {
		if texts[what] != want {
			t.Errorf("%s: %s\nwant %s", what, texts[what], want)
		}
	}
	before := len(b.Queues())
	apply := execute(t, "", "topology", "apply", "-url", url, file)
	apply.check(t, exitDiffers, "nothing was changed")
	if len(b.Queues()) != before {
		t.Error("apply has declared something")
	}
	if _, err := ch.QueueDelete("orders", false, false, false); err != nil {
		t.Fatal(err)
	}
	execute(t, "", "topology", "apply", "-replace-exchanges", "-api", managementOf(t, b), "-url", url, file).check(t, exitOK, "")
	execute(t, "", "topology", "plan", "-url", url, file).check(t, exitOK, "")
}

// TestTopologyExclusiveQueueIsHidden: what cannot be seen is a difference that nobody can end.
func TestTopologyExclusiveQueueIsHidden(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	if _, err := client(t, b).QueueDeclare("orders", false, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	r := execute(t, "", "topology", "plan", "-url", url, topologyFile(t, ordersService))
	r.check(t, exitDiffers, "")
	if want := `? queue "orders": it is exclusive to another connection`; !strings.Contains(r.out, want) {
		t.Errorf("plan does not print %q:\n%s", want, r.out)
	}
}

// TestTopologyPrune removes what an older version has bound, and nothing else.
func TestTopologyPrune(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	old := ordersService
	old.Subscriptions = append([]string{"order.v1.*"}, old.Subscriptions...)
	before, now := topologyFile(t, old), topologyFile(t, ordersService)
	execute(t, "", "topology", "apply", "-url", url, before).check(t, exitOK, "")
	if err := client(t, b).QueueBind("orders", "foreign", "PikaBusTopic", false, nil); err != nil {
		t.Fatal(err)
	}
	look := execute(t, "", "topology", "prune", "-before", before, "-url", url, now)
	look.check(t, exitDiffers, "")
	if want := "- binding \"PikaBusTopic\" → queue \"orders\", key \"order.v1.*\": would remove\nwould remove 1 bindings\n"; look.out != want {
		t.Errorf("prune printed\n%swanted\n%s", look.out, want)
	}
	if n := len(b.Bindings()); n != 6 {
		t.Fatalf("prune without -yes leaves %d bindings", n)
	}
	execute(t, "", "topology", "prune", "-yes", "-before", before, "-url", url, now).check(t, exitOK, "")
	execute(t, "", "topology", "prune", "-yes", "-before", before, "-url", url, now).check(t, exitOK, "")
	if keys := bindingKeys(b); keys != "error foreign orders payment.* refund.made" {
		t.Errorf("left are %s", keys)
	}
}

func bindingKeys(b *brokertest.Broker) string {
	var keys []string
	for _, one := range b.Bindings() {
		keys = append(keys, one.RoutingKey)
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}

// TestTopologyExport: both formats are JSON documents with every object.
func TestTopologyExport(t *testing.T) {
	t.Parallel()
	file := topologyFile(t, ordersService)
	r := execute(t, "", "topology", "export", "-url", "amqp://h/shop", file)
	r.check(t, exitOK, "")
	var definitions map[string][]map[string]any
	if err := json.Unmarshal([]byte(r.out), &definitions); err != nil {
		t.Fatal(err)
	}
	if len(definitions["queues"]) != 2 || len(definitions["exchanges"]) != 2 || len(definitions["bindings"]) != 4 {
		t.Errorf("definitions have %d queues, %d exchanges, %d bindings", len(definitions["queues"]), len(definitions["exchanges"]), len(definitions["bindings"]))
	}
	for _, q := range definitions["queues"] {
		if q["vhost"] != "shop" || q["arguments"].(map[string]any)["x-queue-type"] != "quorum" {
			t.Errorf("queue %v", q)
		}
	}
	r = execute(t, "", "topology", "export", "-format", "kubernetes", "-cluster", "bus", "-url", "amqp://h/shop", file)
	r.check(t, exitOK, "")
	names := map[string]bool{}
	for document := range strings.SplitSeq(strings.TrimPrefix(r.out, "---\n"), "---\n") {
		var manifest struct {
			APIVersion, Kind string
			Metadata         struct{ Name string }
			Spec             map[string]any
		}
		if err := json.Unmarshal([]byte(document), &manifest); err != nil {
			t.Fatalf("%v: %s", err, document)
		}
		if manifest.APIVersion != "rabbitmq.com/v1beta1" || manifest.Spec["vhost"] != "shop" {
			t.Errorf("manifest %+v", manifest)
		}
		names[manifest.Metadata.Name] = true
	}
	if len(names) != 8 {
		t.Errorf("8 objects have %d names: %v", len(names), names)
	}
}

// TestTopologyMisuse: wrong command lines and files end at once, with the reason.
func TestTopologyMisuse(t *testing.T) {
	t.Parallel()
	good := topologyFile(t, ordersService)
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"queues":[{"name":"orders","typ":"quorum"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := writeTopology(t, topology.Topology{})
	for name, test := range map[string]struct {
		want string
		args []string
	}{
		"empty plan":    {"not the topology of a service", []string{"topology", "plan", empty}},
		"empty doctor":  {"not the topology of a service", []string{"doctor", empty}},
		"empty before":  {"not the topology of a service", []string{"topology", "prune", "-before", empty, good}},
		"other verb":    {"-yes is for prune, not for apply", []string{"topology", "apply", "-yes", good}},
		"json":          {"-json is for plan, not for prune", []string{"topology", "prune", "-json", "-before", good, good}},
		"empty api":     {"-api is empty", []string{"topology", "plan", "-api", "", good}},
		"verb":          {"want plan, apply", []string{"topology", "show", good}},
		"no file":       {"needs one file", []string{"topology", "plan"}},
		"absent":        {"no such file", []string{"topology", "plan", "absent.json"}},
		"field":         {`unknown field "typ"`, []string{"topology", "plan", bad}},
		"prune":         {"-before", []string{"topology", "prune", good}},
		"surplus":       {"needs -api", []string{"topology", "prune", "-surplus", good}},
		"replace":       {"needs -api", []string{"topology", "apply", "-replace-exchanges", good}},
		"format":        {"neither", []string{"topology", "export", "-format", "yaml", good}},
		"api":           {"http://host:15672", []string{"topology", "plan", "-api", "u:secret@h", good}},
		"migrate":       {"-only-these", []string{"topology", "migrate", good, "orders"}},
		"settle":        {"-settle", []string{"topology", "migrate", "-only-these", good, "orders"}},
		"migrate queue": {`has no queue "stock"`, []string{"topology", "migrate", "-only-these", "-settle", "1s", good, "stock"}},
		"doctor":        {"want one file", []string{"doctor"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := execute(t, "", test.args...)
			r.check(t, exitUsage, test.want)
			if strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "secret") {
				t.Errorf("stderr: %s", r.err)
			}
		})
	}
	execute(t, "", "topology", "plan", "-timeout", "1s", "-url", "amqp://127.0.0.1:1/", good).check(t, exitFailed, "gave up")
}

// TestReplaceExchangesKeepsBindings: the bindings of others to a replaced exchange are made again, also when the connection is lost
// after the exchange was deleted, and those that cannot be are printed.
func TestReplaceExchangesKeepsBindings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		on   string
		do   brokertest.Action
		code int
		want string
	}{
		"nothing happens":     {"", 0, exitOK, "made again"},
		"the connection ends": {"exchange.delete", brokertest.CutAfter, exitOK, "made again"},
		"one is refused":      {"queue.bind", brokertest.Raise, exitFailed, "harebus topology apply - <<"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			ch := client(t, b)
			file := topologyFile(t, ordersService)
			execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
			exchangeFault("fanout", nil, false)(t, ch)
			for _, queue := range []string{"stock", "mail"} {
				if err := (topology.Topology{Queues: []topology.Queue{{Name: queue}}, Bindings: []topology.Binding{{Exchange: "PikaBusDirect", Key: queue, Queue: queue}}}).Declare(ch); err != nil {
					t.Fatal(err)
				}
			}
			if test.on != "" {
				fault := b.Inject(brokertest.Fault{On: test.on, Do: test.do, Code: 403, Match: func(f brokertest.Frame) bool {
					return f.Method == "exchange.delete" || f.Exchange == "PikaBusDirect" && f.Queue != "error" && f.Queue != "orders"
				}})
				defer func() {
					if fault.Fired() != 1 {
						t.Errorf("the fault has fired %d times", fault.Fired())
					}
				}()
			}
			r := execute(t, "", "topology", "apply", "-replace-exchanges", "-api", managementOf(t, b), "-url", url, file)
			r.check(t, test.code, test.want)
			keys := bindingKeys(b)
			if test.code != exitOK {
				_, rest, _ := strings.Cut(r.err, "<<'END'\n")
				rest, _, _ = strings.Cut(rest, "\nEND")
				execute(t, rest, "topology", "apply", "-url", url, "-").check(t, exitOK, "")
				if after := bindingKeys(b); after == keys {
					t.Error("the printed command makes no binding")
				}
				execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
				keys = bindingKeys(b)
			}
			if keys != "error mail orders payment.* refund.made stock" {
				t.Errorf("the bindings are %s\nstderr: %s", keys, r.err)
			}
		})
	}
}
