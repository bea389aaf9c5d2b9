package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// migrateKills is how often TestMigrateKilled kills a migration: make proof-migrate does it 200 times.
var (
	migrateKills   = flag.Int("migrate-kills", 1, "how often a migration is killed")
	migrateSenders = flag.Int("migrate-senders", 1, "how many send at once to a queue that is migrated, each a message every 5 ms and a confirm")
)

// operator is a place with the built command and a file for the topology of a service.
type operator struct {
	*place

	binary, api, file string
}

func newOperator(p *place, port int) *operator {
	p.Helper()
	built.once.Do(func() { built.binary, built.err = buildCommand() })
	p.try(built.err)
	o := &operator{place: p, binary: built.binary, file: filepath.Join(p.TempDir(), "topology.json")}
	if port > 0 {
		o.api = fmt.Sprintf("http://127.0.0.1:%d", port)
	}
	return o
}

// write writes the topology of a service to the file.
func (o *operator) write(cfg harebus.Config) {
	o.Helper()
	setup, err := harebus.New(cfg)
	o.try(err)
	encoded, err := json.Marshal(setup.Topology())
	o.try(err)
	o.try(os.WriteFile(o.file, encoded, 0o600))
}

// harebus runs the command and returns what it prints and its exit code.
func (o *operator) harebus(args ...string) (string, int) {
	o.Helper()
	cmd := exec.CommandContext(o.within(2*patience), o.binary, args...)
	cmd.Env = []string{"AMQP_URL=" + o.url}
	output, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		o.Fatal(err)
	}
	return string(output), cmd.ProcessState.ExitCode()
}

// ends fails unless the command ends with a code and prints all words.
func (o *operator) ends(code int, args []string, words ...string) string {
	o.Helper()
	output, got := o.harebus(args...)
	if got != code {
		o.Fatalf("harebus %v ends with %d: %s", args, got, output)
	}
	for _, word := range words {
		if !strings.Contains(output, word) {
			o.Errorf("harebus %v does not print %q:\n%s", args, word, output)
		}
	}
	return output
}

// The command harebus, which the tests of this file share. closeBuilt removes it.
var built struct {
	once   sync.Once
	binary string
	err    error
}

