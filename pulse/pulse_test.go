package pulse_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/pulse"
)

func contains(text, part string) bool {
	return part == "" && text == "" || part != "" && strings.Contains(text, part)
}

// TestAsk: instances say who they are, what they handle, and what became of the messages of each type.
func TestAsk(t *testing.T) {
	bubble(t, func(r *rig) {
		r.ask(pulse.Target{}, 0) // before any service has served
		release := make(chan struct{})
		one := r.serve(pulse.Config{Version: "1.8.2"}, "orders", func(_ context.Context, m place) error {
			switch m.ID {
			case 0:
				<-release
			case 1:
				return harebus.NoRetry(errors.New("no"))
			case 2:
				return errors.New("later")
			}
			return nil
		}, func(cfg *harebus.Config) {
			cfg.Retry.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Hour) }
		}).begin()
		one.send("orders", 4)
		r.until("three are handled", func() bool { return one.setup.Stats().Handled == 1 && one.setup.Stats().Failed == 2 })
		two := r.serve(pulse.Config{Service: "pay"}, "payments", nil, func(cfg *harebus.Config) { cfg.Payload.Build = "7" }).begin()

		answers := r.ask(pulse.Target{}, 2).Answers
		a, b := answers[0], answers[1]
		if a.Instance != one.pulse.Instance() || a.Service != "orders" || a.Version != "1.8.2" || a.NotReady != "" || a.Control || a.Config == b.Config || len(a.Config) != 8 || a.Connections != 2 {
			r.Errorf("answer %+v", a)
		}
		if a.Ahead.Abs() > time.Second || time.Since(a.Started) < 100*time.Millisecond {
			r.Errorf("clock ahead by %v, started %v", a.Ahead, a.Started)
		}
		q := a.Queues[0]
		if q.Name != "orders" || q.InHand != 1 || q.Oldest <= 0 || q.Paused || q.Concurrency != 2 || q.Prefetch != 10 || q.Consumers != 1 || q.Delivered != 4 {
			r.Errorf("queue %+v", q)
		}
		if m := q.Types["Place"]; m.Handled != 1 || m.Failed != 2 || m.Retried != 1 || m.Parked != 1 || m.CriticalTime.Count() != 1 || m.HandlingTime.Count() != 3 || q.All.Handled != 1 {
			r.Errorf("counts %+v", m)
		}
		if b.Instance != two.pulse.Instance() || b.Service != "pay" || b.Version != "7" || b.Queues[0].Name != "payments" {
			r.Errorf("answer %+v", b)
		}
		r.ask(pulse.Target{Queue: "payments"}, 1)
		r.ask(pulse.Target{Instance: one.pulse.Instance()}, 1)
		began := time.Now()
		if r.ask(pulse.Target{Queue: "absent"}, 0); time.Since(began) > 100*time.Millisecond {
			r.Errorf("nobody is there, and that took %v", time.Since(began))
		}
		two.end()
		r.ask(pulse.Target{}, 1)
		close(release)
	})
}

// counting counts what is written to a connection.
type counting struct {
	net.Conn

	written *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.written.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// TestSilence: while nobody asks, an instance sends nothing, and a question costs it two small frames and an answer.
func TestSilence(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{}, "orders", nil, nil)
		var written atomic.Int64
		cfg := harebus.Config{URL: r.broker.URL(), Queue: "orders", Dial: func(network, address string) (net.Conn, error) {
			conn, err := r.broker.Dial(network, address)
			return counting{conn, &written}, err
		}}
		s.pulse.Use(&cfg)
		s.begin()
		before := written.Load()
		if time.Sleep(24 * time.Hour); written.Load() != before || before == 0 {
			r.Errorf("%d bytes in a day", written.Load()-before)
		}
		r.ask(pulse.Target{}, 1)
		if n := written.Load() - before; n == 0 || n > 2000 {
			r.Errorf("an answer has %d bytes", n)
		}
	})
}

// TestReconnect: an instance answers again after a lost connection, and what was ordered stays.
func TestReconnect(t *testing.T) {
	bubble(t, func(r *rig) {
		r.serve(pulse.Config{Control: true}, "orders", nil, nil).begin()
		r.order(pulse.Order{Do: pulse.Pause, Queue: "orders"}, "")
		r.order(pulse.Order{Do: pulse.Rate, Queue: "orders", Rate: 5}, "")
		r.broker.CutConnections()
		time.Sleep(10 * time.Second)
		if q := r.ask(pulse.Target{}, 1).Answers[0].Queues[0]; !q.Paused || q.Rate != 5 {
			r.Errorf("after a lost connection: %+v", q)
		}
		r.broker.Restart()
		time.Sleep(10 * time.Second)
		if a := r.ask(pulse.Target{}, 1).Answers[0]; !a.Queues[0].Paused || a.NotReady != "" {
			r.Errorf("after a restart of the broker: %+v", a)
		}
		queue := ""
		for _, q := range r.broker.Queues() {
			if strings.HasPrefix(q.Name, "harebus.pulse.") {
				queue = q.Name
			}
		}
		r.try(r.broker.DeleteQueue(queue))
		time.Sleep(10 * time.Second)
		r.ask(pulse.Target{}, 1)
	})
}

