package proof_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

// inHand makes a service of the run hold messages in its handlers until they are
// released.
type inHand struct {
	begun chan struct{}
	letGo chan struct{}
	held  atomic.Int32
}

func newInHand() *inHand {
	return &inHand{begun: make(chan struct{}, 1000), letGo: make(chan struct{})}
}

// gate holds all messages but the first, which ends the caution at the start of a connection.
func (h *inHand) gate(w proof.Work) {
	if w.Seq == 0 {
		return
	}
	h.held.Add(1)
	h.begun <- struct{}{}
	<-h.letGo
}

// A stop with 50 messages in handlers has them finished and acknowledged: the next start finds none of them again, and
// what no handler had begun is there once.
func TestStopWithMessagesInHand(t *testing.T) {
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			const inHands, waiting = 50, 30
			c := newCrash(t, queueType, harebus.ConsumeConfig{Concurrency: inHands, Prefetch: inHands})
			hold := newInHand()
			s := c.consumer(hold.gate)
			for n := range 1 + inHands + waiting {
				c.try(c.service.Send(t.Context(), c.work(proof.Plain, n), 0))
			}
			c.try(s.Setup.Start(t.Context()))
			for range inHands {
				<-hold.begun
			}
			stopped := make(chan error)
			go func() { stopped <- s.Setup.Stop(t.Context()) }()
			c.eventually("not ready because it stops", func() bool {
				err := s.Setup.Ready()
				return err != nil && strings.Contains(err.Error(), "stopping")
			})
			close(hold.letGo)
			c.try(<-stopped)
			if n := c.service.Book.Counts().Handled; n != 1+inHands || hold.held.Load() != inHands {
				t.Errorf("%d messages took effect, %d were held; want %d and %d", n, hold.held.Load(), 1+inHands, inHands)
			}
			c.try(s.Setup.Start(t.Context()))
			c.try(c.service.Settle(t.Context(), patience))
			c.try(s.Setup.Stop(t.Context()))
			c.judge(nil)
			if got := c.service.Book.Counts(); got.Handled != 1+inHands+waiting || got.Duplicates != 0 {
				t.Errorf("NODUP: %+v", got)
			}
		})
	}
}

// consumer is a service in this process that consumes, and writes into the book of the one that sends.
func (c *crash) consumer(gate func(proof.Work)) *proof.Service {
	c.Helper()
	s, err := proof.NewService(c.assignment.config(), c.service.Book, proof.Options{Pause: childPause, Gate: gate})
	c.try(err)
	c.Cleanup(func() { _ = s.Setup.Stop(context.Background()) }) // after a failure; else it is stopped already
	return s
}

func (c *crash) eventually(what string, so func() bool) {
	c.Helper()
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			c.Fatalf("still not so after %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Whatever a stop comes upon - messages that wait for their retry, that are deferred, that are being handled or moved -
// is in the broker: the next start goes on with it, and nothing comes early or more often than allowed.
func TestStopsAmidEverything(t *testing.T) {
	t.Parallel()
	const stops = 6
	c := newCrash(t, topology.Quorum, harebus.ConsumeConfig{Concurrency: 8, Prefetch: 50})
	s := c.consumer(nil)
	loading, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		proof.Load{
			Service: c.service, Run: c.assignment.Name, Rate: 150, Publishers: 20,
			Kinds: []proof.Kind{proof.Plain, proof.Flaky, proof.Flaky, proof.Later, proof.Parent, proof.Failing},
		}.Send(loading)
	})
	defer load.Wait()
	defer stop()
	for n := range stops {
		c.try(s.Setup.Start(t.Context()))
		retried, postponed := s.Setup.Stats().Retried, c.service.Book.Counts().Sent
		c.eventually("retries and sends", func() bool {
			return s.Setup.Stats().Retried > retried+20 && c.service.Book.Counts().Sent > postponed+20
		})
		began := time.Now()
		c.try(s.Setup.Stop(t.Context())) // some retries are under way, and some pauses begin
		t.Logf("stop %d took %v", n, time.Since(began).Round(time.Millisecond))
	}
	c.try(s.Setup.Start(t.Context()))
	stop()
	load.Wait()
	c.try(c.service.Settle(t.Context(), patience))
	c.settled(s)
	c.try(s.Setup.Stop(t.Context()))
	c.judge(nil)
	for id, m := range tallyOf(readLedger(t, c.own)) {
		if n := m.steps[ledger.Effect]; n > 1 {
			t.Errorf("%s took effect %d times: %v", id, n, m.steps)
		}
	}
}

