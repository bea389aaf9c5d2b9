package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

// ordering is a service with an ordered queue, whose first message of each key fails while bad is true. Two keys are held, with a
// message behind each.
func ordering(t *testing.T, b *brokertest.Broker, bad *atomic.Bool) *harebus.Setup {
	t.Helper()
	setup, err := harebus.New(harebus.Config{
		URL: b.URL(), Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}, Retry: harebus.RetryConfig{MaxRetries: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	setup.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		if bad.Load() && string(m.Body) == "1" {
			return errors.New("no such account\nsecond line")
		}
		return nil
	})
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return setup
}

func hold(t *testing.T, b *brokertest.Broker, setup *harebus.Setup) {
	t.Helper()
	for n := 1; n <= 2; n++ {
		for _, key := range []string{"ann", "b\x1bb"} {
			if err := setup.Bus().Send(t.Context(), "steps", n, harebus.WithType("Step"), harebus.WithKey(key)); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitParked(t, b, 4)
}

// waitParked waits until so many messages are parked.
func waitParked(t *testing.T, b *brokertest.Broker, n int) {
	t.Helper()
	for name, want := range map[string]int{"steps.parked": n + 1, "steps": 0} {
		if err := b.WaitQueue(t.Context(), name, func(q brokertest.Queue) bool { return q.Ready+q.Unacked == want }); err != nil {
			t.Fatal(err)
		}
	}
}

// TestParked: what is held is listed, retried and discarded.
func TestParked(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	var bad atomic.Bool
	bad.Store(true)
	setup := ordering(t, b, &bad)
	defer setup.Close()
	hold(t, b, setup)

	r := execute(t, "", "parked", "list", "-url", url, "steps")
	r.check(t, exitOK, "")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "KEY") || !strings.HasPrefix(lines[1], "ann") || strings.Contains(r.out, "\x1b") ||
		!strings.Contains(lines[1], "held") || !strings.Contains(lines[1], "no such account") || strings.Contains(r.out, "second line") {
		t.Errorf("%s", r.out)
	}
	if keys := setup.Parked(); len(keys) != 2 || !keys[0].Held || keys[0].Waiting != 2 || keys[0].Failures != 1 || keys[0].Type != "Step" || keys[0].Since.IsZero() {
		t.Errorf("%+v", keys)
	}
	execute(t, "", "parked", "retry", "-url", url, "steps", "bob").check(t, 1, `no message holds the key "bob"`)
	bad.Store(false)
	r = execute(t, "", "parked", "retry", "-url", url, "steps", "ann")
	if r.check(t, exitOK, ""); r.out != "retry: 1 messages\n" {
		t.Errorf("%q", r.out)
	}
	waitParked(t, b, 2)
	r = execute(t, "", "parked", "discard", "-all", "-url", url, "steps")
	if r.check(t, exitOK, ""); r.out != "discard: 1 messages\n" {
		t.Errorf("%q", r.out)
	}
	waitParked(t, b, 0)
	execute(t, "", "parked", "discard", "-all", "-url", url, "steps").check(t, 1, "no key is held")
	if n := setup.Stats().Handled; n != 3 {
		t.Errorf("%d handled", n)
	}
}

// TestParkedWithoutService: without an instance the list is read from the parking queue, which is left as it is, and a word is
// done by the next instance.
func TestParkedWithoutService(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	var bad atomic.Bool
	bad.Store(true)
	setup := ordering(t, b, &bad)
	hold(t, b, setup)
	if err := setup.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := execute(t, "", "parked", "list", "-json", "-url", url, "steps")
		r.check(t, exitOK, "")
		var first order.Parked
		if err := json.Unmarshal([]byte(strings.SplitN(r.out, "\n", 2)[0]), &first); err != nil || first.Key != "ann" || !first.Held || first.Waiting != 2 {
			t.Errorf("%v: %s", err, r.out)
		}
	}
	execute(t, "", "parked", "discard", "-url", url, "steps", "ann").check(t, exitOK, "no instance consumes")
	setup = ordering(t, b, &bad)
	defer setup.Close()
	waitParked(t, b, 2)
}

// TestParkedMisuse: what cannot be is refused, and says what is possible.
func TestParkedMisuse(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	declare(t, client(t, b), "plain", nil)
	for says, args := range map[string]string{
		"it is list, retry or discard":       "parked",
		`parked "drop": it is list`:          "parked drop steps",
		"the queue is missing":               "parked list",
		"list takes a queue":                 "parked list steps ann",
		"retry needs one key, or -all":       "parked retry steps",
		"discard needs one key, or -all":     "parked discard steps a b",
		"leave the key out":                  "parked retry -all steps ann",
		"it has 258 bytes":                   "parked list -url " + url + " " + strings.Repeat("x", 250),
		`"plain" is no ordered queue`:        "parked list -url " + url + " plain",
		`"steps" is no ordered queue, or no`: "parked retry -all -url " + url + " steps",
	} {
		r := execute(t, "", strings.Fields(args)...)
		if r.code == exitOK || !strings.Contains(r.err, says) {
			t.Errorf("%s: %d, %s", args, r.code, r.err)
		}
	}
}

