// Package schedule_test breaks real brokers and processes under recurring schedules.
package schedule_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

var chaos = flag.Duration("chaos", 15*time.Second, "how long TestChaos breaks things, for each type of queue")

// TestChaos: instances are killed and frozen, connections closed and the broker killed, while one
// version of the service replaces another: no due time is missing, none is early, and what comes
// twice has the same id.
func TestChaos(t *testing.T) {
	for _, kind := range []topology.QueueType{topology.Quorum, topology.Classic} {
		t.Run(string(kind), func(t *testing.T) {
			node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode, Config: []string{"consumer_timeout = 60000"}})
			t.Logf("RabbitMQ %s", node.Version())
			newHavoc(t, node, kind).run(*chaos)
		})
	}
}

// havoc is a service of several processes that is broken, and its broker.
type havoc struct {
	t       *testing.T
	node    *rabbit.Node
	cluster *rabbit.Cluster // nil for a single node
	rand    *rand.Rand
	plan    plan

	instances                       []*exec.Cmd
	kills, freezes, closes, brokers int
}

func newHavoc(t *testing.T, node *rabbit.Node, kind topology.QueueType) *havoc {
	return &havoc{t: t, node: node, rand: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)), //nolint:gosec // chance, not secrecy
		plan: plan{URLs: []string{node.URL()}, Queue: "chaos", Type: kind, Version: 1, Journal: filepath.Join(t.TempDir(), "journal")}}
}

// run breaks things for so long, and judges.
func (h *havoc) run(chaos time.Duration) {
	t := h.t
	for range 4 {
		h.instances = append(h.instances, h.spawn())
	}
	t.Cleanup(func() {
		for _, one := range h.instances {
			h.kill(one)
		}
	})
	h.await("each", time.Now(), time.Minute)
	h.await("third", time.Now(), time.Minute)
	began := time.Now()
	half := began.Add(chaos / 2)
	broker := began.Add(chaos / 3)
	for time.Since(began) < chaos {
		if h.plan.Version == 1 && time.Now().After(half) {
			h.plan.Version = 2 // whatever is started from now on
		}
		switch n := h.rand.IntN(10); {
		case time.Now().After(broker):
			broker = h.breakBroker(broker, chaos)
		case n < 6:
			h.replace(h.rand.IntN(len(h.instances)))
		case n < 8:
			h.freeze(h.rand.IntN(len(h.instances)))
		case h.cluster != nil: // its nodes are what is broken
			h.replace(h.rand.IntN(len(h.instances)))
		default:
			h.closes++
			if _, err := h.node.Ctl(t.Context(), "close_all_connections", "chaos"); err != nil {
				t.Fatal(err)
			}
		}
		h.pause(time.Duration(200+h.rand.IntN(1500)) * time.Millisecond)
	}
	h.plan.Version = 2
	for i := range h.instances {
		h.replace(i)
	}
	until := time.Now()
	for _, name := range []string{"each", "third", "added", "changed"} {
		h.await(name, until, 90*time.Second)
	}
	runs := h.journal()
	t.Logf("%d × kill, %d × freeze, %d × all connections closed, %d × broker killed or frozen", h.kills, h.freezes, h.closes, h.brokers)
	h.check(runs, "each", time.Second, began, until)
	h.check(runs, "third", 3*time.Second, began, until)
	for _, name := range []string{"removed", "changed", "added"} {
		h.check(runs, name, 0, began, until)
	}
}

// pause lets time pass while things break; nothing is waited for.
func (h *havoc) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.t.Context().Done():
	}
}

// spawn starts an instance.
func (h *havoc) spawn() *exec.Cmd {
	h.t.Helper()
	text, err := json.Marshal(h.plan)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), asService+"="+string(text))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return cmd
}

// kill ends an instance at once.
func (h *havoc) kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
}

// replace kills an instance and starts another one.
func (h *havoc) replace(i int) {
	h.kills++
	h.kill(h.instances[i])
	h.instances[i] = h.spawn()
}

// freeze stops an instance for a while, sometimes for longer than its heartbeats.
func (h *havoc) freeze(i int) {
	h.freezes++
	one := h.instances[i].Process
	if err := one.Signal(syscall.SIGSTOP); err != nil {
		h.t.Fatal(err)
	}
	h.pause(time.Duration(500+h.rand.IntN(9000)) * time.Millisecond)
	if err := one.Signal(syscall.SIGCONT); err != nil {
		h.t.Fatal(err)
	}
}

