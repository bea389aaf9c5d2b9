package integration_test

import (
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// told are the arguments of each type of queue, with one value of each and its text in a plan. A broker that does not
// take one, in its version, has no queue with it.
var told = map[topology.QueueType]map[string]any{
	topology.Classic: {
		"x-message-ttl": 60000, "x-expires": 600000, "x-max-length": 10, "x-max-length-bytes": 1000, "x-overflow": "reject-publish",
		"x-dead-letter-exchange": "x", "x-max-priority": 3, "x-single-active-consumer": true, "x-queue-mode": "lazy", "x-queue-version": 2,
	},
	topology.Quorum: {
		"x-message-ttl": 60000, "x-expires": 600000, "x-max-length": 10, "x-max-length-bytes": 1000, "x-overflow": "reject-publish",
		"x-dead-letter-exchange": "x", "x-delivery-limit": 7, "x-single-active-consumer": true, "x-quorum-initial-group-size": 1,
	},
	topology.Stream: {"x-max-length-bytes": 1000000000, "x-max-age": "1h", "x-stream-max-segment-size-bytes": 100000},
}

// TestQuestionsCreateNothing: commands that look ask for objects that do not exist, with each argument and property, and
// none of them is there afterwards; of those that exist each argument is told, and none is changed.
func TestQuestionsCreateNothing(t *testing.T) {
	t.Parallel()
	o := newOperator(shared(t), 0)
	b := o.broker()
	var absent, plain topology.Topology
	there := map[string]string{} // what a plan says of a queue
	for kind, arguments := range told {
		for name, value := range arguments {
			absent.Queues = append(absent.Queues, topology.Queue{Name: o.queue("absent." + string(kind) + name), Type: kind, Arguments: map[string]any{name: value}})
			queue := o.queue(string(kind) + name)
			table := amqp.Table{"x-queue-type": string(kind), name: value}
			if b.refusal(func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclare(queue, true, false, false, false, table)
				return err
			}) != 0 {
				o.Logf("RabbitMQ %s does not take %s of a %s queue", o.node.Version(), name, kind)
				continue
			}
			t.Cleanup(func() { b.deleteQueue(queue) })
			plain.Queues = append(plain.Queues, topology.Queue{Name: queue, Type: kind})
			text := fmt.Sprint(value)
			if _, ok := value.(string); ok {
				text = fmt.Sprintf("%q", value)
			}
			there[queue] = fmt.Sprintf("~ queue %q: %s %s → none", queue, name, text)
		}
	}
	if len(there) < 18 {
		o.Errorf("the broker has taken only %d arguments", len(there))
	}
	for i, kind := range []topology.Kind{topology.Direct, topology.Topic, topology.Fanout, topology.Headers} {
		absent.Exchanges = append(absent.Exchanges, topology.Exchange{
			Name: o.queue("absent." + string(kind)), Kind: kind, Transient: i%2 == 0, AutoDelete: i%2 == 1, Internal: i > 1, Arguments: map[string]any{"alternate-exchange": "x"},
		})
	}
	for _, unknown := range []string{"x-owner", "x-queue-master-locator"} { // arguments that a broker may not know
		absent.Queues = append(absent.Queues, topology.Queue{Name: o.queue("absent." + unknown), Type: topology.Classic, Arguments: map[string]any{unknown: "somebody"}})
		absent.Exchanges = append(absent.Exchanges, topology.Exchange{Name: o.queue("absent." + unknown), Kind: topology.Direct, Arguments: map[string]any{unknown: "somebody"}})
	}
	file, none := o.written(absent), o.queue("absent")
	plan := o.ends(3, []string{"topology", "plan", file}, fmt.Sprint(len(absent.Queues)+len(absent.Exchanges), " differences"))
	if n := strings.Count(plan, "+ "); n != len(absent.Queues)+len(absent.Exchanges) {
		o.Errorf("%d objects are missing: %s", n, plan)
	}
	o.ends(3, []string{"doctor", file})
	o.ends(0, []string{"deferred"})
	o.ends(0, []string{"status", none})
	o.ends(0, []string{"top", "-every", "100ms", none})
	for _, args := range [][]string{
		{"errors", "-error-queue", none},
		{"errors", "retry", "-error-queue", none, "-yes", "1"},
		{"redrive", "-error-queue", none},
		{"peek", none},
		{"topology", "migrate", "-only-these", "-settle", "1s", file, absent.Queues[0].Name},
		{"control", "pause", none},
	} {
		o.ends(1, args)
	}
	for range 2 { // the second time they are as they were
		output := o.ends(3, []string{"topology", "plan", o.written(plain)})
		output = strings.ReplaceAll(output, `x-max-age "3600000"`, `x-max-age "1h"`) // so RabbitMQ 4.3 tells it
		for queue, want := range there {
			if !strings.Contains(output, want) {
				o.Errorf("the plan does not say %q: %s", want, lineOf(output, queue))
			}
		}
	}
	for _, q := range append(absent.Queues, topology.Queue{Name: none}) {
		if b.exists(q.Name) {
			o.Errorf("there is a queue %q", q.Name)
		}
	}
	for _, x := range absent.Exchanges {
		if b.refusal(func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(x.Name, "direct", true, false, false, false, nil)
		}) != amqp.NotFound {
			o.Errorf("there is an exchange %q", x.Name)
		}
	}
}

