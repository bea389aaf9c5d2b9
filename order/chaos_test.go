package order_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/order"
)

var (
	seed      = flag.Uint64("seed", 0, "run the schedule of this seed only, and tell what happens")
	schedules = flag.Int("schedules", 40, "number of simulated schedules")
)

// TestChaos runs two to three instances under schedules of kills, stops, cuts and failures drawn from seeds, in
// virtual time. A seed that fails fails again: go test ./order -run Chaos -seed=N.
func TestChaos(t *testing.T) {
	t.Parallel()
	if *seed != 0 {
		chaos(t, *seed)
		return
	}
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !t.Failed() {
				mine := next.Add(1)
				if mine > uint64(*schedules) { //nolint:gosec // a small positive number
					return
				}
				chaos(t, mine)
			}
		})
	}
	workers.Wait()
	t.Logf("%d schedules: %d messages, %d owners, %d repeated", *schedules, total.sent.Load(), total.owners.Load(), total.repeats.Load())
}

// total is what all schedules have done together.
var total struct{ sent, owners, repeats atomic.Int64 }

func chaos(t *testing.T, drawn uint64) {
	t.Helper()
	t.Run(fmt.Sprintf("seed=%d", drawn), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &chaotic{t: t, random: rand.New(rand.NewPCG(drawn, 1)), failures: map[string]int{}} //nolint:gosec // chance, not secrets
			if drawn%2 == 0 {
				c.partitions = 3
			}
			good := true
			for _, v := range c.run() {
				total.sent.Add(int64(v.Sent))
				total.owners.Add(int64(v.Tenures))
				total.repeats.Add(int64(v.Repeats))
				if !v.OK() || v.Late > 0 {
					good = false
					t.Errorf("replay with -run Chaos -seed=%d\nfaults: %s\n%v", drawn, strings.Join(c.faults, ", "), v)
				}
			}
			if *seed != 0 || !good {
				_ = os.WriteFile(filepath.Join(os.TempDir(), fmt.Sprintf("order-%d.log", drawn)), []byte(strings.Join(c.story.lines, "\n")), 0o600) // for whoever looks for the reason
			}
		})
	})
}

// chaotic is one schedule.
type chaotic struct {
	t      *testing.T
	broker *brokertest.Broker
	faults []string
	// orders are those of the partitions; one of a queue that is not divided.
	partitions int
	orders     []*ledger.Orders
	began      time.Time
	skip       bool

	restarts atomic.Int64
	story    struct {
		mu    sync.Mutex // guards lines
		lines []string
	}

	procs []*proc
	made  int

	mu       sync.Mutex // guards what follows
	random   *rand.Rand
	failures map[string]int // that a message still has; negative: always
}

// proc is an instance, and whether it was killed.
type proc struct {
	name  string
	setup *harebus.Setup
	dead  atomic.Bool
	kill  context.CancelFunc
}

const (
	chaosKeys = 6
	chaosEach = 60
)

func (c *chaotic) run() (all []ledger.OrderVerdict) {
	c.broker, c.began = brokertest.New(), time.Now()
	for range max(c.partitions, 1) {
		c.orders = append(c.orders, ledger.NewOrders())
	}
	defer c.broker.Close()
	c.skip = c.chance(2)
	for range 2 + c.below(2) {
		c.spawn()
	}
	var sending, faulting sync.WaitGroup
	stop := make(chan struct{})
	for k := range chaosKeys {
		sending.Go(func() { c.send(string(rune('a' + k))) })
	}
	faulting.Go(func() { c.fault(stop) })
	sending.Wait()
	close(stop)
	faulting.Wait()
	c.settle()
	for _, p := range c.procs {
		_ = p.setup.Close() // some are killed
	}
	for _, one := range c.orders {
		all = append(all, one.Verdict())
	}
	return all
}

// of is the order of a key.
func (c *chaotic) of(key string) *ledger.Orders {
	return c.orders[order.Partition(key, len(c.orders))]
}

// queues are the queue and its partitions.
func (c *chaotic) queues() []string {
	return append((&order.Config{Partitions: c.partitions}).PartitionQueues("steps"), "steps")
}

