package integration_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/fair"
	"github.com/harebus/harebus/integration_test/rabbit"
)

var (
	longest = flag.Duration("long", 6*time.Second, "consumer timeout in the test of long handlers, which runs for more than five times as long")
	flooded = flag.Int("flood", 6_000, "size of the flood in the test of fairness")
)

// asWorker makes the test binary a service that is killed: its value is what its handlers do.
const asWorker = "HAREBUS_TEST_WORKER"

// work is such a service. It prints a line for what its handlers begin and have done.
func work() error {
	s, err := harebus.New(harebus.Config{
		URL: os.Getenv("AMQP_URL"), Queue: os.Getenv("QUEUE"), ErrorQueue: harebus.ErrorQueueConfig{Name: os.Getenv("ERROR_QUEUE")},
		Consume: harebus.ConsumeConfig{Concurrency: 40},
	})
	if err != nil {
		return err
	}
	switch os.Getenv(asWorker) {
	case "long":
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ note) error {
			fmt.Fprintln(os.Stdout, "begun", harebus.Incoming(ctx).ID)
			<-ctx.Done()
			return context.Cause(ctx)
		}, harebus.WithLease(10*time.Second))
	case "batch":
		err = batch.Handle(s, func(ctx context.Context, notes []batch.Item[note]) []error {
			for _, one := range notes { // half of them are written down when the process is killed
				fmt.Fprintln(os.Stdout, "done", one.Incoming().ID)
				time.Sleep(time.Millisecond)
			}
			return make([]error, len(notes))
		}, batch.Config{Size: 20, Wait: 20 * time.Millisecond})
	default:
		err = errors.New("no such worker")
	}
	if err != nil {
		return err
	}
	return s.Run(context.Background())
}

// A worker is a process that is killed.
type worker struct {
	cmd   *exec.Cmd
	lines chan string
	over  chan struct{}
}

func (p *place) worker(what, queue string) *worker {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asWorker+"="+what, "AMQP_URL="+p.url, "QUEUE="+queue, "ERROR_QUEUE="+p.queue("error"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	p.try(err)
	p.try(cmd.Start())
	w := &worker{cmd: cmd, lines: make(chan string, 100_000), over: make(chan struct{})}
	go w.read(out)
	p.Cleanup(w.kill)
	return w
}

func (w *worker) read(out io.Reader) {
	defer close(w.over)
	for s := bufio.NewScanner(out); s.Scan(); {
		w.lines <- s.Text()
	}
}

// kill ends it by SIGKILL.
func (w *worker) kill() {
	_ = w.cmd.Process.Kill() // it may have ended
	<-w.over
	_ = w.cmd.Wait() // it was killed
}

// await waits for a line.
func (w *worker) await(p *place) string {
	p.Helper()
	select {
	case line := <-w.lines:
		return line
	case <-p.within(patience).Done():
		p.Fatal("the worker prints nothing")
		return ""
	}
}

// TestLongHandlers: a handler with a lease runs for three times as long as the broker waits for an acknowledgement. It
// runs once, and no channel is closed. When its process is killed another instance takes the message up.
func TestLongHandlers(t *testing.T) {
	t.Parallel()
	p := hosted(t, rabbit.Options{})
	_, err := p.node.Eval(p.within(patience), fmt.Sprintf(
		"application:set_env(rabbit, consumer_timeout, %d), application:set_env(rabbit, channel_tick_interval, 500).", longest.Milliseconds()))
	p.try(err)
	t.Run("runs", func(t *testing.T) {
		t.Parallel()
		p := on(t, p.node)
		cfg := p.config("a")
		cfg.Consume.Concurrency = 1
		s := p.setup(cfg)
		calls := make(chan int, 100)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, n note) error {
			calls <- n.N
			time.Sleep(3 * *longest)
			return nil
		}, harebus.WithLease(10*time.Second))
		p.start(s)
		for i := range 2 { // one waits meanwhile, and not in this process
			p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{i}))
		}
		p.eventually(patience+7**longest, func() error {
			if n := s.Stats().Handled; n != 2 {
				return fmt.Errorf("%d are handled", n)
			}
			return nil
		})
		time.Sleep(11 * time.Second) // until a lease would have ended
		if stats := s.Stats(); len(calls) != 2 || stats.Connections != 2 || stats.Failed != 0 || stats.Redelivered > 1 {
			t.Errorf("%d calls, %d connections, %d failures, %d redelivered", len(calls), stats.Connections, stats.Failed, stats.Redelivered)
		}
		p.ready(s, soon)
	})
	t.Run("is taken up", func(t *testing.T) {
		t.Parallel()
		p := on(t, p.node)
		cfg := p.config("a")
		first := p.worker("long", cfg.Queue)
		p.eventually(patience, func() error {
			return p.bus().Send(p.within(patience), cfg.Queue, note{1}, harebus.WithMessageID("the-note"))
		})
		if line := first.await(p); line != "begun the-note" {
			t.Fatal(line)
		}
		s, in := p.service(cfg)
		time.Sleep(2 * *longest)
		if n := s.Stats().Delivered; n != 0 {
			t.Fatalf("%d are delivered while the first instance lives", n)
		}
		killed := time.Now()
		first.kill()
		in.awaitID(p, "the-note")
		p.inTime("the take-up", killed, soon)
		if stats := s.Stats(); stats.Handled != 1 {
			t.Errorf("%d are handled", stats.Handled)
		}
	})
}

