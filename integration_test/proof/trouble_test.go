package proof_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

// TestBrokerTrouble makes one broker refuse, block and disturb a service without dying.
func TestBrokerTrouble(t *testing.T) {
	t.Parallel()
	node := private(t, rabbit.Options{})
	t.Run("memory alarm", func(t *testing.T) {
		alarm(t, node, []string{"set_vm_memory_high_watermark", "0.00001"}, []string{"set_vm_memory_high_watermark", "0.6"})
	})
	t.Run("disk alarm", func(t *testing.T) {
		alarm(t, node, []string{"set_disk_free_limit", "900GB"}, []string{"set_disk_free_limit", "50MB"})
	})
	t.Run("connections closed", func(t *testing.T) { connectionsClosed(t, node) })
	t.Run("exchange deleted", func(t *testing.T) { exchangeDeleted(t, node) })
	t.Run("queue deleted", func(t *testing.T) { queueDeleted(t, node) })
	t.Run("queue full", func(t *testing.T) { queueFull(t, node) })
	t.Run("consumer timeout", func(t *testing.T) { consumerTimeout(t, node) })
	t.Run("credentials revoked", func(t *testing.T) { credentialsRevoked(t, node) })
	t.Run("others in trouble", func(t *testing.T) { othersInTrouble(t, node) })
}

// alarm blocks all publishers for 10 s: sends come back at their deadlines.
func alarm(t *testing.T, node *rabbit.Node, raise, lower []string) {
	const blocked = 10 * time.Second
	r := begin(t, plan{nodes: []*rabbit.Node{node}, timeout: brief})
	r.fault(raise[0], func() {
		r.ctl(node, raise...)
		before := r.service.Book.Counts().Confirmed
		time.Sleep(blocked)
		if after := r.service.Book.Counts().Confirmed; after-before > r.plan.rate {
			t.Errorf("%d messages were confirmed during the alarm: there was none", after-before)
		}
		r.ctl(node, lower...)
	})
	r.end()
}

// connectionsClosed has the broker close every connection twice a second while fifty goroutines send.
func connectionsClosed(t *testing.T, node *rabbit.Node) {
	r := begin(t, plan{nodes: []*rabbit.Node{node}})
	before := r.service.Setup.Stats().Connections
	r.fault("connections closed every 500 ms", func() {
		r.eval(node, `[begin
			[rabbit_networking:close_connection(Connection, "a test") || Connection <- rabbit_networking:connections()],
			timer:sleep(500)
		end || _ <- lists:seq(1, 30)].`)
	})
	made := r.service.Setup.Stats().Connections - before
	t.Logf("%s: %d connections lost", t.Name(), made)
	if made < 10 {
		t.Errorf("only %d connections were made again", made)
	}
	r.allConfirmed(r.end())
}

// exchangeDeleted has somebody delete the exchange of all commands, three times.
func exchangeDeleted(t *testing.T, node *rabbit.Node) {
	r := begin(t, plan{nodes: []*rabbit.Node{node}})
	r.fault("exchange deleted", func() {
		for range 3 {
			r.plainly(node, func(ch *amqp.Channel) error { return ch.ExchangeDelete(r.cfg.Exchanges.Direct, false, false) })
			r.confirmed(2 * r.plan.rate)
		}
	})
	r.plainly(node, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(r.cfg.Exchanges.Direct, amqp.ExchangeDirect, true, false, false, false, nil)
	})
	r.allConfirmed(r.end())
}

// queueDeleted has somebody delete the service's queue. What lies in it is gone by the will of whoever does that, so
// the queue is empty then, and the load goes on at that very moment.
func queueDeleted(t *testing.T, node *rabbit.Node) {
	r := begin(t, plan{nodes: []*rabbit.Node{node}})
	r.silence()
	r.try(r.service.Settle(t.Context(), patience))
	r.plainly(node, func(ch *amqp.Channel) error {
		r.fault("queue deleted", func() {
			purged, err := ch.QueueDelete(r.cfg.Queue, false, false, false)
			r.try(err)
			if purged > 0 {
				t.Fatalf("%d messages went down with the queue: this run shows nothing", purged)
			}
			deleted := time.Now()
			r.load()
			r.consuming("the queue was deleted", deleted, 5*time.Second)
		})
		return nil
	})
	r.allConfirmed(r.end())
}

