package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dedup"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// onceEnv has the URL of the broker; a process of the test that has it handles messages with a dedup.
const onceEnv = "HAREBUS_TEST_ONCE"

// answered is what the handler sends for each message.
type answered struct{ N int }

func (answered) MessageType() string { return "Answered" }

// onceConfig is that of an instance.
func onceConfig(url, queue string) harebus.Config {
	return harebus.Config{
		URL: url, Queue: queue, ErrorQueue: harebus.ErrorQueueConfig{Name: queue + ".error"}, Exchanges: harebus.ExchangeConfig{Direct: "amq.direct", Topic: "amq.topic"},
		Consume: harebus.ConsumeConfig{Concurrency: 4},
	}
}

// once is the main function of an instance: it writes a line for each message that it handles, and sends an answer.
func once() int {
	err := func() error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		journal, err := os.OpenFile(os.Getenv("HAREBUS_TEST_JOURNAL"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		queue := os.Getenv("HAREBUS_TEST_QUEUE")
		cfg := onceConfig(os.Getenv(onceEnv), queue)
		d := dedup.New(dedup.Config{Keep: time.Hour})
		if err := d.Apply(&cfg); err != nil {
			return err
		}
		setup, err := harebus.New(cfg)
		if err != nil {
			return err
		}
		if err := d.Serve(setup); err != nil {
			return err
		}
		harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, c counted) error {
			if _, err := fmt.Fprintf(journal, "%d %d %d\n", c.N, os.Getpid(), time.Now().UnixMicro()); err != nil {
				return err
			}
			return bus.Send(ctx, queue+".answers", answered(c))
		})
		return setup.Run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestDedupKilled: several instances are killed while they handle messages. One has a second effect only if the instance of its
// first was killed right after it. Then all are sent again, and instances are killed again: there is no further effect. Each message has
// its answer.
func TestDedupKilled(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	o := newKilled(t, node)
	n := o.phase(*lasts/4, func(int) bool { return true })
	o.settle(n)
	effects, kills := o.effects(), o.kills()
	repeated := 0
	for i := 1; i <= n; i++ {
		of := effects[i]
		if len(of) == 0 {
			t.Errorf("message %d was not handled", i)
		}
		for _, e := range of[:max(len(of)-1, 0)] {
			repeated++
			if at, killed := kills[e.pid]; !killed || at.Sub(e.at) > time.Second {
				t.Errorf("message %d was handled again, and the instance %d was not killed right after it: %v", i, e.pid, of)
			}
		}
	}
	o.startAll()
	o.phase(*lasts/4, func(i int) bool { return i <= n })
	o.settle(n)
	after := o.effects()
	for i := range after {
		if len(after[i]) > len(effects[i]) {
			t.Errorf("message %d was handled, and then a copy of it: %v", i, after[i])
		}
	}
	if got := o.answers(); len(got) != n {
		t.Errorf("%d messages were handled, and %d have an answer", n, len(got))
	}
	t.Logf("%d messages, %d instances killed, %d handled a second time after a kill", n, len(o.kills()), repeated)
	if len(kills) < 2 {
		t.Error("nothing was proved")
	}
}

type killed struct {
	*testing.T
	node           *rabbit.Node
	queue, journal string
	sender         *harebus.Setup
	instances      []*exec.Cmd

	mu   sync.Mutex // guards died
	died map[int]time.Time
}

func newKilled(t *testing.T, node *rabbit.Node) *killed {
	o := &killed{T: t, node: node, queue: fmt.Sprintf("dk-%d", rand.Uint64()), journal: filepath.Join(t.TempDir(), "journal"), died: map[int]time.Time{}}
	must(t, os.WriteFile(o.journal, nil, 0o600))
	o.declare(o.queue + ".answers")
	var err error
	o.sender, err = harebus.New(harebus.Config{URL: node.URL()})
	must(t, err)
	t.Cleanup(func() {
		for _, one := range o.instances {
			_ = one.Process.Kill() // it may have ended
			_ = one.Wait()
		}
		must(t, o.sender.Close())
		drop(t, node, o.queue, o.queue+".error", o.queue+".handled", o.queue+".answers")
	})
	o.startAll()
	o.await("the queue", func(ch *amqp.Channel) bool {
		_, err := ch.QueueDeclarePassive(o.queue, true, false, false, false, nil)
		return err == nil
	})
	return o
}

func (o *killed) start() *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^$") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), onceEnv+"="+o.node.URL(), "HAREBUS_TEST_QUEUE="+o.queue, "HAREBUS_TEST_JOURNAL="+o.journal)
	cmd.Stderr = os.Stderr
	must(o.T, cmd.Start())
	return cmd
}