// breakBroker breaks the broker and returns when it is to be broken next.
func (h *havoc) breakBroker(last time.Time, chaos time.Duration) time.Time {
	if h.cluster == nil {
		h.restart()
		return last.Add(max(time.Minute, chaos/3))
	}
	h.breakNode()
	const rest = 8 * time.Second
	return time.Now().Add(rest)
}

// restart kills the broker and starts it again.
func (h *havoc) restart() {
	h.brokers++
	if err := h.node.Kill(); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	if err := h.node.Start(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// journal reads what the instances have noted.
func (h *havoc) journal() (runs []run) {
	h.t.Helper()
	file, err := os.Open(h.plan.Journal)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var r run
		if json.Unmarshal(lines.Bytes(), &r) == nil { // the last line of a killed process may be cut
			runs = append(runs, r)
		}
	}
	return runs
}

// await waits until a due time after a moment has been handled.
func (h *havoc) await(name string, after time.Time, limit time.Duration) {
	h.t.Helper()
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		if slices.ContainsFunc(h.journal(), func(r run) bool { return r.Schedule == name && r.At.After(after) }) {
			return
		}
		h.pause(100 * time.Millisecond)
	}
	h.t.Fatalf("%s: no due time after %v was handled within %v", name, after, limit)
}

// check looks for due times that are missing, early, or came under two ids. Interval 0 does not ask for all.
func (h *havoc) check(runs []run, name string, interval time.Duration, from, to time.Time) {
	h.t.Helper()
	ids, twice := map[int64]string{}, 0
	var late []time.Duration
	for _, r := range runs {
		if r.Schedule != name {
			continue
		}
		if r.When.Before(r.At) {
			h.t.Errorf("%s: %v was handled at %v, which is early", name, r.At, r.When)
		}
		switch id, ok := ids[r.At.UnixNano()]; {
		case ok && id != r.ID:
			h.t.Errorf("%s: %v came under the ids %s and %s", name, r.At, id, r.ID)
		case ok:
			twice++
		default:
			late = append(late, r.When.Sub(r.At))
		}
		ids[r.At.UnixNano()] = r.ID
	}
	missing := 0
	if interval > 0 {
		for at := from.Truncate(interval).Add(interval); at.Before(to); at = at.Add(interval) {
			if _, ok := ids[at.UnixNano()]; !ok {
				missing++
				h.t.Errorf("%s: %v is missing", name, at)
			}
		}
	}
	if len(ids) == 0 {
		h.t.Errorf("%s was never handled", name)
		return
	}
	slices.Sort(late)
	h.t.Logf("%s: %d due times, %d missing, %d twice under the same id; late %v in the middle, %v at most",
		name, len(ids), missing, twice, late[len(late)/2].Round(time.Millisecond), late[len(late)-1].Round(time.Millisecond))
}

// TestManyTakeovers: a token that passes from instance to instance without being due stays, however
// often: RabbitMQ 4 counts a delivery for each takeover.
func TestManyTakeovers(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	t.Logf("RabbitMQ %s", node.Version())
	p := plan{URLs: []string{node.URL()}, Queue: "passed", Type: topology.Quorum, Version: 1}
	var mu sync.Mutex
	made := map[string]int{}
	var before func() error
	for range 45 {
		setup, schedules, err := p.service(func(r run) error {
			mu.Lock()
			defer mu.Unlock()
			made[r.Schedule]++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if before != nil {
			if err := before(); err != nil {
				t.Fatal(err)
			}
		}
		deadline := time.Now().Add(30 * time.Second)
		for s := schedules.Stats(); !s.Leads || s.Tokens != len(expressions(1)); s = schedules.Stats() {
			if time.Now().After(deadline) {
				t.Fatalf("no takeover: %+v", s)
			}
			time.Sleep(10 * time.Millisecond)
		}
		before = setup.Close
	}
	if err := before(); err != nil {
		t.Fatal(err)
	}
	if made["idle"] != 0 {
		t.Errorf("the idle schedule ran %d times", made["idle"])
	}
}
