package services_test

import (
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/pulse"
)

// TestRates: rates and times are those since the table before, also when an instance comes, goes or starts anew.
func TestRates(t *testing.T) {
	t.Parallel()
	start := time.Now()
	histogram := func(n uint64) (h harebus.Histogram) {
		h.Counts = make([]uint64, len(harebus.HistogramBounds())+1)
		h.Counts[3] = n // 1 ms
		return h
	}
	says := func(instance string, after time.Duration, handled uint64) pulse.Answer {
		return pulse.Answer{Instance: instance, Service: "s", Version: "1", Clock: start.Add(after), Queues: []pulse.Queue{{
			Name: "q", Consumers: 1, InHand: 2, All: harebus.MessageStats{Handled: handled, Failed: handled / 10, CriticalTime: histogram(handled)},
		}}}
	}
	var x services.Watch
	x.Remember(&services.State{Round: &pulse.Round{Answers: []pulse.Answer{says("a", 0, 100), says("b", 0, 1000), says("gone", 0, 5)}}})
	state := &services.State{Waiting: map[string]pulse.Waiting{"q": {Exists: true, Ready: 9}}, Round: &pulse.Round{Answers: []pulse.Answer{says("a", 2*time.Second, 300), says("b", 2*time.Second, 50), says("new", 2*time.Second, 70)}}}
	lines := x.Lines(state)
	if len(lines) != 1 {
		t.Fatalf("lines %+v", lines)
	}
	if l := lines[0]; l.Handled != 100 || l.Failed != 10 || l.Instances != 3 || l.InHand != 6 || l.Half != "1ms" || len(l.Versions) != 1 || !l.Rated || *l.Ready != 9 || l.All.Handled != 420 || l.All.CriticalTime.Count() != 420 {
		t.Errorf("line %+v", l)
	}
	x.Remember(state)
	if _, gone := x.Gone["gone"]; !gone || len(x.Gone) != 1 {
		t.Errorf("gone %v", x.Gone)
	}
	if n := len(x.Missed()); n != 1 {
		t.Errorf("missed are %q", x.Missed())
	}
}

// TestShort: durations in few characters.
func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "-", 250 * time.Microsecond: "250µs", 2500 * time.Microsecond: "2.5ms", 1234567 * time.Nanosecond: "1.2ms", 1234 * time.Millisecond: "1.2s", time.Minute: "1m",
		90 * time.Minute: "1h30m", 3 * time.Hour: "3h", 49 * time.Hour: "2d", 1<<63 - 1: ">24h", 75*time.Second + 3*time.Millisecond: "1m15s",
	} {
		if got := services.Short(d); got != want {
			t.Errorf("%v is %q, want %q", int64(d), got, want)
		}
	}
}