// queueFull has the handlers stand still until the queue is full and refuses messages, then lets them go on.
func queueFull(t *testing.T, node *rabbit.Node) {
	const room, full = 100, 6 * time.Second
	var valve sync.RWMutex // held for writing while handlers stand still
	r := begin(t, plan{
		nodes:  []*rabbit.Node{node},
		change: func(cfg *harebus.Config) { cfg.QueueOptions.Arguments = map[string]any{"x-max-length": room} },
		gate: func(proof.Work) {
			valve.RLock()
			defer valve.RUnlock()
		},
	})
	r.fault("queue full", func() {
		valve.Lock()
		defer valve.Unlock()
		r.eventually(patience, func() error {
			if r.service.Book.Counts().Failed > 0 {
				return nil
			}
			return errors.New("no send has been refused")
		})
		time.Sleep(full)
		r.plainly(node, func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(r.cfg.Queue, true, false, false, false, nil)
			if err == nil && q.Messages < room {
				err = fmt.Errorf("the full queue holds %d messages", q.Messages)
			}
			return err
		})
	})
	r.end()
}

// consumerTimeout has some handlers take longer than the broker allows: it closes the channel and delivers again what
// was out on it. The late acknowledgements hit nothing.
func consumerTimeout(t *testing.T, node *rabbit.Node) {
	const slow = 8 * time.Second
	r := &run{T: t}
	r.eval(node, "application:set_env(rabbit, consumer_timeout, 5000), application:set_env(rabbit, channel_tick_interval, 500).")
	var dawdlers atomic.Int32 // how many are to come; half of the handlers go on
	var seen sync.Map
	r = begin(t, plan{nodes: []*rabbit.Node{node}, gate: func(w proof.Work) {
		if _, again := seen.LoadOrStore(w.ID, true); !again && w.Seq%100 == 0 && dawdlers.Add(-1) >= 0 {
			time.Sleep(slow)
		}
	}})
	r.fault("handlers slower than the consumer timeout", func() {
		dawdlers.Store(4)
		time.Sleep(2 * slow)
		dawdlers.Store(0)
	})
	// Before the end: the timeout would also strike the client that empties the queues.
	r.eval(node, "application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000).")
	verdict := r.end()
	if verdict.Duplicates == 0 {
		t.Error("no duplicates: the broker's timeout did not strike")
	}
	r.allConfirmed(verdict)
}

// credentialsRevoked has the service's user deleted and added again: it is not a reason to storm the broker.
func credentialsRevoked(t *testing.T, node *rabbit.Node) {
	const revoked, password = 12 * time.Second, "secret"
	way := &gate{}
	admit := func(r *run, user string) {
		r.ctl(node, "add_user", user, password)
		r.ctl(node, "set_permissions", user, ".*", ".*", ".*")
	}
	r := begin(t, plan{nodes: []*rabbit.Node{node}, change: func(cfg *harebus.Config) {
		admit(&run{T: t}, cfg.Queue)
		cfg.Connect.Username, cfg.Connect.Password = cfg.Queue, password
		way.guard(cfg)
	}})
	r.fault("credentials revoked", func() {
		r.ctl(node, "delete_user", r.name)
		r.ctl(node, "close_all_connections", "--vhost", "/", "a test")
		gone := time.Now()
		before := r.service.Book.Counts().Confirmed
		time.Sleep(revoked)
		if after := r.service.Book.Counts().Confirmed; after > before {
			t.Errorf("%d messages were confirmed for a user that does not exist", after-before)
		}
		r.seldom(way, gone)
		admit(r, r.name)
	})
	r.allConfirmed(r.end())
}

