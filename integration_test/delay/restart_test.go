package delay_test

import (
	mathrand "math/rand/v2"
	"testing"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// Every confirmed message comes, and none early, although the broker is killed twice while they are on their way and
// many are due. A queue that passes a message on while the broker starts, to one that has not started yet, tries again
// after 180 s; this is what the test may have to wait for.
func TestKillAndRestart(t *testing.T) {
	const messages = 1000
	// With the broker's own three minutes, what is overdue after a restart comes
	// three minutes late: docs/delays.md. This test is about losing nothing.
	node := rabbit.Need(t, rabbit.Options{
		Kind: rabbit.KindNode, Advanced: "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].",
	})
	l := newLab(t, node)
	queue := l.destination(t, "orders", nil)
	r := l.receive(t, queue, messages)
	s := l.sender(t)
	all := map[string]sent{}
	for i := range messages {
		delay := 50*time.Millisecond + time.Duration(mathrand.Int64N(int64(15*time.Second)))
		m, err := s.send(t.Context(), queue, id(i), delay)
		if err != nil {
			t.Fatal(err)
		}
		all[id(i)] = m
	}
	if err := s.confirmed(t.Context()); err != nil {
		t.Fatal(err)
	}
	reached := 0
	for kill := range 2 {
		r.waitFor(reached+messages/6, 20*time.Second)
		reached = r.count()
		if err := node.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("kill %d with %d of %d delivered", kill+1, reached, messages)
		l.connect(t)
		r.consume(t, l, queue)
	}
	r.waitFor(messages, 15*time.Second) // the longest delay is over by now
	t.Logf("%d of %d delivered when all were due", r.count(), messages)
	r.wait(time.Minute)
	t.Logf("all: %s", describe(r.check(t, all)))
}