// phase sends the messages from the first on, one after the other, while instances are killed. It ends after a time, or when no
// other one is to be sent, and returns how many were sent.
func (o *killed) phase(lasts time.Duration, more func(n int) bool) int {
	o.Helper()
	var over atomic.Bool
	sent := make(chan int, 1)
	go func() {
		n := 0
		for more(n+1) && !over.Load() {
			n++
			if err := o.sender.Bus().Send(o.Context(), o.queue, counted{n}, harebus.WithMessageID(fmt.Sprintf("%s-%d", o.queue, n))); err != nil {
				o.Error(err)
				break
			}
		}
		sent <- n
	}()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		<-time.After(300*time.Millisecond + rand.N(500*time.Millisecond))
		i := rand.IntN(len(o.instances))
		one := o.instances[i]
		must(o.T, one.Process.Kill())
		_ = one.Wait() // it was killed
		o.mu.Lock()
		o.died[one.Process.Pid] = time.Now()
		o.mu.Unlock()
		o.instances[i] = o.start()
	}
	over.Store(true)
	return <-sent
}

func (o *killed) kills() map[int]time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.died)
}

// effect is one that a handler has had.
type effect struct {
	pid int
	at  time.Time
}

func (o *killed) effects() map[int][]effect {
	o.Helper()
	text, err := os.ReadFile(o.journal)
	must(o.T, err)
	all := map[int][]effect{}
	for line := range bytes.Lines(text) {
		var n, pid int
		var at int64
		if _, err := fmt.Sscanf(strings.TrimSpace(string(line)), "%d %d %d", &n, &pid, &at); err == nil { // the last one of a killed process may be cut
			all[n] = append(all[n], effect{pid, time.UnixMicro(at)})
		}
	}
	return all
}

// settle waits until n messages have had an effect and nothing is left, and stops the instances.
func (o *killed) settle(n int) {
	o.Helper()
	o.await(fmt.Sprintf("all %d messages", n), func(ch *amqp.Channel) bool {
		empty := func() bool {
			q, err := ch.QueueDeclarePassive(o.queue, true, false, false, false, nil)
			must(o.T, err)
			return q.Messages == 0
		}
		if len(o.effects()) < n || !empty() {
			return false
		}
		<-time.After(time.Second) // what they have in hand is not counted
		o.stop()                  // what they have not handled is there again
		if empty() {
			return true
		}
		o.startAll()
		return false
	})
}

// stop stops all instances.
func (o *killed) stop() {
	o.Helper()
	for _, one := range o.instances {
		must(o.T, one.Process.Signal(syscall.SIGTERM))
	}
	for _, one := range o.instances {
		_ = one.Wait() // one that has not started yet says so
	}
	o.instances = nil
}

func (o *killed) startAll() {
	for range 3 {
		o.instances = append(o.instances, o.start())
	}
}

// await waits until something is so.
func (o *killed) await(what string, so func(ch *amqp.Channel) bool) {
	o.Helper()
	conn, err := amqp.Dial(o.node.URL())
	must(o.T, err)
	defer conn.Close()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		ch, err := conn.Channel()
		must(o.T, err)
		yes := so(ch)
		_ = ch.Close() // a refusal has closed it
		if yes {
			return
		}
	}
	o.Fatalf("%s: not within %v", what, patience)
}

func (o *killed) declare(queue string) {
	conn, err := amqp.Dial(o.node.URL())
	must(o.T, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(o.T, err)
	_, err = ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	must(o.T, err)
}

// answers are the messages that have one, and the ids of their answers.
func (o *killed) answers() map[int]bool {
	o.Helper()
	conn, err := amqp.Dial(o.node.URL())
	must(o.T, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(o.T, err)
	got := map[int]bool{}
	for {
		d, ok, err := ch.Get(o.queue+".answers", true)
		must(o.T, err)
		if !ok {
			return got
		}
		var n int
		if _, err := fmt.Sscanf(string(d.Body), `{"N":%d}`, &n); err != nil {
			o.Fatalf("an answer %q: %v", d.Body, err)
		}
		got[n] = true
	}
}