func buildCommand() (string, error) {
	folder, err := os.MkdirTemp("", "harebus-command-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(folder, "harebus")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "github.com/harebus/harebus/cmd/harebus")
	if output, err := build.CombinedOutput(); err != nil {
		return binary, fmt.Errorf("%w: %s", err, output)
	}
	return binary, nil
}

func closeBuilt() error {
	if built.binary == "" {
		return nil
	}
	return os.RemoveAll(filepath.Dir(built.binary))
}

// The topology commands and the doctor against a real broker: what differs is found with and without the management
// plugin, and each printed command of rabbitmqctl mends what it is printed for.
func TestOperate(t *testing.T) {
	t.Parallel()
	port := rabbit.NeedPort(t)
	p := private(t, rabbit.Options{
		Plugins: []string{"rabbitmq_management"},
		Config:  []string{"management.tcp.ip = 127.0.0.1", fmt.Sprintf("management.tcp.port = %d", port)},
	})
	o := newOperator(p, port)
	o.write(harebus.Config{Queue: "orders", Subscriptions: []string{"payment.*"}})
	o.compares()
	o.learns()
	o.exports()
	o.heals()
	o.migrates()
	o.alarms()
}

// compares: plan, apply and prune with the management API.
func (o *operator) compares() {
	o.ends(3, []string{"topology", "plan", o.file}, `+ queue "orders": quorum`, "not compared: 3 bindings")
	o.ends(0, []string{"topology", "apply", o.file}, "declared 7 objects; 4 of them were missing")
	o.ends(0, []string{"topology", "plan", o.file})
	o.ends(0, []string{"topology", "plan", "-api", o.api, o.file}, "= 7 objects as wanted, 0 differences")
	b := o.broker()
	b.bind("orders", "order.v1", "PikaBusTopic")
	b.must(func(ch *amqp.Channel) error { return ch.QueueUnbind("orders", "payment.*", "PikaBusTopic", nil) })
	o.ends(3, []string{"topology", "plan", "-api", o.api, o.file}, `key "payment.*": missing`, `key "order.v1": not wanted`)
	o.ends(0, []string{"topology", "apply", "-api", o.api, o.file}, "1 of them were missing")
	o.ends(0, []string{"topology", "prune", "-surplus", "-yes", "-api", o.api, o.file}, "removed 1 bindings")
	o.ends(0, []string{"topology", "plan", "-api", o.api, o.file})
}

// learns: each argument of a queue of each type is told, with its value.
func (o *operator) learns() {
	b := o.broker()
	for name, args := range map[string]amqp.Table{
		"classic": {"x-max-length": 10, "x-overflow": "reject-publish", "x-message-ttl": 60000, "x-expires": 600000, "x-max-priority": 3, "x-single-active-consumer": true, "x-dead-letter-exchange": "x", "x-dead-letter-routing-key": "y"},
		"quorum":  {"x-queue-type": "quorum", "x-max-length-bytes": 1000, "x-overflow": "reject-publish", "x-delivery-limit": 7, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "it's", "x-dead-letter-strategy": "at-least-once"},
		"stream":  {"x-queue-type": "stream", "x-max-length-bytes": 1000000},
	} {
		b.declareQueue("learn."+name, args)
		if name == "quorum" { // and the same asked for by a service that wants no argument
			o.ends(3, []string{"topology", "plan", o.written(topology.Topology{Queues: []topology.Queue{{Name: "learn.quorum"}}})},
				`x-dead-letter-exchange "" → none, x-dead-letter-routing-key "it's" → none, x-dead-letter-strategy "at-least-once" → none, x-delivery-limit 7 → none, x-max-length-bytes 1000 → none, x-overflow "reject-publish" → none`)
		}
	}
	o.ends(3, []string{"topology", "plan", o.written(topology.Topology{Queues: []topology.Queue{
		{Name: "learn.classic", Arguments: map[string]any{"x-max-length": 11, "x-dead-letter-exchange": "z"}},
		{Name: "learn.stream"}, {Name: "learn.absent"},
	}})}, `type classic → quorum, x-dead-letter-exchange "x" → "z", x-dead-letter-routing-key "y" → none, x-expires 600000 → none, x-max-length 10 → 11, x-max-priority 3 → none, x-message-ttl 60000 → none, x-overflow "reject-publish" → none, x-single-active-consumer true → none`,
		`type stream → quorum, x-max-length-bytes 1000000 → none`, `+ queue "learn.absent"`)
	began := time.Now()
	o.ends(3, []string{"topology", "plan", "-delays", o.file}, `+ queue "harebus.delay.1ms"`)
	o.Logf("RabbitMQ %s: a plan of some 500 objects took %v", o.node.Version(), time.Since(began).Round(time.Millisecond))
	if b.exists("harebus.delay.1ms") || b.exists("learn.absent") {
		o.Error("plan has declared a queue")
	}
}

// written writes a topology to a file.
func (o *operator) written(t topology.Topology) string {
	o.Helper()
	encoded, err := json.Marshal(t)
	o.try(err)
	name := filepath.Join(o.TempDir(), "topology.json")
	o.try(os.WriteFile(name, encoded, 0o600))
	return name
}

// exports: the broker takes the exported definitions, and then has what the file wants.
func (o *operator) exports() {
	definitions, code := o.harebus("topology", "export", o.file)
	if code != 0 {
		o.Fatal(definitions)
	}
	b := o.broker()
	for _, name := range []string{"orders", "error"} {
		b.deleteQueue(name)
	}
	b.deleteExchange("PikaBusTopic")
	request, err := http.NewRequestWithContext(o.Context(), http.MethodPost, o.api+"/api/definitions", strings.NewReader(definitions))
	o.try(err)
	request.SetBasicAuth("guest", "guest")
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	o.try(err)
	o.try(response.Body.Close())
	if response.StatusCode/100 != 2 {
		o.Fatalf("the definitions are refused: %s", response.Status)
	}
	o.ends(0, []string{"topology", "plan", "-api", o.api, o.file}, "0 differences")
}

// heals: the doctor finds what a service's user may not do, policies and delay queues, and each command that it prints
// mends that.
func (o *operator) heals() {
	o.ctl("add_user", "orders-service", "secret")
	o.ctl("set_permissions", "orders-service", "^(orders|error|PikaBus.*)$", "^$", "^$")
	o.ctl("set_policy", "short", "^orders$", `{"message-ttl":60000,"max-length":5}`)
	o.broker().declareQueue("harebus.delay.10m", amqp.Table{"x-queue-type": "quorum"})
	service := *o
	service.place = &place{T: o.T, node: o.node, url: o.url, name: o.name}
	service.url = service.withUser("orders-service", "secret")
	api := strings.Replace(o.api, "http://", "http://guest:guest@", 1)
	args := []string{"doctor", "-api", api, "-json", o.file}
	var fixes []string
	o.eventually(patience, func() error { // the plugin's numbers are some seconds old
		output, code := service.harebus(args...)
		var report struct{ Findings []struct{ What, Fix string } }
		if err := json.Unmarshal([]byte(output), &report); err != nil || code != 3 {
			return fmt.Errorf("exit code %d: %s", code, output)
		}
		for _, want := range []string{
			`may not consume from queue "orders" (read)`, `may not bind queue "orders" (write)`, `may not publish to exchange "PikaBusDirect" (write)`, `may not publish to exchange "" (write)`,
			`a policy sets max-length, message-ttl of queue "orders"`,
		} {
			if !strings.Contains(strings.ReplaceAll(output, `\"`, `"`), want) {
				return fmt.Errorf("not found: %s: %s", want, output)
			}
		}
		for _, f := range report.Findings {
			fixes = append(fixes, f.Fix)
		}
		return nil
	})
	output, _ := o.harebus("doctor", o.file) // the service's user may not look at delay queues
	if !strings.Contains(output, `delay queue "harebus.delay.10m" is not as wanted`) {
		o.Errorf("the delay queue is not found: %s", output)
	}
	fixes = append(fixes, fixOf(output, `delay queue "harebus.delay.10m"`))
	ran := map[string]bool{}
	for _, fix := range fixes {
		if patterns := strings.Split(fix, "'"); strings.HasPrefix(fix, "add to the patterns") && len(patterns) == 7 { // the user has nothing that is to be kept
			fix = fmt.Sprintf("rabbitmqctl set_permissions orders-service '%s' '%s' '%s'", patterns[1], patterns[3], patterns[5])
		}
		fix, _, _ = strings.Cut(fix, "   (")
		if arguments, ok := strings.CutPrefix(fix, "rabbitmqctl "); ok && !ran[fix] {
			ran[fix] = true
			o.ctl(words(arguments)...)
		}
	}
	if len(ran) != 3 {
		o.Errorf("ran %d commands: %v", len(ran), fixes)
	}
	o.eventually(patience, func() error {
		output, _ := service.harebus(args...)
		if strings.Contains(output, "the nodes of the broker") {
			o.Errorf("the nodes are not looked at: %s", output)
		}
		if strings.Contains(output, `service\" may not`) || strings.Contains(output, "a policy sets") || strings.Contains(output, "delay queue") {
			return fmt.Errorf("still found: %s", output)
		}
		return nil
	})
}

// fixOf is the printed fix of a finding.
func fixOf(output, what string) string {
	_, rest, _ := strings.Cut(output, what)
	_, rest, _ = strings.Cut(rest, "fix: ")
	fix, _, _ := strings.Cut(rest, "\n")
	return fix
}

// words takes a command line apart as a shell does.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
		} else {
			all = append(all, strings.Fields(part)...)
		}
	}
	return all
}