func (c *chaotic) below(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

func (c *chaotic) chance(n int) bool { return c.below(n) == 0 }

// send sends the messages of a key, each when the one before is confirmed.
func (c *chaotic) send(key string) {
	sender, err := harebus.New(harebus.Config{Dial: c.broker.Dial, Connect: harebus.ConnectConfig{Name: "sender"}})
	if err != nil {
		c.t.Error(err)
		return
	}
	defer func() { _ = sender.Close() }()
	for n := 1; n <= chaosEach; n++ {
		before := c.restarts.Load()
		if err := sender.Bus().Send(context.Background(), "steps", step{key, n}, harebus.WithKey(key), harebus.WithMessageID(fmt.Sprint(key, n))); err != nil {
			c.t.Error(err)
			return
		}
		c.of(key).Sent(key, n, before != c.restarts.Load())
		time.Sleep(time.Duration(c.below(300)) * time.Millisecond)
	}
}

// spawn starts an instance.
func (c *chaotic) spawn() {
	c.made++
	p := &proc{name: fmt.Sprint("p", c.made)}
	var life context.Context
	life, p.kill = context.WithCancel(context.Background())
	give := order.HoldKey
	if c.skip {
		give = order.SkipMessage
	}
	s, err := harebus.New(harebus.Config{
		Dial: func(network, address string) (net.Conn, error) {
			if p.dead.Load() {
				return nil, errChaos
			}
			return c.broker.Dial(network, address)
		},
		Queue: "steps", Logger: zap.New(hook{hear: func(e zapcore.Entry, fields []zapcore.Field) { c.hear(p, e, fields) }}), Connect: harebus.ConnectConfig{Name: p.name},
		Consume: harebus.ConsumeConfig{Concurrency: 1 + c.below(6), Order: &order.Config{GiveUp: give, Partitions: c.partitions}},
		Retry:   harebus.RetryConfig{MaxRetries: 3, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(400 * time.Millisecond) }},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, m step) error { return c.handle(ctx, life, p, m) },
		harebus.WithGivenUp(func(_ context.Context, _ *harebus.Bus, m *harebus.Message, _ error) error {
			var one step
			err := m.Decode(&one)
			if c.skip {
				c.of(one.Key).GivenUp(one.Key, one.N)
			}
			return err
		}))
	p.setup = s
	c.procs = append(c.procs, p)
	if err := s.Start(context.Background()); err != nil {
		c.note("start of %s: %v", p.name, err)
	}
}

// hear reads the log of an instance.
func (c *chaotic) hear(p *proc, e zapcore.Entry, fields []zapcore.Field) {
	all := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(all)
	}
	switch {
	case strings.HasPrefix(e.Message, "this process handles the ordered queue now"):
		c.owns(p, fmt.Sprint(all.Fields["queue"]))
	case strings.HasPrefix(e.Message, "a message that held its key is discarded"),
		// Owners that lost their connections look like processes that a message has ended, and it is skipped: no handler sees it.
		c.skip && e.Message == "message moved to the error queue" && strings.HasPrefix(fmt.Sprint(all.Fields["error"]), "the process has ended again and again"):
		var m step
		if _, err := fmt.Sscanf(fmt.Sprint(all.Fields["message_id"]), "%1s%d", &m.Key, &m.N); err != nil {
			c.t.Error(err)
		}
		c.of(m.Key).GivenUp(m.Key, m.N)
	}
	c.tell(p.name, " ", e.Message, all.Fields)
}

// owns notes that an instance has a queue now.
func (c *chaotic) owns(p *proc, queue string) {
	for i, one := range c.orders {
		switch {
		case c.partitions > 0 && queue == "steps":
			one.Router()
		case c.partitions == 0 || queue == order.PartitionQueue("steps", i):
			one.Tenure(p.name)
		}
	}
}

var errChaos = errors.New("as the schedule wants it")

