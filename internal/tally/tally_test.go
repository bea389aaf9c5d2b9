package tally_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus/internal/tally"
)

// TestHistogram: a duration is counted in the first bucket whose bound it does not exceed.
func TestHistogram(t *testing.T) {
	t.Parallel()
	bounds := tally.Bounds()
	if !slices.IsSorted(bounds) || slices.Compact(slices.Clone(bounds))[0] != bounds[0] || len(slices.Compact(slices.Clone(bounds))) != len(bounds) {
		t.Errorf("bounds %v", bounds)
	}
	for i, bound := range bounds {
		for d, want := range map[time.Duration]int{bound: i, bound + 1: i + 1, bound - 1: i} {
			var h tally.Histogram
			h.Add(d)
			counts, sum := h.AddTo(nil)
			if counts[want] != 1 || sum != d || len(counts) != len(bounds)+1 {
				t.Errorf("%v is in %v, not in bucket %d; sum %v", d, counts, want, sum)
			}
		}
	}
	var h tally.Histogram
	h.Add(0)
	h.Add(time.Second)
	counts, _ := h.AddTo(nil)
	again, sum := h.AddTo(counts)
	if again[0] != 2 || sum != time.Second {
		t.Errorf("twice: %v, %v", again, sum)
	}
}

// TestTypesAreBounded: types beyond the limit are counted together, also those that come at the same time.
func TestTypesAreBounded(t *testing.T) {
	t.Parallel()
	var q tally.Queue
	if len(q.Types()) != 0 {
		t.Error("an unused queue has types")
	}
	const goroutines, types = 8, 1000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for n := range types {
				q.Type(fmt.Sprint("Type", n)).Handled.Add(1)
			}
		})
	}
	wg.Wait()
	all := q.Types()
	if len(all) != tally.MostTypes+1 {
		t.Errorf("%d types", len(all))
	}
	var sum uint64
	for name, counts := range all {
		n := counts.Handled.Load()
		if sum += n; name != tally.Other && n != goroutines {
			t.Errorf("%s: %d", name, n)
		}
	}
	if sum != goroutines*types || q.Type("Type999") != all[tally.Other] || q.Type("Type0") != all["Type0"] {
		t.Errorf("%d messages, %d of other types", sum, all[tally.Other].Handled.Load())
	}
}

// TestNames: a name that no handler can have is not kept.
func TestNames(t *testing.T) {
	t.Parallel()
	var q tally.Queue
	for _, name := range []string{"\xff", strings.Repeat("x", 256)} {
		q.Type(name).Failed.Add(1)
	}
	if all := q.Types(); len(all) != 1 || all[tally.Other].Failed.Load() != 2 {
		t.Errorf("types %v", all)
	}
}

// TestNoAllocations: counting is on the way of every message.
func TestNoAllocations(t *testing.T) {
	var q tally.Queue
	for n := range 2 * tally.MostTypes {
		q.Type(fmt.Sprint("Type", n))
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range []string{"Type7", "unknown"} {
			counts := q.Type(name)
			counts.Handled.Add(1)
			counts.HandlingTime.Add(time.Second)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCount(b *testing.B) {
	var q tally.Queue
	q.Type("Order")
	b.ReportAllocs()
	for b.Loop() {
		counts := q.Type("Order")
		counts.Handled.Add(1)
		counts.HandlingTime.Add(3 * time.Millisecond)
		counts.CriticalTime.Add(7 * time.Millisecond)
	}
}
