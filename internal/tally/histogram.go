package tally

import (
	"slices"
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets: about 2.5 times as long each time, from the
// shortest handler to what a message waits for in the worst case.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// Bounds returns the upper bounds of the buckets of every histogram, the shortest first.
func Bounds() []time.Duration { return slices.Clone(bounds[:]) }

// Histogram counts durations in buckets. The last bucket is for those above all bounds.
// It may be used by several goroutines.
type Histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// AddTo adds the counts of the buckets to counts, which it makes if it is nil, and returns
// it with the sum of the durations.
func (h *Histogram) AddTo(counts []uint64) ([]uint64, time.Duration) {
	if counts == nil {
		counts = make([]uint64, len(h.counts))
	}
	for i := range h.counts {
		counts[i] += h.counts[i].Load()
	}
	return counts, time.Duration(h.sum.Load())
}
