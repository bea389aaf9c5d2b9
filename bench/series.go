package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus"
)

// series is a measurement in the course of time.
type series struct {
	shape    string
	prefetch int
	contest  *contest
	before   memory
	count    atomic.Int64 // messages handled
}

// observe adds a row every so often until done is closed.
func (s *series) observe(ctx context.Context, on *shapes, every time.Duration, done <-chan struct{}) error {
	p := s.contest.place
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	start := time.Now()
	last := p.readAt(&s.count)
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("bench: %s: %d handled: %w", s.shape, s.count.Load(), context.Cause(ctx))
		case <-ticker.C:
		}
		current := p.readAt(&s.count)
		if err := on.report.add(s.row(last, current, current.at.Sub(start))); err != nil {
			return err
		}
		last = p.readAt(&s.count) // without the garbage collection of the row
	}
}

func (s *series) row(a, b reading, at time.Duration) shapeRow {
	f := between(a, b, int(b.handled-a.handled), nil)
	return shapeRow{
		Shape: s.shape, X: round(at.Seconds(), 2), Prefetch: s.prefetch, Alive: runtime.NumGoroutine(),
		row:    newRow(s.contest.spec, s.contest.place.version, tally{"harebus", []figures{f}}, s.contest.pace.noise),
		memory: live().over(s.before),
	}
}

// measureBacklogs drains queues that are long.
func measureBacklogs(ctx context.Context, on *shapes) error {
	for _, b := range []struct {
		kind     string
		prefetch int
	}{{"quorum", prefetch}, {"quorum", 10 * prefetch}, {"classic", prefetch}} {
		if err := drain(ctx, on, b.kind, b.prefetch); err != nil {
			return fmt.Errorf("bench: backlog, %s, prefetch %d: %w", b.kind, b.prefetch, err)
		}
	}
	return nil
}

func drain(ctx context.Context, on *shapes, kind string, prefetch int) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the backlog took too long"))
	defer cancel()
	c := &contest{spec: spec{"consume", kind, small, 0, 1, nil}, place: on.server.place(kind), pace: on.pace}
	defer func() { err = errors.Join(err, c.finish()) }()
	if err := c.prepare(ctx); err != nil {
		return err
	}
	on.say("backlog of %d, %s: filling", on.backlog, kind)
	if err := c.fill(ctx, on.backlog); err != nil {
		return err
	}
	on.say("backlog of %d, %s, prefetch %d: draining", on.backlog, kind, prefetch)
	s := &series{shape: "backlog", prefetch: prefetch, contest: c, before: baseline()}
	done := make(chan struct{})
	l := harebusTuned(harebus.PublishConfig{}, harebus.ConsumeConfig{Concurrency: workers, Prefetch: prefetch})
	stop, err := l.consume(ctx, c.place, c.place.queue(0), func(*job) {
		if s.count.Add(1) == int64(on.backlog) {
			close(done)
		}
	})
	if err != nil {
		return err
	}
	return errors.Join(s.observe(ctx, on, on.often, done), stop())
}

// soakers is the number of goroutines that publish in a soak.
const soakers = 100

// measureSoak publishes and consumes as fast as it goes, for long.
func measureSoak(ctx context.Context, on *shapes) (err error) {
	on.say("soak for %v", on.soak)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &contest{spec: spec{"saturated", "quorum", small, soakers, 1, nil}, place: on.server.place("quorum"), pace: on.pace}
	c.pace.duration = on.soak
	defer func() { err = errors.Join(err, c.finish()) }()
	if err := c.prepare(ctx); err != nil {
		return err
	}
	l := harebusLibrary()
	s := &series{shape: "soak", prefetch: prefetch, contest: c, before: baseline()}
	if err := c.connect(ctx, []*library{l}); err != nil {
		return err
	}
	const most = 10_000 // messages in the queue, so that the broker's disk does not fill
	room := make(chan struct{}, most)
	stop, err := l.consume(ctx, c.place, c.place.queue(0), func(*job) {
		s.count.Add(1)
		select {
		case <-room:
		default: // delivered again
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	done := make(chan struct{})
	var group sync.WaitGroup
	var published error
	group.Go(func() {
		defer close(done)
		published = c.parallel(func(int, int) error {
			select {
			case room <- struct{}{}:
				return c.open[l.name].publish(ctx, c.place.queue(0), newJob(c.text))
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	err = s.observe(ctx, on, on.seldom, done)
	if err != nil {
		cancel()
	}
	group.Wait()
	return errors.Join(err, published)
}

// verdict says whether a soak has made the client grow.
type verdict struct {
	first, last   usage   // medians of the first and of the last minute
	slope         float64 // of the heap, in bytes a minute
	elapsed, part time.Duration
}

type usage struct{ heap, resident, goroutines float64 }

// judge looks at the rows of a soak, which are in the order of time. A minute is
// a fifth of the time where that was shorter.
func judge(rows []shapeRow) verdict {
	end := rows[len(rows)-1].X
	part := min(60, end/5)
	v := verdict{elapsed: seconds(end), part: seconds(part)}
	v.first = usageOf(slices.DeleteFunc(slices.Clone(rows), func(r shapeRow) bool { return r.X > part }))
	v.last = usageOf(slices.DeleteFunc(slices.Clone(rows), func(r shapeRow) bool { return r.X < end-part }))
	v.slope = 60 * slope(rows, func(r shapeRow) float64 { return float64(r.Heap) })
	return v
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second / 10)
}

func usageOf(rows []shapeRow) usage {
	of := func(pick func(r shapeRow) float64) float64 {
		values := make([]float64, len(rows))
		for i, r := range rows {
			values[i] = pick(r)
		}
		return median(values)
	}
	return usage{
		heap:       of(func(r shapeRow) float64 { return float64(r.Heap) }),
		resident:   of(func(r shapeRow) float64 { return float64(r.Resident) }),
		goroutines: of(func(r shapeRow) float64 { return float64(r.Alive) }),
	}
}

// slope is that of the straight line nearest to the rows, for each second.
func slope(rows []shapeRow, pick func(r shapeRow) float64) float64 {
	var x, y, xx, xy float64
	n := float64(len(rows))
	for _, r := range rows {
		x += r.X / n
		y += pick(r) / n
	}
	for _, r := range rows {
		xx += (r.X - x) * (r.X - x)
		xy += (r.X - x) * (pick(r) - y)
	}
	if xx == 0 {
		return 0
	}
	return xy / xx
}

// grows tells whether the client has grown by more than samples differ anyway: a
// tenth, or half a mebibyte of heap, or eight of resident memory.
func (v verdict) grows() bool {
	more := func(first, last, least float64) bool { return last-first > max(first/10, least) }
	return more(v.first.heap, v.last.heap, mebi/2) ||
		more(v.first.heap, v.first.heap+v.slope*v.elapsed.Minutes(), mebi/2) ||
		more(v.first.resident, v.last.resident, 8*mebi) ||
		more(v.first.goroutines, v.last.goroutines, 0)
}

func (v verdict) String() string {
	word := "no growth"
	if v.grows() {
		word = "GROWTH"
	}
	return fmt.Sprintf("%s in %v: medians of the first and the last %v: heap after a GC %.2f and %.2f MiB, resident %.1f and %.1f MiB, goroutines %.0f and %.0f; the heap's slope is %+.3f MiB a minute",
		word, v.elapsed, v.part, v.first.heap/mebi, v.last.heap/mebi, v.first.resident/mebi, v.last.resident/mebi,
		v.first.goroutines, v.last.goroutines, v.slope/mebi)
}
