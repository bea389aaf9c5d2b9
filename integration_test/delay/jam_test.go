package delay_test

import (
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// How often the broker tries again to pass on a message that its destination did not take: 180 s by default, and read
// when a queue starts to pass on its first message.
const retryEvery2s = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 2000)."

const (
	bad  = 100
	good = 200
)

// 100 messages for a destination that takes nothing, then 200 for one that does, all due at the same time by the same
// queues: the 200 must come at once, and the 100 as soon as they are taken.
func TestJam(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	if _, err := node.Eval(t.Context(), retryEvery2s); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		arguments map[string]any
		absent    bool
	}{
		"absent queue": {absent: true},
		"full queue":   {arguments: map[string]any{"x-max-length": 1, "x-overflow": "reject-publish"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, node)
			stuck := l.name + ".stuck"
			l.declare(t, l.delays.Exit("", stuck))
			if !c.absent {
				l.declare(t, topology.Topology{Queues: []topology.Queue{{Name: stuck, Arguments: c.arguments}}})
			}
			open := l.destination(t, "orders", nil)
			r := l.receive(t, open, good)
			s := l.sender(t)
			held, all := map[string]sent{}, map[string]sent{}
			for i := range bad + good {
				queue, messages := open, all
				if i < bad {
					queue, messages = stuck, held
				}
				m, err := s.send(t.Context(), queue, id(i), 1234*time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				messages[id(i)] = m
			}
			if err := s.confirmed(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.wait(time.Minute)
			late := r.check(t, all)
			t.Logf("%d of %d behind %d that are stuck: %s", len(late), good, bad, describe(late))
			if c.absent {
				l.declare(t, topology.Topology{Queues: []topology.Queue{{Name: stuck}}})
			}
			freed := l.receive(t, stuck, bad)
			freed.wait(time.Minute)
			freed.check(t, held)
		})
	}
}

// What finds its exit gone is kept, not dropped, and holds up nothing.
func TestLostExit(t *testing.T) {
	l := newLab(t, rabbit.Shared(t))
	queue := l.destination(t, "orders", nil)
	s := l.sender(t)
	gone := l.name + ".gone" // has no exit
	all := map[string]sent{}
	for i := range 150 {
		to := queue
		if i < 50 {
			to = gone
		}
		m, err := s.send(t.Context(), to, id(i), 300*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if to == queue {
			all[id(i)] = m
		}
	}
	if err := s.confirmed(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := l.receive(t, queue, 100)
	r.wait(time.Minute)
	r.check(t, all)
	lost := l.receive(t, l.name+".lost", 50)
	lost.wait(time.Minute)
	if lost.count() != 50 {
		t.Errorf("%d of 50 messages are kept in the lost queue", lost.count())
	}
}