// TestTopologyOfOrder: the topology of an ordered service has its parking queue, which the plan misses, apply declares and the doctor finds in
// order while the service runs.
func TestTopologyOfOrder(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	file := topologyFile(t, harebus.Config{Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}})
	r := execute(t, "", "topology", "plan", "-url", url, file)
	r.check(t, exitDiffers, "")
	if !strings.Contains(r.out, `+ queue "steps.parked": quorum`) {
		t.Errorf("the plan has no parking queue:\n%s", r.out)
	}
	execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
	execute(t, "", "topology", "plan", "-url", url, file).check(t, exitOK, "")
	var bad atomic.Bool
	bad.Store(true)
	setup := ordering(t, b, &bad)
	defer func() {
		if err := setup.Close(); err != nil {
			t.Error(err)
		}
	}()
	hold(t, b, setup)
	if r := execute(t, "", "doctor", "-url", url, file); r.code != exitOK {
		t.Errorf("the doctor finds:\n%s", r.out)
	}
}

// TestParkedPartitions: the keys of all partitions are listed, and a word reaches the one of its key, with an instance and without.
func TestParkedPartitions(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	start := func() *harebus.Setup {
		setup, err := harebus.New(harebus.Config{
			URL: b.URL(), Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{Partitions: 3}}, Retry: harebus.RetryConfig{MaxRetries: -1},
		})
		if err != nil {
			t.Fatal(err)
		}
		setup.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return errors.New("bad") })
		if err := setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return setup
	}
	setup := start()
	parkedIn, last, left := map[string]bool{}, 0, 0
	for key := range strings.SplitSeq("abcdef", "") {
		if err := setup.Bus().Send(t.Context(), "steps", 1, harebus.WithType("Step"), harebus.WithKey(key)); err != nil {
			t.Fatal(err)
		}
		partition := order.Partition(key, 3)
		parkedIn[order.ParkingQueue(order.PartitionQueue("steps", partition))] = true
		if partition > last {
			last, left = partition, 0
		}
		if partition == last && key != "c" {
			left++
		}
	}
	for len(setup.Parked()) < 6 {
		time.Sleep(5 * time.Millisecond)
	}
	if len(parkedIn) < 2 {
		t.Fatal("the keys are in one partition")
	}
	lists := func(want int) {
		t.Helper()
		r := execute(t, "", "parked", "list", "-url", url, "steps")
		if r.check(t, exitOK, ""); strings.Count(r.out, "held") != want {
			t.Errorf("want %d: %s", want, r.out)
		}
	}
	lists(6)
	r := execute(t, "", "parked", "discard", "-url", url, "steps", "c")
	if r.check(t, exitOK, ""); r.out != "discard: 1 messages\n" {
		t.Errorf("%q", r.out)
	}
	lists(5)
	b.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Match: func(f brokertest.Frame) bool {
		return strings.Contains(f.Connection, "parked") && f.RoutingKey == order.ParkingQueue(order.PartitionQueue("steps", last))
	}})
	r = execute(t, "", "parked", "discard", "-all", "-url", url, "steps")
	if r.check(t, exitFailed, "steps.1: the user needs the permission to write to amq.default"); left == 0 || r.out != fmt.Sprintf("discard: %d messages\n", 5-left) {
		t.Errorf("of 5, of which %d are in the last partition: %q", left, r.out)
	}
	lists(left)
	if err := setup.Close(); err != nil {
		t.Fatal(err)
	}
	lists(left)
	execute(t, "", "parked", "discard", "-all", "-url", url, "steps").check(t, exitOK, "no instance consumes")
	defer start().Close()
	for name := range parkedIn {
		if err := b.WaitQueue(t.Context(), name, func(q brokertest.Queue) bool { return q.Ready+q.Unacked == 1 }); err != nil { // the note of the owner
			t.Fatal(err)
		}
	}
}

// TestTopologyOfPartitions: the topology of a divided queue has its partitions, which the plan misses and apply declares, and the doctor finds
// everything in order while the service runs.
func TestTopologyOfPartitions(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	cfg := harebus.Config{URL: b.URL(), Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{Partitions: 2}}}
	file := topologyFile(t, cfg)
	r := execute(t, "", "topology", "plan", "-url", url, file)
	r.check(t, exitDiffers, "")
	for _, want := range []string{"steps.members", "steps.parked", "steps.0", "steps.1.parked"} {
		if !strings.Contains(r.out, `+ queue "`+want+`": quorum`) {
			t.Errorf("the plan has no %s:\n%s", want, r.out)
		}
	}
	execute(t, "", "topology", "apply", "-url", url, file).check(t, exitOK, "")
	cfg.Declare.Mode = harebus.CheckOnly
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	setup.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := setup.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"steps.parked", "steps.0.parked", "steps.1.parked"} {
		if err := b.WaitQueue(t.Context(), name, func(q brokertest.Queue) bool { return q.Unacked == 1 }); err != nil {
			t.Fatal(err)
		}
	}
	if err := setup.Bus().Send(t.Context(), "steps", 1, harebus.WithType("Step"), harebus.WithKey("a")); err != nil {
		t.Fatal(err)
	}
	for setup.Stats().Handled == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	execute(t, "", "topology", "plan", "-url", url, file).check(t, exitOK, "")
	if r := execute(t, "", "doctor", "-url", url, file); r.code != exitOK {
		t.Errorf("the doctor finds:\n%s", r.out)
	}
}
