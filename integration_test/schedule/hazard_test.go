package schedule_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// impatient is a broker that takes back what is held for longer than two seconds, which is shorter than the time after which
// the leader publishes its tokens anew.
var impatient = rabbit.Options{Kind: rabbit.KindNode, Config: []string{"consumer_timeout = 2000"},
	Advanced: "[{rabbit, [{channel_tick_interval, 500}, {quorum_tick_interval, 500}]}]."}

// TestConsumerTimeout: the broker takes back the tokens every two seconds. No due time is missing.
func TestConsumerTimeout(t *testing.T) {
	node := rabbit.Need(t, impatient)
	t.Logf("RabbitMQ %s", node.Version())
	h := newHavoc(t, node, topology.Quorum)
	var mu sync.Mutex
	var runs []run
	setup, _, err := h.plan.service(func(r run) error {
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, setup)
	seen := func(after time.Time) bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.ContainsFunc(runs, func(r run) bool { return r.Schedule == "third" && r.At.After(after) })
	}
	until(t, func() bool { return seen(time.Time{}) })
	began := time.Now()
	until(t, func() bool { return setup.Stats().Redelivered > 0 }) // the tokens
	pass(t, 4*time.Second)
	end := time.Now()
	until(t, func() bool { return seen(end) })
	t.Logf("%d tokens came again", setup.Stats().Redelivered)
	if err := setup.Close(); err != nil {
		t.Fatal(err)
	}
	h.check(runs, "each", time.Second, began, end)
	h.check(runs, "third", 3*time.Second, began, end)
}

func start(t *testing.T, setup *harebus.Setup) {
	t.Helper()
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// until waits until a condition holds.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); pass(t, 5*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
	}
}

// pass lets time pass.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
