package main

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// memory is what a client uses, in bytes, without the memory that the process had
// before.
type memory struct {
	Heap     int64 `json:"heap_after_gc_bytes"` // live after a garbage collection, at most
	Stacks   int64 `json:"stack_bytes"`
	Resident int64 `json:"rss_bytes"`      // in RAM; 0 if unknown
	Peak     int64 `json:"peak_rss_bytes"` // the most that was in RAM; 0 if unknown
}

// live collects garbage and returns the size of the live heap.
func live() memory {
	runtime.GC()
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	m := memory{Heap: int64(samples[0].Value.Uint64()), Stacks: int64(samples[1].Value.Uint64())}
	m.Resident, m.Peak = resident()
	return m
}

// over is m without what there was before.
func (m memory) over(before memory) memory {
	m.Heap = max(m.Heap-before.Heap, 0)
	m.Stacks = max(m.Stacks-before.Stacks, 0)
	m.Resident = max(m.Resident-before.Resident, 0)
	m.Peak = max(m.Peak-before.Resident, 0)
	return m
}

// baseline returns memory to the system and starts a new peak.
func baseline() memory {
	samples()                            // the stopwatch's are not the client's
	const settle = 50 * time.Millisecond // for the goroutines of closed connections to end
	time.Sleep(settle)
	debug.FreeOSMemory()
	resetPeak()
	return live()
}

// memory measures the memory of one library in a round of its own, since garbage
// collections would disturb the others.
func (c *contest) memory(ctx context.Context, l *library) (m memory, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	if c.workload == "publish" {
		m, err = c.publishMemory(ctx, l)
	} else {
		m, err = c.consumeMemory(ctx, l)
	}
	if err != nil {
		return m, err
	}
	return m, c.place.purge(c.queueNames()...)
}

// publishMemory lets goroutines publish: half the time undisturbed, for the peak,
// then under garbage collections.
func (c *contest) publishMemory(ctx context.Context, l *library) (memory, error) {
	before := baseline()
	p, err := l.publisher(ctx, c.place)
	if err != nil {
		return memory{}, err
	}
	defer func() { _ = p.close() }()
	var most memory
	var group sync.WaitGroup
	over := make(chan struct{})
	group.Go(func() { most = mostUntil(over, c.pace.duration/2) })
	queues := c.queueNames()
	err = c.parallel(func(lane, i int) error {
		return p.publish(ctx, queues[(lane+i)%len(queues)], newJob(c.text))
	})
	close(over)
	group.Wait()
	return most.over(before), err
}

// mostUntil samples memory after a while, and until over is closed. The peak is
// that of the time before the first sample.
func mostUntil(over <-chan struct{}, after time.Duration) memory {
	wait := time.NewTimer(after)
	defer wait.Stop()
	<-wait.C
	_, peak := resident()
	var most memory
	for {
		m := live()
		most = memory{max(most.Heap, m.Heap), max(most.Stacks, m.Stacks), m.Resident, peak}
		wait.Reset(20 * time.Millisecond)
		select {
		case <-over:
			return most
		case <-wait.C:
		}
	}
}

// consumeMemory lets a consumer handle messages, for the peak, and then has all
// handlers wait until it holds as many messages as it ever will.
func (c *contest) consumeMemory(ctx context.Context, l *library) (memory, error) {
	n := int64(c.pace.messages)
	if err := c.fill(ctx, c.pace.messages+c.pace.spare); err != nil {
		return memory{}, err
	}
	before := baseline()
	var count atomic.Int64
	full, gate := make(chan struct{}), make(chan struct{})
	stop, err := l.consume(ctx, c.place, c.place.queue(0), func(*job) {
		switch k := count.Add(1); {
		case k == n:
			close(full)
			<-gate
		case k > n:
			<-gate
		}
	})
	if err != nil {
		return memory{}, err
	}
	select {
	case <-full:
	case <-ctx.Done():
		close(gate)
		return memory{}, errors.Join(context.Cause(ctx), stop())
	}
	_, peak := resident()
	const settle = 300 * time.Millisecond // for the broker to send what it may
	time.Sleep(settle)
	m := live()
	m.Peak = peak
	close(gate)
	return m.over(before), stop()
}