// lineOf is the line of an output that has a word.
func lineOf(output, word string) string {
	for line := range strings.Lines(output) {
		if strings.Contains(line, word) {
			return line
		}
	}
	return output
}

var failedMessages = flag.Int("failed", 0, "how many failed messages TestMoreThanALookMayTake puts into the error queue of a broker that may take 1 GB of memory: make proof-operator has a million")

// TestMoreThanALookMayTake: a queue with more failed messages than a look may take is refused by every task of harebus errors before
// anything is taken out of it, so that a look does not raise the broker's alarm, which would stop everybody who publishes.
func TestMoreThanALookMayTake(t *testing.T) {
	if *failedMessages == 0 {
		t.Log("not asked for; run with -failed 1000000")
		return
	}
	for _, kind := range []string{"quorum", "classic"} {
		t.Run(kind, func(t *testing.T) {
			p := private(t, rabbit.Options{Config: []string{"vm_memory_high_watermark.absolute = 1GB"}})
			o := newOperator(p, 0)
			failed := p.failures(kind, *failedMessages)
			others := p.others()
			for _, task := range [][]string{{"groups"}, {"list"}, {"retry", "-yes", "1"}, {"discard", "-archive-queue", "kept", "-yes", "1"}, {"export"}} {
				began := time.Now()
				o.ends(1, append([]string{"errors", task[0], "-error-queue", failed}, task[1:]...), "more than the 100000 that a look may take")
				o.Logf("errors %s: %v", task[0], time.Since(began).Round(time.Millisecond))
			}
			q, err := p.broker().look(failed)
			p.try(err)
			o.Logf("RabbitMQ %s: %d messages; 99 of 100 confirms of others took at most %v; %s", o.node.Version(), q.Messages, others(), o.memory())
			if q.Messages != *failedMessages {
				t.Errorf("%d messages are ready", q.Messages)
			}
		})
	}
}

// memory is what the broker says of its memory, and fails if it has an alarm.
func (o *operator) memory() string {
	o.Helper()
	said := o.ctl("eval", "{rabbit_alarm:get_alarms(), vm_memory_monitor:get_process_memory() div 1000000}.")
	if !strings.HasPrefix(said, "{[],") {
		o.Errorf("the broker has an alarm: %s", said)
	}
	return "{alarms, MB of memory} is " + strings.TrimSpace(said)
}

var nodesDown = flag.Bool("nodes", false, "TestNodeOfThreeIsDown kills nodes of a cluster")

