package stream_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

var (
	lasts = flag.Duration("lasts", 6*time.Second, "how long TestGroupKilled kills readers")
	runs  = flag.Int("runs", 1, "how many times")
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// TestGroupKilled: while events are published, the processes of a group are killed, stopped, frozen and cut off. Every event is
// handled, and none for the first time before the one in front of it.
func TestGroupKilled(t *testing.T) {
	for i := range *runs {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			node := rabbit.Shared(t)
			t.Logf("RabbitMQ %s", node.Version())
			g := newGroup(t, []string{node.URL()})
			g.run(*lasts, g.disturb)
		})
	}
}

// run has something happen to the group again and again, and judges. disturb says what it did.
func (g *group) run(lasts time.Duration, disturb func(ctx context.Context) string) {
	for range 3 {
		g.start()
	}
	ctx, cancel := context.WithTimeout(g.Context(), lasts)
	defer cancel()
	published := make(chan int, 1)
	go func() { published <- g.publish(ctx) }()
	faults := map[string]int{}
	for ctx.Err() == nil {
		faults[disturb(ctx)]++
	}
	n := <-published
	g.settle(n)
	g.Logf("%d events, %v: %s", n, faults, g.judge(n))
}

// group is a stream with the processes that read it.
type group struct {
	*testing.T
	urls    []string
	name    string
	setup   *harebus.Setup
	journal string
	readers []*exec.Cmd
}

func newGroup(t *testing.T, urls []string) *group {
	g := &group{T: t, urls: urls, name: fmt.Sprintf("st-%d", rand.Uint64()), journal: filepath.Join(t.TempDir(), "journal")}
	g.try(os.WriteFile(g.journal, nil, 0o600))
	cfg := readerConfig(urls, g.name)
	cfg.Queue, cfg.Consume = "", harebus.ConsumeConfig{}
	cfg.Declare.Topology = topology.EventLog(g.name, g.name+".topic", topology.KeepAge(time.Hour))
	var err error
	g.setup, err = harebus.New(cfg)
	g.try(err)
	g.try(g.setup.Init(t.Context()))
	t.Cleanup(func() {
		for _, r := range g.readers {
			_ = r.Process.Kill() // it may have ended
			_ = r.Wait()
		}
		g.try(g.setup.Close())
		g.forget()
	})
	return g
}

func (g *group) try(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

// forget removes what the test has declared.
func (g *group) forget() {
	conn, err := amqp.Dial(g.urls[0])
	g.try(err)
	defer conn.Close()
	ch, err := conn.Channel()
	g.try(err)
	for _, q := range []string{g.name, g.name + ".error", "harebus.group/" + g.name + "/g"} {
		_, err := ch.QueueDelete(q, false, false, false)
		g.try(err)
	}
	g.try(ch.ExchangeDelete(g.name+".topic", false, false))
}

// start starts a reader.
func (g *group) start() {
	cmd := exec.Command(os.Args[0], "-test.run=^$") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), readerEnv+"="+strings.Join(g.urls, " "), "HAREBUS_TEST_STREAM="+g.name, "HAREBUS_TEST_JOURNAL="+g.journal)
	cmd.Stderr = os.Stderr
	g.try(cmd.Start())
	g.readers = append(g.readers, cmd)
}

// publish publishes events one by one, and returns how many.
func (g *group) publish(ctx context.Context) int {
	n := 0
	for ctx.Err() == nil {
		n++
		if err := g.setup.Bus().Publish(context.WithoutCancel(ctx), "count", counted{n}); err != nil {
			g.Error(err)
			return n - 1
		}
	}
	return n
}

// disturb does something to a reader, and says what.
func (g *group) disturb(ctx context.Context) string {
	pause := time.NewTimer(time.Second + rand.N(time.Second))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return "nothing"
	}
	i := g.victim()
	victim := g.readers[i]
	switch rand.IntN(4) {
	case 0, 1:
		g.end(i, syscall.SIGKILL)
		return "killed"
	case 2:
		g.end(i, syscall.SIGTERM)
		return "stopped"
	default:
		g.try(victim.Process.Signal(syscall.SIGSTOP))
		time.AfterFunc(3*time.Second, func() { _ = victim.Process.Signal(syscall.SIGCONT) }) // it may be killed by then
		return "frozen"
	}
}

// victim is mostly the one that reads now.
func (g *group) victim() int {
	i := rand.IntN(len(g.readers))
	if rand.IntN(4) == 0 {
		return i
	}
	text, err := os.ReadFile(g.journal)
	g.try(err)
	for k, r := range g.readers {
		if bytes.HasSuffix(text, fmt.Appendf(nil, " %d\n", r.Process.Pid)) {
			i = k
		}
	}
	return i
}

// end ends a reader with a signal and starts another one.
func (g *group) end(i int, signal syscall.Signal) {
	victim := g.readers[i]
	_ = victim.Process.Signal(syscall.SIGCONT) // if it is frozen
	g.try(victim.Process.Signal(signal))
	_ = victim.Wait() // the signal is its error
	g.readers = append(g.readers[:i], g.readers[i+1:]...)
	g.start()
}

// settle waits until n events are handled.
func (g *group) settle(n int) {
	g.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if done, _, _ := g.read(); len(done) == n {
			return
		}
	}
	done, _, _ := g.read()
	g.Errorf("%d of %d events are handled", len(done), n)
}

// read reads the journal: what is handled, how often something is handled again, and how often something for the first time before
// the event in front of it.
func (g *group) read() (done map[int]bool, repeated, skipped int) {
	g.Helper()
	text, err := os.ReadFile(g.journal)
	g.try(err)
	done = map[int]bool{}
	for line := range bytes.Lines(text) {
		var n, pid int
		if _, err := fmt.Sscanf(strings.TrimSpace(string(line)), "%d %d", &n, &pid); err != nil {
			continue // the last one is being written
		}
		switch {
		case done[n]:
			repeated++
		case n > 1 && !done[n-1]:
			skipped++
		}
		done[n] = true
	}
	return done, repeated, skipped
}

// judge fails the test for what is missing.
func (g *group) judge(n int) string {
	g.Helper()
	done, repeated, skipped := g.read()
	missing := 0
	for i := 1; i <= n; i++ {
		if !done[i] {
			missing++
		}
	}
	if missing > 0 || skipped > 0 {
		g.Errorf("missing %d, skipped %d", missing, skipped)
	}
	return fmt.Sprintf("skipped %d, missing %d, repeated %d", skipped, missing, repeated)
}