// settled waits until the service has parked or handled what it holds.
func (c *crash) settled(s *proof.Service) {
	c.Helper()
	c.eventually("nothing in flight and nothing in the queue", func() bool {
		return s.Setup.Stats().InFlight == 0 && c.length(c.assignment.Name) == 0
	})
}

// The messages of a run of the command: one that it has printed, as many as it handles at once, and one more.
const listenAtOnce, listenMessages = 3, 5

// listen is the command harebus listen, of whose output only the first line has been read. The pipe is full: what it
// has in hand stays there.
type listen struct {
	*process

	out *bufio.Reader
}

// listen starts the command and waits until its hands are full.
func (c *crash) listen() *listen {
	c.Helper()
	command := filepath.Join(c.TempDir(), "harebus")
	build := exec.CommandContext(c.Context(), "go", "build", "-o", command, "github.com/harebus/harebus/cmd/harebus")
	if text, err := build.CombinedOutput(); err != nil {
		c.Fatalf("%v: %s", err, text)
	}
	for n := range listenMessages {
		w := c.work(proof.Plain, n)
		w.Pad = strings.Repeat("x", 128<<10) // more than a pipe holds
		c.try(c.service.Send(c.Context(), w, 0))
	}
	out, in, err := os.Pipe()
	c.try(err)
	c.Cleanup(func() { _ = out.Close() })
	cmd := exec.Command(command, "listen", "-take", "-url", c.assignment.URL, "-error-queue", c.errorQueue(),
		"-concurrency", strconv.Itoa(listenAtOnce), c.assignment.Name)
	cmd.Stdout = in
	l := &listen{launch(c.T, cmd), bufio.NewReader(out)}
	c.try(in.Close())
	if _, err := l.out.ReadString('\n'); err != nil {
		c.Fatalf("%v; stderr:\n%s", err, l.says())
	}
	c.eventually("every message was delivered", func() bool { return c.length(c.assignment.Name) == 0 })
	time.Sleep(3 * time.Second) // nothing tells from outside that handlers have begun
	return l
}

// stops sends the first signal and waits until the command says that it heeds it.
func (c *crash) stops(l *listen) {
	c.Helper()
	l.signal(syscall.SIGTERM)
	c.eventually("it says that it stops", func() bool { return strings.Contains(l.says(), "a second signal ends at once") })
	c.eventually("what nobody has begun is back", func() bool {
		return c.length(c.assignment.Name) == listenMessages-1-listenAtOnce
	})
}

// The command stops in order at the first signal: what it has in hand is printed and acknowledged, the rest stays.
func TestListenDrains(t *testing.T) {
	t.Parallel()
	c := newCrash(t, topology.Quorum, harebus.ConsumeConfig{})
	l := c.listen()
	c.stops(l)
	rest, err := io.ReadAll(l.out)
	c.try(err)
	if n := bytes.Count(rest, []byte("\n")); n != listenAtOnce {
		t.Errorf("%d messages were printed after the signal; want %d", n, listenAtOnce)
	}
	l.ended()
	c.holds(listenMessages - 1 - listenAtOnce)
}

// The second signal ends the command hard. It says what it abandons, and all of that is there for the next.
func TestListenAbandons(t *testing.T) {
	t.Parallel()
	c := newCrash(t, topology.Quorum, harebus.ConsumeConfig{})
	l := c.listen()
	c.stops(l)
	began := time.Now()
	l.signal(syscall.SIGTERM)
	l.wait()
	if code := l.cmd.ProcessState.ExitCode(); code != 1 || time.Since(began) > 15*time.Second { // else it drains for 30 s
		t.Errorf("exit code %d after %v", code, time.Since(began))
	}
	text := l.says()
	_, named, found := strings.Cut(text, fmt.Sprintf("abandoned %d messages, which will be delivered again:", listenAtOnce))
	if n := strings.Count(named, c.assignment.Name+"/0/plain/"); !found || n != listenAtOnce {
		t.Errorf("stderr:\n%s", text)
	}
	c.holds(listenMessages - 1)
}

// holds demands that so many messages are in the queue, once the broker has noticed that nobody holds them any more.
func (c *crash) holds(messages int) {
	c.Helper()
	c.eventually(fmt.Sprint(messages, " messages in the queue"), func() bool { return c.length(c.assignment.Name) == messages })
	ids := map[string]bool{}
	for _, e := range c.found() {
		ids[e.ID] = true
	}
	if len(ids) != messages {
		c.Errorf("%d different messages are left; want %d", len(ids), messages)
	}
}