// migrates: a classic queue becomes a quorum queue while a service handles what is published and deferred.
func (o *operator) migrates() {
	m := o.migration("stock")
	began := time.Now()
	output := o.ends(0, []string{"topology", "migrate", "-api", o.api, "-drain", "5s", "-settle", "1s", o.file, m.queue}, "replaced queue", "back: ")
	o.Logf("RabbitMQ %s: %v in all: %s", o.node.Version(), time.Since(began).Round(time.Millisecond), output)
	m.settled(0)
	o.ends(0, []string{"topology", "plan", "-api", o.api, o.file}, "0 differences")
}

// alarms: the doctor says that the broker takes no messages, and how to mend it.
func (o *operator) alarms() {
	o.ctl("set_vm_memory_high_watermark", "0.000001")
	var fix string
	o.eventually(patience, func() error {
		output, _ := o.harebus("doctor", o.file)
		if fix = fixOf(output, "takes no messages: low on memory"); fix == "" {
			return fmt.Errorf("no alarm: %s", output)
		}
		return nil
	})
	_, command, _ := strings.Cut(fix, "rabbitmqctl ")
	o.ctl(words(command)...)
	o.eventually(patience, func() error {
		if output, _ := o.harebus("doctor", o.file); strings.Contains(output, "takes no messages") {
			return fmt.Errorf("still in alarm: %s", output)
		}
		return nil
	})
}

// migration is a service whose classic queue is to be replaced, under load.
type migration struct {
	*operator

	queue string
	in    *inbox
	stop  chan struct{}
	sent  sync.WaitGroup
	mu    sync.Mutex // guards ids
	ids   map[string]bool
	began time.Time
}

// migration starts a service with a classic queue and what sends to it, and writes the file of its next version.
func (o *operator) migration(queue string) *migration {
	o.Helper()
	return o.migrationOf(harebus.Config{URL: o.url, Queue: queue})
}

// migrationOf is migration with the addresses of a configuration.
func (o *operator) migrationOf(cfg harebus.Config) *migration {
	o.Helper()
	queue := cfg.Queue
	m := &migration{operator: o, queue: queue, stop: make(chan struct{}), ids: map[string]bool{}}
	cfg.Subscriptions, cfg.QueueOptions.Type, cfg.Connect.BackOff = []string{queue + ".*"}, topology.Classic, pauses(50*time.Millisecond)
	_, m.in = o.place.service(cfg)
	o.write(harebus.Config{Queue: m.queue, Subscriptions: cfg.Subscriptions})
	bus := o.place.setup(harebus.Config{URL: cfg.URL, Connect: cfg.Connect}).Bus()
	for sender := range *migrateSenders {
		m.sent.Go(func() { m.send(bus, sender) })
	}
	m.in.await(o.place, 10)
	m.began = time.Now()
	return m
}