// othersInTrouble makes another client on the same bus make one mistake after the other. The load
// is a bystander: none of its sends fails, and it never pauses for a second.
func othersInTrouble(t *testing.T, node *rabbit.Node) {
	const key, long = "bystander", 6 * time.Second
	r := begin(t, plan{
		nodes: []*rabbit.Node{node}, key: key, kinds: []proof.Kind{proof.Plain},
		change: func(cfg *harebus.Config) {
			cfg.Payload.MaxBody = 1 << 20
			cfg.Declare.Topology = topology.Topology{Queues: []topology.Queue{{Name: cfg.Queue + ".taken", Type: topology.Classic}}}
		},
	})
	taken, fragile := r.name+".taken", r.name+".fragile"
	r.fault("others in trouble", func() {
		r.plainly(node, func(ch *amqp.Channel) error {
			if _, err := ch.QueueDelete(taken, false, false, false); err != nil {
				return err
			}
			_, err := ch.QueueDeclare(taken, true, false, false, false, amqp.Table{"x-max-length": 1})
			return err
		})
		for began := time.Now(); time.Since(began) < long; {
			r.refusals()
			r.unroutable(fragile)
			var broker *amqp.Error
			if err := r.service.Setup.Init(r.within(patience)); !errors.As(err, &broker) || broker.Code != amqp.PreconditionFailed {
				t.Errorf("a queue was declared with other arguments than it has: %v", err)
			}
			r.exchangeVanishes(node, fragile)
		}
	})
	r.plainly(node, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(taken, false, false, false)
		return err
	})
	r.allConfirmed(r.end(func(e *ledger.Expect) { e.Bystander = key }))
}

// refusals are calls that the library has to refuse by itself, because the broker would close the connection for them.
func (r *run) refusals() {
	r.Helper()
	ctx, bus := r.within(patience), r.service.Setup.Bus()
	for what, err := range map[string]error{
		"header too long":   bus.Send(ctx, "any", proof.Child{}, harebus.WithHeader("h", strings.Repeat("x", 200<<10))),
		"header NaN":        bus.Send(ctx, "any", proof.Child{}, harebus.WithHeader("h", math.NaN())),
		"type too long":     bus.Send(ctx, "any", proof.Child{}, harebus.WithType(strings.Repeat("t", 256))),
		"queue too long":    bus.Send(ctx, strings.Repeat("q", 256), proof.Child{}),
		"body too large":    bus.Send(ctx, "any", proof.Child{ID: strings.Repeat("b", 2<<20)}),
		"negative deferral": bus.Defer(ctx, "any", -time.Second, proof.Child{}),
	} {
		if !errors.Is(err, harebus.ErrRefused) {
			r.Errorf("%s: %v", what, err)
		}
	}
}

// unroutable are sends that nothing takes.
func (r *run) unroutable(missing string) {
	r.Helper()
	ctx, bus := r.within(patience), r.service.Setup.Bus()
	for what, err := range map[string]error{
		"command":          bus.Send(ctx, "nobody", proof.Child{}),
		"event":            bus.Publish(ctx, "nobody.listens", proof.Child{}),
		"deferred":         bus.Defer(ctx, "nobody", time.Second, proof.Child{}),
		"missing exchange": bus.Send(ctx, "any", proof.Child{}, harebus.WithExchange(missing)),
	} {
		if !errors.Is(err, harebus.ErrUnroutable) {
			r.Errorf("%s: %v", what, err)
		}
	}
}

// exchangeVanishes has an exchange vanish after the bus has seen it: the next publish to it closes the channel that all
// share.
func (r *run) exchangeVanishes(node *rabbit.Node, name string) {
	r.Helper()
	ctx, bus := r.within(patience), r.service.Setup.Bus()
	r.plainly(node, func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
			return err
		}
		err := bus.Send(ctx, "any", proof.Child{}, harebus.WithExchange(name), harebus.NonMandatory())
		return errors.Join(err, ch.ExchangeDelete(name, false, false))
	})
	if err := bus.Send(ctx, "any", proof.Child{}, harebus.WithExchange(name), harebus.NonMandatory()); err == nil {
		r.Error("a message to an exchange that has vanished was confirmed")
	}
}