// TestNodeOfThreeIsDown is the scenario of docs/operations.md on a cluster of three: the node is killed that leads the queue of a service. The service goes on by itself, nothing that was confirmed is lost, orders hold, and the
// operator works with the two nodes that are left. A migration that is under way is done by the same command.
func TestNodeOfThreeIsDown(t *testing.T) {
	if !*nodesDown {
		t.Log("not asked for; run with -nodes")
		return
	}
	cluster := rabbit.NeedCluster(t, rabbit.ClusterOptions{})
	p := on(t, cluster.Nodes()[0])
	p.url = strings.Join(cluster.URLs(), ",")
	o := newOperator(p, 0)
	urls := harebus.ConnectConfig{URLs: cluster.URLs()}

	in := newInbox()
	s := o.served(harebus.Config{Queue: "safe", Connect: urls}, func(s *harebus.Setup) { s.HandleMessage(harebus.AnyType, in.take) })
	o.prints([]string{"status", "safe"}, "consumes")
	o.ends(0, []string{"control", "pause", "safe"}, "paused")
	bus := s.Bus()
	for i := range 10 {
		o.try(bus.Send(o.within(patience), "safe", note{i}))
	}
	down := leaderOf(p, cluster, "safe")
	b, err := dialBroker(t, down.URL())
	p.try(err)
	if _, err := declareAt(b, "local", amqp.Table{"x-queue-type": "classic"}); err != nil { // only this node has it
		t.Fatal(err)
	}
	p.try(down.Sync(o.within(patience)))
	p.try(down.Kill())
	began := time.Now()
	p.try(bus.Send(o.within(2*patience), "safe", note{10}))
	o.Logf("the next message was confirmed after %v", time.Since(began).Round(time.Millisecond))
	o.ready(s, 2*patience)
	o.prints([]string{"status", "safe"}, "paused") // the order still holds
	o.prints([]string{"top", "-every", "300ms", "safe", "local"}, "safe", "local", " - ")
	o.ends(0, []string{"errors"}, "0 failed messages")
	o.ends(0, []string{"control", "resume", "safe"}, "consumes")
	in.await(o.place, 11)
	p.try(down.Start(o.within(4 * patience)))
	p.try(cluster.AwaitUnion(o.within(4 * patience)))
	o.ready(s, 2*patience)
	m := o.migrationOf(harebus.Config{Queue: "moving", Connect: urls})
	m.interrupted(func() { o.try(down.Kill()) }, func() { o.try(down.Start(o.within(4 * patience))) })
}

// leaderOf is the node that leads a queue.
func leaderOf(p *place, cluster *rabbit.Cluster, queue string) *rabbit.Node {
	p.Helper()
	for line := range strings.Lines(p.ctl("list_queues", "name", "leader", "--quiet", "--no-table-headers")) {
		if name, leader, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == queue {
			return cluster.Node(leader)
		}
	}
	p.Fatalf("no node leads the queue %q", queue)
	return nil
}

func declareAt(b *broker, name string, args amqp.Table) (amqp.Queue, error) {
	var q amqp.Queue
	err := b.do(func(ch *amqp.Channel) (err error) {
		q, err = ch.QueueDeclare(name, true, false, false, false, args)
		return err
	})
	return q, err
}

// interrupted ends the broker, or a node of it, while a migration holds new messages, and migrates again when it is back: nothing
// is lost, and nothing is left behind.
func (m *migration) interrupted(end, begin func()) {
	m.Helper()
	args := func(settle string) []string {
		return []string{"topology", "migrate", "-only-these", "-drain", "0s", "-settle", settle, m.file, m.queue}
	}
	said := switching{at: make(chan struct{})}
	// It must not make the new queue a moment before the broker goes: that may come up without a leader.
	cmd := exec.CommandContext(m.within(4*patience), m.binary, args("1m")...)
	cmd.Env, cmd.Stderr = []string{"AMQP_URL=" + m.url}, &said
	m.try(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-said.at:
	case err := <-ended:
		m.Fatalf("the migration ended before: %v: %s", err, said.text.String())
	}
	end()
	err := <-ended
	if err == nil {
		m.Fatal("the migration ended before the broker went")
	}
	m.Logf("the migration whose broker went ended with %v: %s", err, lastLine(said.text.String()))
	begin()
	m.eventually(4*patience, func() error {
		if output, code := m.harebus(args("1s")...); code != 0 {
			return fmt.Errorf("exit code %d: %s", code, output)
		}
		return nil
	})
	m.settled(1 << 20) // what was not confirmed when the broker went is sent again
	m.ends(0, []string{"topology", "plan", m.file}, "0 differences")
	b, err := dialBroker(m.T, strings.Split(m.url, ",")[0])
	m.try(err)
	for _, name := range []string{"holding", "keep"} {
		if b.exists("harebus.migrate." + m.queue + "." + name) {
			m.Errorf("%s is left behind", name)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// switching is what a migration says; at is closed when new messages are held.
type switching struct {
	text strings.Builder
	at   chan struct{}
}

func (s *switching) Write(p []byte) (int, error) {
	before := strings.Contains(s.text.String(), "switched:")
	n, err := s.text.Write(p)
	if !before && strings.Contains(s.text.String(), "switched:") {
		close(s.at)
	}
	return n, err
}