// send sends, publishes and defers to the queue until the migration is settled.
func (m *migration) send(bus *harebus.Bus, sender int) {
	for n := 0; ; n++ {
		select {
		case <-m.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		id := fmt.Sprintf("%s-%d-%d", m.name, sender, n)
		var err error
		switch n % 3 {
		case 0:
			err = bus.Send(m.Context(), m.queue, note{}, harebus.WithMessageID(id))
		case 1:
			err = bus.Publish(m.Context(), m.queue+".changed", note{}, harebus.WithMessageID(id))
		default:
			err = bus.Defer(m.Context(), m.queue, 100*time.Millisecond, note{}, harebus.WithMessageID(id))
		}
		if err != nil {
			m.Errorf("message %s: %v", id, err)
			return
		}
		m.mu.Lock()
		m.ids[id] = true
		m.mu.Unlock()
	}
}

// settled ends the load and fails unless each message was handled, and at most so many of them were moved twice.
func (m *migration) settled(again int) {
	m.Helper()
	m.in.await(m.place, len(m.in.all())+10) // it goes on after the migration
	close(m.stop)
	sending := time.Since(m.began)
	m.sent.Wait()
	m.eventually(2*patience, func() error {
		copies := m.in.copies()
		for id := range m.ids {
			if copies[id] == 0 {
				return fmt.Errorf("message %s of %d was not handled", id, len(m.ids))
			}
		}
		return nil
	})
	moved, bound, said := m.repeated()
	if moved > again {
		m.Errorf("%d messages were moved twice, at most %d should be:%s", moved, again, said)
	}
	m.Logf("RabbitMQ %s: %d messages, %.0f a second, %d moved twice, %d came both ways", m.node.Version(), len(m.ids), float64(len(m.ids))/sending.Seconds(), moved, bound)
}

// repeated counts what was handled again. What came from an exchange of the service once, and once more because it was held,
// has come both ways: a binding that the service has declared again led to the queue until it was removed.
func (m *migration) repeated() (moved, bound int, said string) {
	ways := map[string][]string{}
	for _, a := range m.in.all() {
		ways[a.ID] = append(ways[a.ID], fmt.Sprintf("%s from %q", a.at.Format("05.000"), a.Exchange))
	}
	for id, all := range ways {
		direct := 0
		for _, way := range all {
			if strings.Contains(way, `"PikaBus`) {
				direct++
			}
		}
		switch {
		case len(all) == 1:
			continue
		case direct == 1:
			bound += len(all) - 1
		default:
			moved += len(all) - 1
		}
		said += fmt.Sprintf(" %s: %s;", id, strings.Join(all, ", "))
	}
	return moved, bound, said
}

// TestMigrateKilled kills a migration under load again and again, at any moment, and lets it end at last: nothing is
// lost, and for each kill at most one message is moved twice.
func TestMigrateKilled(t *testing.T) {
	t.Parallel()
	if *migrateKills == 0 {
		t.Skip("-migrate-kills is 0")
	}
	o := newOperator(shared(t), 0)
	args := func(file, queue string) []string {
		return []string{"topology", "migrate", "-only-these", "-drain", "0s", "-settle", "300ms", file, queue}
	}
	killed := 0
	for killed < *migrateKills {
		m := o.migration(o.queue(fmt.Sprintf("stock%d", killed)))
		before := killed
		for i := 0; i < 6 && killed < *migrateKills; i++ {
			var said bytes.Buffer
			cmd := exec.CommandContext(o.within(patience), o.binary, args(o.file, m.queue)...)
			cmd.Env, cmd.Stderr = []string{"AMQP_URL=" + o.url}, &said
			o.try(cmd.Start())
			timer := time.AfterFunc(time.Duration(50+killed*37%900)*time.Millisecond, func() { _ = cmd.Process.Kill() })
			err := cmd.Wait()
			if !timer.Stop() && err != nil {
				killed++
				continue
			}
			if err != nil {
				o.Fatalf("%v: %s", err, said.String())
			}
			break
		}
		o.ends(0, args(o.file, m.queue))
		m.settled(killed - before)
		b := o.broker()
		b.must(func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(m.queue, true, false, false, false, amqp.Table{
				"x-queue-type": "quorum", "x-delivery-limit": int64(20), "x-overflow": "reject-publish",
				"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "error", "x-dead-letter-strategy": "at-least-once",
			})
			return err
		})
		if b.exists("harebus.migrate." + m.queue + ".holding") {
			o.Error("the holding queue is left behind")
		}
	}
	t.Logf("%d kills", killed)
}
