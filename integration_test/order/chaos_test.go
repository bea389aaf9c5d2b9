package order_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/ordered"
	"github.com/harebus/harebus/order"
)

var (
	chaos  = flag.Duration("chaos", 6*time.Second, "how long TestChaos breaks things")
	freeze = flag.Bool("freeze", false, "also freeze processes, for longer than their connections live; the late effects of a frozen one are counted, and are no fault")
	runs   = flag.Int("runs", 1, "how often")
)

// TestChaos: instances of a divided queue, and of one that is not, are killed, stopped and frozen, join and leave, connections closed and the broker killed, while messages fail: none is
// missing, and those of each key are handled in their order.
func TestChaos(t *testing.T) {
	for run := range *runs {
		give := []order.GiveUp{order.HoldKey, order.SkipMessage}[run/2%2]
		partitions := []int{3, 0}[run%2]
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			newHavoc(t, rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode}), give, partitions).run(*chaos)
		})
	}
}

func newHavoc(t *testing.T, node *rabbit.Node, give order.GiveUp, partitions int) *havoc {
	t.Logf("RabbitMQ %s", node.Version())
	h := &havoc{
		t: t, node: node, random: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)), faults: map[string]int{}, //nolint:gosec // chance, not secrecy
		plan: plan{URLs: []string{node.URL()}, GiveUp: give, Partitions: partitions, Journal: filepath.Join(t.TempDir(), "journal")},
	}
	if *freeze {
		h.plan.Heartbeat = time.Second // the broker gives up a connection after three
	}
	for range max(partitions, 1) {
		h.orders = append(h.orders, ledger.NewOrders())
	}
	return h
}

// havoc is a service of several processes that is broken, and its broker.
type havoc struct {
	t       *testing.T
	node    *rabbit.Node
	cluster *rabbit.Cluster // nil for a single node
	random  *rand.Rand
	plan    plan
	orders  []*ledger.Orders // of the partitions; one of a queue that is not divided

	instances []*exec.Cmd
	names     []string // of the instances
	made      int
	faults    map[string]int
	kills     []killed

	broken atomic.Int64 // faults that a sender can notice
}

// killed is a process, and when it was killed.
type killed struct {
	name string
	at   time.Time
}

const keys = 20

// run breaks things for so long, and judges.
func (h *havoc) run(chaos time.Duration) {
	t := h.t
	h.join()
	h.join()
	t.Cleanup(func() {
		for _, one := range h.instances {
			_ = one.Process.Kill()
			_ = one.Wait() // it was killed
		}
	})
	h.awaitOwner()
	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	for k := range keys {
		sending.Go(func() { h.send(ctx, fmt.Sprint("k", k)) })
	}
	began := time.Now()
	broker := began.Add(chaos / 2)
	for broke := false; !broke || time.Since(began) < chaos; {
		h.pause(time.Duration(400+h.random.IntN(1200)) * time.Millisecond)
		if time.Now().After(broker) {
			broker, broke = h.breakBroker(chaos), true
			continue
		}
		h.fault()
	}
	stop()
	sending.Wait()
	h.settle()
	h.judge()
}

func (h *havoc) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.t.Context().Done():
	}
}

// of is the order of a key.
func (h *havoc) of(key string) *ledger.Orders {
	return h.orders[order.Partition(key, len(h.orders))]
}

// queues are the queue and its partitions.
func (h *havoc) queues() []string {
	return append((&order.Config{Partitions: h.plan.Partitions}).PartitionQueues("steps"), "steps")
}

// join starts one more instance.
func (h *havoc) join() {
	h.names = append(h.names, "")
	h.instances = append(h.instances, h.spawn(len(h.names)-1))
}

// leave stops an instance.
func (h *havoc) leave(i int) {
	if err := h.instances[i].Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	if err := h.instances[i].Wait(); err != nil {
		h.t.Errorf("a stop: %v", err)
	}
}

// fault breaks something.
func (h *havoc) fault() {
	i := h.random.IntN(len(h.instances))
	one := h.instances[i]
	n := h.random.IntN(6)
	if n == 4 && !*freeze {
		n = 0
	}
	switch n {
	case 0, 3:
		h.faults["kill"]++
		h.kills = append(h.kills, killed{h.names[i], time.Now()})
		_ = one.Process.Kill()
		_ = one.Wait() // it was killed
		h.instances[i] = h.spawn(i)
	case 1:
		h.faults["stop"]++
		h.leave(i)
		h.instances[i] = h.spawn(i)
	case 5:
		if len(h.instances) < 3 {
			h.faults["join"]++
			h.join()
			break
		}
		h.faults["leave"]++
		h.leave(i)
		h.instances, h.names = slices.Delete(h.instances, i, i+1), slices.Delete(h.names, i, i+1)
	case 2:
		h.faults["all connections closed"]++
		h.broken.Add(1)
		if _, err := h.node.Ctl(h.t.Context(), "close_all_connections", "chaos"); err != nil {
			h.t.Fatal(err)
		}
		h.broken.Add(1)
	case 4:
		h.faults["frozen"]++
		if err := one.Process.Signal(syscall.SIGSTOP); err != nil {
			h.t.Fatal(err)
		}
		h.pause(6 * time.Second)
		if err := one.Process.Signal(syscall.SIGCONT); err != nil {
			h.t.Fatal(err)
		}
	}
	h.discard()
}

// breakBroker breaks the broker and returns when it is to be broken next.
func (h *havoc) breakBroker(chaos time.Duration) time.Time {
	if h.cluster == nil {
		h.restart()
		return time.Now().Add(max(chaos/2, 15*time.Second))
	}
	h.breakNode()
	const rest = 5 * time.Second
	return time.Now().Add(rest)
}