// handle handles a message: of 100, three fail one to three times, and one fails always.
func (c *chaotic) handle(ctx, life context.Context, p *proc, m step) error {
	select {
	case <-time.After(time.Duration(c.below(120_000)) * time.Microsecond):
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-life.Done():
		return errChaos
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.dead.Load() || ctx.Err() != nil {
		return errChaos
	}
	name := fmt.Sprint(m.Key, m.N)
	if _, drawn := c.failures[name]; !drawn {
		c.failures[name] = 0
		switch c.random.IntN(100) {
		case 0, 1, 2:
			c.failures[name] = 1 + c.random.IntN(3)
		case 3:
			c.failures[name] = -1
		}
	}
	if c.failures[name] != 0 {
		c.failures[name]--
		return errChaos
	}
	c.of(m.Key).Done(p.name, m.Key, m.N)
	c.tell(p.name, " ", name, " is done, delivered again: ", harebus.Incoming(ctx).Redelivered)
	return nil
}

func (c *chaotic) note(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf("%v ", time.Since(c.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
	c.tell(c.faults[len(c.faults)-1])
}

// tell writes down what happens, for a schedule that fails.
func (c *chaotic) tell(what ...any) {
	c.story.mu.Lock()
	defer c.story.mu.Unlock()
	c.story.lines = append(c.story.lines, fmt.Sprint(time.Since(c.began), " ")+fmt.Sprint(what...))
}

// fault breaks something now and then.
func (c *chaotic) fault(stop <-chan struct{}) {
	for {
		select {
		case <-time.After(time.Duration(100+c.below(1500)) * time.Millisecond):
		case <-stop:
			return
		}
		at := c.below(len(c.procs))
		p := c.procs[at]
		switch c.below(8) {
		case 0:
			c.note("kill %s", p.name)
			p.dead.Store(true)
			p.kill()
			c.broker.CutConnections(c.connections(p.name)...)
			_ = p.setup.Close() // its handlers have no effect any more
			c.procs = append(c.procs[:at], c.procs[at+1:]...)
			c.spawn()
		case 1:
			c.note("stop %s", p.name)
			if err := p.setup.Close(); err != nil {
				c.t.Error(err)
			}
			c.procs = append(c.procs[:at], c.procs[at+1:]...)
			c.spawn()
		case 2:
			c.note("cut all of %s", p.name)
			c.broker.CutConnections(c.connections(p.name)...)
		case 3:
			if one := c.connections(p.name); len(one) > 0 {
				n := c.below(len(one))
				c.note("cut connection %d of %s", n, p.name)
				c.broker.CutConnections(one[n])
			}
		case 4:
			queue := c.queues()[c.below(len(c.queues()))]
			queue = []string{queue, order.ParkingQueue(queue)}[c.below(2)]
			c.note("cancel the consumers of %s", queue)
			_ = c.broker.CancelConsumers(queue) // it may not exist yet
		case 5:
			c.note("restart the broker")
			c.restarts.Add(1)
			c.broker.Restart()
		case 6:
			c.word([]string{"retry", "discard"}[c.below(2)])
		case 7:
			c.rebalance(at)
		}
	}
}

// rebalance has another instance join, or one leave.
func (c *chaotic) rebalance(at int) {
	if len(c.procs) < 4 {
		c.note("another one joins")
		c.spawn()
		return
	}
	c.note("%s leaves", c.procs[at].name)
	if err := c.procs[at].setup.Close(); err != nil {
		c.t.Error(err)
	}
	c.procs = append(c.procs[:at], c.procs[at+1:]...)
}

// connections are those of an instance.
func (c *chaotic) connections(name string) (all []string) {
	for _, one := range c.broker.Connections() {
		if strings.HasPrefix(one.Name, name) {
			all = append(all, one.Name)
		}
	}
	return all
}

// word sends the word of an operator about all keys.
func (c *chaotic) word(word string) {
	c.note("%s", word)
	conn, err := amqp.DialConfig(c.broker.URL(), amqp.Config{Dial: c.broker.Dial})
	if err != nil {
		c.t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	for _, queue := range c.queues() {
		if err == nil {
			err = ch.PublishWithContext(context.Background(), "", order.ParkingQueue(queue), false, false, amqp.Publishing{ // it may not exist yet
				Headers: amqp.Table{"PikaBus.OrderNote": word + " ", "PikaBus.OrderKey": ""},
			})
		}
	}
	if err != nil {
		c.t.Error(err)
	}
}

// settle waits until everything has come to its end. What is held then is discarded.
func (c *chaotic) settle() {
	c.spawn()
	for range 200 {
		time.Sleep(3 * time.Second)
		if c.left() == "" {
			return
		}
		if !c.skip {
			c.word("discard")
		}
	}
	c.t.Errorf("LIVENESS: it has not come to an end: %s", c.left())
}

// left says what is left in the queues, beside the note of the owner.
func (c *chaotic) left() (all string) {
	for _, name := range c.queues() {
		queue, _ := c.broker.Queue(name)
		parked, _ := c.broker.Queue(order.ParkingQueue(name))
		if queue.Ready+queue.Unacked != 0 || parked.Ready+parked.Unacked != 1 {
			all += fmt.Sprintf("%s: %+v %+v ", name, c.broker.Messages(name), c.broker.Messages(order.ParkingQueue(name)))
		}
	}
	return all
}

// hook is a log that tells only the test.
type hook struct {
	hear func(zapcore.Entry, []zapcore.Field)
	with []zapcore.Field
}

func (hook) Enabled(l zapcore.Level) bool { return l >= zap.InfoLevel }
func (h hook) With(fields []zapcore.Field) zapcore.Core {
	return hook{h.hear, slices.Concat(h.with, fields)}
}
func (h hook) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, h)
}
func (h hook) Write(e zapcore.Entry, fields []zapcore.Field) error {
	h.hear(e, slices.Concat(h.with, fields))
	return nil
}
func (hook) Sync() error { return nil }