// TestWithoutPermission: an instance that the broker refuses to serve says so once and goes on working.
func TestWithoutPermission(t *testing.T) {
	bubble(t, func(r *rig) {
		var tried atomic.Int64
		ours := func(f brokertest.Frame) bool {
			if f.Exchange == pulse.Exchange {
				tried.Add(1)
			}
			return f.Exchange == pulse.Exchange
		}
		r.broker.Inject(brokertest.Fault{On: "exchange.declare", Times: -1, Match: ours, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED"})
		s := r.serve(pulse.Config{}, "orders", nil, nil)
		r.try(s.setup.Start(r.Context()))
		err := s.pulse.Serve(r.Context(), s.setup)
		if err == nil || !strings.Contains(err.Error(), "pulse: serve: ") || !strings.Contains(err.Error(), "403") {
			r.Errorf("serve: %v", err)
		}
		time.Sleep(time.Hour)
		if n := s.log.FilterMessage("nobody can ask this instance how it is; the service goes on").Len(); n != 1 || tried.Load() != 1 {
			r.Errorf("said %d times, tried %d times", n, tried.Load())
		}
		s.send("orders", 1)
		r.until("handled", func() bool { return s.setup.Stats().Handled == 1 })
		r.try(s.setup.Ready())
		r.try(s.setup.Close())
	})
}

// TestMisuse: mistakes are errors, with what to do.
func TestMisuse(t *testing.T) {
	bubble(t, func(r *rig) {
		p, err := pulse.New(pulse.Config{})
		r.try(err)
		setup, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial})
		r.try(err)
		if err := p.Serve(r.Context(), setup); err == nil || !strings.Contains(err.Error(), "call Use") {
			r.Errorf("serve: %v", err)
		}
		_, err = pulse.New(pulse.Config{Service: strings.Repeat("x", 1001)})
		_, noURL := pulse.Open(pulse.ClientConfig{})
		_, badURL := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: []string{"amqp://secret:secret@\x00"}}})
		_, negative := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: []string{r.broker.URL()}}, Quiet: -1})
		for i, err := range []error{err, noURL, badURL, negative} {
			if err == nil || strings.Contains(err.Error(), "secret") {
				r.Errorf("mistake %d: %v", i, err)
			}
		}
	})
}

// TestAlarm: a broker that blocks publishers still takes one question and its answers. The next question is an error, at
// once, and queues can be looked at. After the alarm all is as before.
func TestAlarm(t *testing.T) {
	bubble(t, func(r *rig) {
		r.serve(pulse.Config{}, "orders", nil, nil).begin()
		if blocked := r.ask(pulse.Target{}, 1).Blocked; blocked != "" {
			r.Errorf("blocked without an alarm: %q", blocked)
		}
		r.broker.Block("low on memory")
		if blocked := r.ask(pulse.Target{}, 1).Blocked; blocked != "low on memory" {
			r.Errorf("the alarm is %q", blocked)
		}
		began := time.Now()
		if _, err := r.client.Ask(r.Context(), pulse.Target{}); err == nil || !strings.Contains(err.Error(), "low on memory") || time.Since(began) > time.Second {
			r.Errorf("ask: %v after %v", err, time.Since(began))
		}
		found, err := r.client.Waiting(r.Context(), []string{"orders"})
		if r.try(err); !found["orders"].Exists || time.Since(began) > time.Second {
			r.Errorf("found %+v after %v", found, time.Since(began))
		}
		r.broker.Unblock()
		time.Sleep(time.Minute)
		r.ask(pulse.Target{}, 1)
	})
}

// TestManyTypes: an answer that would be too large lacks the counts by type.
func TestManyTypes(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{}, "orders", nil, nil)
		for i := range 250 {
			s.setup.HandleMessage(fmt.Sprintf("%03d%s", i, strings.Repeat("\x01", 200)), func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		}
		s.begin()
		if a := r.ask(pulse.Target{}, 1).Answers[0]; !a.Cut || len(a.Queues[0].Types) > 0 {
			r.Errorf("%d types, cut %v", len(a.Queues[0].Types), a.Cut)
		}
	})
}

// TestWaiting: queues are looked at without a touch.
func TestWaiting(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.serve(pulse.Config{}, "orders", nil, nil).begin()
		found, err := r.client.Waiting(r.Context(), []string{"orders", "absent", "error"})
		r.try(err)
		synctest.Wait()
		if w := found["orders"]; !w.Exists || w.Consumers != 1 || found["absent"].Exists || !found["error"].Exists {
			r.Errorf("found %+v", found)
		}
		_ = s
	})
}

// TestWaitingUntold: why the broker does not tell is not the same as an empty queue.
func TestWaitingUntold(t *testing.T) {
	bubble(t, func(r *rig) {
		_, err := r.channel().QueueDeclare("mine", false, false, true, false, nil)
		r.try(err)
		for name, refused := range map[string]brokertest.Fault{
			"down":   {Code: 404, Text: "NOT_FOUND - queue 'down' in vhost '/' process is stopped by supervisor"},
			"away":   {Code: 404, Text: "NOT_FOUND - home node 'rabbit@b' of durable queue 'away' in vhost '/' is down or inaccessible"},
			"hidden": {Code: 403, Text: "ACCESS_REFUSED"},
			"odd":    {Code: 406, Text: "PRECONDITION_FAILED"},
		} {
			refused.On, refused.Do, refused.Times, refused.Match = "queue.declare", brokertest.Raise, -1, func(f brokertest.Frame) bool { return f.Queue == name }
			r.broker.Inject(refused)
		}
		long := strings.Repeat("x", 256)
		found, err := r.client.Waiting(r.Context(), []string{"absent", long, "down", "away", "hidden", "mine", "odd"})
		r.try(err)
		for name, why := range map[string]string{"absent": "", "down": "its node is down", "away": "its node is down", "hidden": "may not see it", "mine": "it is exclusive", "odd": "PRECONDITION_FAILED", long: "256 bytes"} {
			if w := found[name]; w.Known() || !contains(w.Unknown, why) {
				r.Errorf("%s: %+v", name, w)
			}
		}
	})
}
