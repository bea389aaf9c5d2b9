package order_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

// TestPolicyOnParking: a policy with a maximum length on the parking queue, which does not say that the oldest are dropped, loses nothing: the
// queue refuses what it has no room for. The next owner takes over, or Ready says why not, and without the policy it does.
func TestPolicyOnParking(t *testing.T) {
	r := &rights{T: t, node: rabbit.Shared(t)}
	ctl := func(args ...string) {
		t.Helper()
		if out, err := r.node.Ctl(t.Context(), args...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	first := r.instance(r.node.URL(), harebus.DeclareAll)
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const messages = 12
	for n := range messages {
		if err := first.Bus().Send(t.Context(), "orders", step{"p", n + 1}, harebus.WithKey("p")); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func(s *harebus.Setup) int {
		for _, k := range s.Parked() {
			if k.Key == "p" {
				return k.Waiting
			}
		}
		return 0
	}
	r.until("parked", func() bool { return waiting(first) == messages-2 })
	ctl("set_policy", "short", `^orders\.parked$`, `{"max-length":3}`, "--apply-to", "queues")
	<-time.After(time.Second) // it takes effect in the background
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Second)
	second := r.instance(r.node.URL(), harebus.DeclareAll)
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	said, took := "", false
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end) && !took; <-time.After(50 * time.Millisecond) {
		if err := second.Ready(); err != nil {
			said = err.Error()
		}
		took = waiting(second) == messages-2
	}
	t.Logf("took over: %v; Ready said: %q", took, said)
	if !took && !strings.Contains(said, "orders.parked") {
		t.Errorf("the next owner waits, and Ready does not say why: %q", said)
	}
	ctl("clear_policy", "short")
	r.until("everything is there", func() bool { return waiting(second) == messages-2 })
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