// restart kills the broker and starts it again.
func (h *havoc) restart() {
	h.faults["broker killed"]++
	h.broken.Add(1)
	if err := h.node.Kill(); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	if err := h.node.Start(ctx); err != nil {
		h.t.Fatal(err)
	}
	h.broken.Add(1)
}

// discard is the word of an operator about all keys that are held.
func (h *havoc) discard() {
	if h.plan.GiveUp != order.HoldKey {
		return
	}
	o := ordered.Options{Broker: access.Broker{URLs: h.plan.URLs}, Queue: "steps", HeaderPrefix: "PikaBus.", Timeout: 2 * time.Second}
	_, err := o.Say(h.t.Context(), "discard", "")
	if err != nil {
		h.t.Logf("the word of an operator: %v", err) // it is said again
	}
}

// send sends the messages of a key, each when the one before is confirmed.
func (h *havoc) send(ctx context.Context, key string) {
	setup, err := harebus.New(harebus.Config{Connect: harebus.ConnectConfig{URLs: h.plan.URLs, Name: "sender"}, Logger: zap.NewNop()})
	if err != nil {
		h.t.Error(err)
		return
	}
	defer func() { _ = setup.Close() }()
	for n := 1; ctx.Err() == nil; n++ {
		before := h.broken.Load()
		err := setup.Bus().Send(context.WithoutCancel(ctx), "steps", step{key, n}, harebus.WithKey(key), harebus.WithMessageID(fmt.Sprintf("%s-%d", key, n)))
		if err != nil {
			h.t.Error(err)
			return
		}
		h.of(key).Sent(key, n, before%2 == 1 || before != h.broken.Load())
		h.pause(10 * time.Millisecond)
	}
}

// spawn starts an instance.
func (h *havoc) spawn(i int) *exec.Cmd {
	h.t.Helper()
	h.made++
	h.plan.Name = fmt.Sprint("p", h.made)
	h.names[i] = h.plan.Name
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

// awaitOwner waits until instances have the queue and its partitions.
func (h *havoc) awaitOwner() {
	h.t.Helper()
	for range 600 {
		owned := map[string]bool{}
		for _, l := range h.journal() {
			owned[l.Queue] = true
		}
		if len(owned) >= len(h.queues()) {
			return
		}
		h.pause(100 * time.Millisecond)
	}
	h.t.Fatal("no instance has the queue after a minute")
}

// settle waits until nothing is left but the note of the owner.
func (h *havoc) settle() {
	h.t.Helper()
	left := map[string]string{}
	for range 120 {
		out, err := h.node.Ctl(h.t.Context(), "-q", "list_queues", "name", "messages", "--no-table-headers")
		if err != nil {
			h.t.Fatal(err)
		}
		for l := range strings.Lines(out) {
			if name, n, ok := strings.Cut(strings.TrimSpace(l), "\t"); ok {
				left[name] = n
			}
		}
		if !slices.ContainsFunc(h.queues(), func(q string) bool { return left[q] != "0" || left[order.ParkingQueue(q)] != "1" }) {
			return
		}
		h.discard()
		h.pause(500 * time.Millisecond)
	}
	h.t.Errorf("LIVENESS: it has not come to an end: %v", left)
}

// journal reads what the instances have noted.
func (h *havoc) journal() (lines []line) {
	h.t.Helper()
	file, err := os.Open(h.plan.Journal)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for scan := bufio.NewScanner(file); scan.Scan(); {
		var l line
		if json.Unmarshal(scan.Bytes(), &l) == nil { // the last one of a killed process may be cut
			lines = append(lines, l)
		}
	}
	return lines
}

// judge compares.
func (h *havoc) judge() {
	var owners []line
	for _, l := range h.journal() {
		switch l.Op {
		case "tenure":
			h.owns(l)
			owners = append(owners, l)
		case "done":
			h.of(l.Key).Done(l.Proc, l.Key, l.N)
		default:
			h.of(l.Key).GivenUp(l.Key, l.N)
		}
	}
	h.t.Logf("%v; %v", h.plan.GiveUp, h.faults)
	for i, one := range h.orders {
		v := one.Verdict()
		h.t.Logf("partition %d of %d: %s", i, len(h.orders), v)
		if !v.OK() || v.Late > 0 && !*freeze && v.Late > h.faults["all connections closed"]+h.faults["broker killed"]+h.faults["leader killed"]+h.faults["leader frozen"] {
			h.t.Error(v)
		}
		if v.Sent == 0 || v.Tenures < 2 {
			h.t.Error("nothing was proved")
		}
	}
	h.takeOvers(owners)
}

// owns notes that an instance has a queue now.
func (h *havoc) owns(l line) {
	for i, one := range h.orders {
		switch {
		case h.plan.Partitions > 0 && l.Queue == "steps":
			one.Router()
		case h.plan.Partitions == 0 || l.Queue == order.PartitionQueue("steps", i):
			one.Tenure(l.Proc)
		}
	}
}

// takeOvers tells how long it took after a kill until another instance had what the killed one had.
func (h *havoc) takeOvers(owners []line) {
	var took []time.Duration
	for _, k := range h.kills {
		for _, queue := range h.queues() {
			of := slices.DeleteFunc(slices.Clone(owners), func(l line) bool { return l.Queue != queue })
			i := slices.IndexFunc(of, func(o line) bool { return o.T.After(k.at) })
			if i > 0 && of[i-1].Proc == k.name { // it was the owner
				took = append(took, of[i].T.Sub(k.at))
			}
		}
	}
	slices.Sort(took)
	if len(took) > 0 {
		h.t.Logf("taken over after a kill within %v (median of %d), %v at most", took[len(took)/2].Round(time.Millisecond), len(took), took[len(took)-1].Round(time.Millisecond))
	}
}