// TestBatchesKilled: processes are killed amid their batches, one after the other. No message is lost.
func TestBatchesKilled(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	const messages, kills = 1500, 3
	p.try(p.setup(cfg).Init(p.within(patience)))
	want := map[string]int{}
	bus := p.bus()
	p.try(bus.Transaction(p.within(patience), func(ctx context.Context, tx *harebus.Tx) error {
		for i := range messages {
			id := fmt.Sprint("note-", i)
			want[id] = 0
			if err := tx.Send(ctx, cfg.Queue, note{i}, harebus.WithMessageID(id)); err != nil {
				return err
			}
		}
		return nil
	}))
	count := func(w *worker) (n int) {
		for len(w.lines) > 0 {
			id := strings.TrimPrefix(<-w.lines, "done ")
			if _, known := want[id]; known {
				want[id]++
				n++
			}
		}
		return n
	}
	for range kills {
		w := p.worker("batch", cfg.Queue)
		for range 110 { // five batches, and half of the sixth
			want[strings.TrimPrefix(w.await(p), "done ")]++
		}
		w.kill()
		count(w)
	}
	last := p.worker("batch", cfg.Queue)
	p.eventually(patience, func() error {
		count(last)
		missing := 0
		for _, n := range want {
			if n == 0 {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d messages are missing", missing)
		}
		return nil
	})
	twice := 0
	for _, n := range want {
		if n > 1 {
			twice++
		}
	}
	t.Logf("%d messages, %d kills: lost 0, handled more than once %d", messages, kills, twice)
	if len(want) != messages || twice > kills*2*20 { // the batch that was cut, and one whose acknowledgement was on its way
		t.Errorf("%d messages, %d of them handled more than once", len(want), twice)
	}
}

// TestFairness: one tenant floods, and the messages of others are not behind the flood, as they are without a scheduler.
// How long everything takes is logged only: on a busy machine it says how busy that is.
func TestFairness(t *testing.T) {
	t.Parallel()
	p := shared(t)
	late, took := map[bool]time.Duration{}, map[bool]time.Duration{}
	for _, share := range []bool{false, true} {
		late[share], took[share] = p.flood(share)
		t.Logf("fair %v, flood of %d: p99 of small tenants %v, all done in %v", share, *flooded, late[share].Round(time.Millisecond), took[share].Round(10*time.Millisecond))
	}
	// The targets are half a second, and 1.03 times the time, on a machine that does nothing else.
	if late[true] > late[false]/2 {
		t.Errorf("p99 %v, and %v with a scheduler", late[false], late[true])
	}
}

// flood has a service whose handlers take 5 ms, ten at once, get a flood and one message a second of each of
// twenty tenants.
func (p *place) flood(share bool) (p99, all time.Duration) {
	p.Helper()
	cfg := p.config(fmt.Sprint("fair-", share))
	s := p.setup(cfg)
	if share {
		_, err := fair.New(s, fair.Config{By: func(m *harebus.Message) string {
			tenant, _ := m.Headers["tenant"].(string)
			return tenant
		}})
		p.try(err)
	}
	var mu sync.Mutex
	var small []time.Duration
	handled, last := 0, time.Time{}
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ note) error {
		time.Sleep(5 * time.Millisecond)
		m := harebus.Incoming(ctx)
		mu.Lock()
		defer mu.Unlock()
		handled, last = handled+1, time.Now()
		if m.Headers["tenant"] != "big" {
			small = append(small, time.Since(m.TimeSent))
		}
		return nil
	})
	p.start(s)
	bus := p.bus()
	p.try(bus.Send(p.within(patience), cfg.Queue, note{-1}, harebus.WithHeader("tenant", "big"))) // ends the trial of the connection
	p.eventually(patience, func() error {
		if s.Stats().Handled == 0 {
			return errors.New("not begun")
		}
		return nil
	})
	time.Sleep(time.Second)
	seconds := *flooded/2000 + 1
	began := time.Now()
	var sent sync.WaitGroup
	sent.Go(func() {
		for range *flooded / 1000 {
			p.try(bus.Transaction(p.within(4*patience), func(ctx context.Context, tx *harebus.Tx) error {
				for i := range 1000 {
					if err := tx.Send(ctx, cfg.Queue, note{i}, harebus.WithHeader("tenant", "big")); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	})
	for i := range 20 * seconds {
		p.try(bus.Send(p.within(patience), cfg.Queue, note{i}, harebus.WithHeader("tenant", fmt.Sprint("small-", i%20))))
		time.Sleep(50 * time.Millisecond)
	}
	sent.Wait()
	want := *flooded/1000*1000 + 20*seconds + 1
	p.eventually(4*patience, func() error {
		mu.Lock()
		defer mu.Unlock()
		if handled < want {
			return fmt.Errorf("%d of %d are handled", handled, want)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(small)
	if len(small) != 20*seconds || handled != want {
		p.Errorf("%d messages of small tenants, %d in all", len(small), handled)
	}
	return small[len(small)*99/100], last.Sub(began)
}
