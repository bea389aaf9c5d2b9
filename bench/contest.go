package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var nan = math.NaN()

// roundTimeout ends a round that hangs.
const roundTimeout = time.Minute

// spec is one line of the plan: a workload and who takes part.
type spec struct {
	workload   string
	kind       string // classic, quorum or null
	size       int    // of the body, in bytes
	goroutines int    // that publish; 0 where nobody does but handlers
	queues     int
	libraries  []string
}

// contest is a spec being carried out.
type contest struct {
	spec
	place   *place
	text    string
	pace    pace
	preload publisher
	open    map[string]publisher
}

// pace is how much is measured.
type pace struct {
	rounds   int
	repeats  int           // of noisy rounds, at most
	duration time.Duration // of a round that publishes
	messages int           // of a round that consumes
	spare    int           // left in the queue then, so that it does not run dry
	noise    float64       // share of the machine that others may use
	patience *patience     // for the machine to become quiet
	deadline time.Time     // after it, every contest is cut to one round
}

// tally is the result of one library in a contest.
type tally struct {
	library string
	rounds  []figures
}

func (c *contest) queueNames() []string {
	names := make([]string, c.queues)
	for i := range names {
		names[i] = c.place.queue(i)
	}
	return names
}

func (c *contest) outQueue() string { return c.place.queue(c.queues) }

// run carries out the contest.
func (c *contest) run(ctx context.Context, libraries []*library) (_ []tally, err error) {
	defer func() { err = errors.Join(err, c.finish()) }()
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	return c.contend(ctx, libraries)
}

// contend has rounds in turns, then repeats of noisy ones.
func (c *contest) contend(ctx context.Context, libraries []*library) ([]tally, error) {
	if err := c.connect(ctx, libraries); err != nil {
		return nil, err
	}
	tallies := make([]tally, len(libraries))
	for i, l := range libraries {
		tallies[i].library = l.name
	}
	for round := range c.pace.rounds {
		if round > 0 && c.late() {
			break
		}
		for i := range libraries {
			i = (i + round) % len(libraries)
			if err := c.add(ctx, libraries[i], &tallies[i]); err != nil {
				return tallies, err
			}
		}
	}
	for range c.pace.repeats {
		for i, l := range libraries {
			if c.quiet(&tallies[i]) < c.pace.rounds && !c.late() {
				if err := c.add(ctx, l, &tallies[i]); err != nil {
					return tallies, err
				}
			}
		}
	}
	return tallies, nil
}

func (c *contest) late() bool { return time.Now().After(c.pace.deadline) }

// quiet counts the rounds that others have not disturbed.
func (c *contest) quiet(t *tally) (n int) {
	for _, f := range t.rounds {
		if !(f.foreign > c.pace.noise) {
			n++
		}
	}
	return n
}

func (c *contest) add(ctx context.Context, l *library, t *tally) error {
	c.pace.patience.await(c.place, c.pace.noise)
	runtime.GC()
	ctx, cancel := context.WithTimeoutCause(ctx, roundTimeout, errors.New("the round took too long"))
	defer cancel()
	f, err := c.round(ctx, l)
	if err != nil {
		return fmt.Errorf("bench: %s, %s, %s: %w", c.workload, c.kind, l.name, err)
	}
	t.rounds = append(t.rounds, f)
	if c.kind == "null" {
		return nil
	}
	return c.place.purge(append(c.queueNames(), c.outQueue())...)
}

// prepare declares queues and connects the publisher that fills them.
func (c *contest) prepare(ctx context.Context) error {
	c.text = text(c.size)
	c.open = map[string]publisher{}
	if c.kind != "null" {
		if err := declare(ctx, c.place, append(c.queueNames(), c.outQueue())...); err != nil {
			return err
		}
	}
	p, err := rawCoalesced().publisher(ctx, c.place)
	if err != nil {
		return err
	}
	c.preload = p
	return nil
}

// connect connects publishers, and lets them warm up.
func (c *contest) connect(ctx context.Context, libraries []*library) error {
	if c.workload != "publish" && c.workload != "transaction" && c.workload != "end-to-end" && c.workload != "saturated" {
		return nil
	}
	for _, l := range libraries {
		p, err := l.publisher(ctx, c.place)
		if err != nil {
			return fmt.Errorf("bench: connect %s: %w", l.name, err)
		}
		c.open[l.name] = p
		const warmUp = 30
		for range warmUp {
			if err := p.publish(ctx, c.place.queue(0), newJob(c.text)); err != nil {
				return fmt.Errorf("bench: warm up %s: %w", l.name, err)
			}
		}
	}
	if c.kind == "null" {
		return nil
	}
	return c.place.purge(c.place.queue(0))
}

func (c *contest) finish() (err error) {
	for _, p := range c.open {
		err = errors.Join(err, p.close())
	}
	if c.preload == nil {
		return err
	}
	err = errors.Join(err, c.preload.close())
	if c.kind != "null" {
		err = errors.Join(err, c.place.remove(append(c.queueNames(), c.outQueue())...))
	}
	return err
}

// round measures one library once.
func (c *contest) round(ctx context.Context, l *library) (figures, error) {
	switch c.workload {
	case "publish":
		return c.publishRound(ctx, c.open[l.name])
	case "transaction":
		return c.batchRound(ctx, c.open[l.name])
	case "consume":
		return c.backlogRound(ctx, func(seen func(*job)) (stopper, error) {
			return l.consume(ctx, c.place, c.place.queue(0), seen)
		})
	case "transform":
		return c.backlogRound(ctx, func(seen func(*job)) (stopper, error) {
			return l.transform(ctx, c.place, c.place.queue(0), c.outQueue(), seen)
		})
	case "retry":
		return c.backlogRound(ctx, func(seen func(*job)) (stopper, error) {
			const after = 10 * time.Millisecond
			return l.retry(ctx, c.place, c.place.queue(0), after, seen)
		})
	case "request":
		return c.requestRound(ctx, l)
	case "store":
		return c.storeRound(ctx, l, 1)
	case "store-10":
		return c.storeRound(ctx, l, 10)
	case "deliver":
		return c.deliverRound(ctx, l)
	case "drain":
		return c.drainRound(ctx, l)
	case "handle":
		return c.handleRound(ctx, l)
	case "end-to-end":
		const rate = 1000
		return c.pacedRound(ctx, rate, func(seen func(*job)) (stopper, error) {
			return l.consume(ctx, c.place, c.place.queue(0), seen)
		}, func() error {
			return c.open[l.name].publish(ctx, c.place.queue(0), newJob(c.text))
		})
	case "saturated":
		return c.saturatedRound(ctx, l)
	case "ways":
		return c.wayRound(ctx, l, 0)
	case "ways-1ms":
		return c.wayRound(ctx, l, time.Millisecond)
	}
	return figures{}, fmt.Errorf("unknown workload %q", c.workload)
}

// publishRound has goroutines publish and wait for the confirm, in a loop.
func (c *contest) publishRound(ctx context.Context, p publisher) (figures, error) {
	watch := newStopwatch(c.goroutines)
	queues := c.queueNames()
	before := c.place.read()
	err := c.parallel(func(lane, i int) error {
		start := time.Now()
		err := p.publish(ctx, queues[(lane+i)%len(queues)], newJob(c.text))
		watch.record(lane, int64(time.Since(start)))
		return err
	})
	after := c.place.read()
	latencies := watch.all()
	return between(before, after, len(latencies), latencies), err
}

// parallel calls fn from every goroutine until the time is up.
func (c *contest) parallel(fn func(lane, i int) error) error {
	var group sync.WaitGroup
	var over atomic.Bool
	errs := make([]error, c.goroutines)
	timer := time.AfterFunc(c.pace.duration, func() { over.Store(true) })
	defer timer.Stop()
	for lane := range c.goroutines {
		group.Go(func() {
			for i := 0; !over.Load() && errs[lane] == nil; i++ {
				errs[lane] = fn(lane, i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// batchSize is the number of messages in a transaction.
const batchSize = 1000

func (c *contest) batchRound(ctx context.Context, p publisher) (figures, error) {
	watch := newStopwatch(c.goroutines)
	jobs := make([]job, batchSize)
	for i := range jobs {
		jobs[i] = newJob(c.text)
	}
	before := c.place.read()
	err := c.parallel(func(lane, _ int) error {
		start := time.Now()
		err := p.batch(ctx, c.place.queue(0), jobs)
		watch.record(lane, int64(time.Since(start)))
		return err
	})
	after := c.place.read()
	latencies := watch.all()
	return between(before, after, len(latencies)*batchSize, latencies), err
}

// fill puts n messages into the queue.
func (c *contest) fill(ctx context.Context, n int) error {
	if c.kind == "null" {
		n = 1 // it is delivered again and again
	}
	jobs := make([]job, min(n, batchSize))
	for n > 0 {
		part := jobs[:min(n, batchSize)]
		for i := range part {
			part[i] = newJob(c.text)
		}
		if err := c.preload.batch(ctx, c.place.queue(0), part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

// backlogRound lets a consumer work on a backlog. The first tenth is not
// measured, and the queue does not run dry before the end.
func (c *contest) backlogRound(ctx context.Context, start func(seen func(*job)) (stopper, error)) (figures, error) {
	if err := c.fill(ctx, int(c.handled())+c.pace.spare); err != nil {
		return figures{}, err
	}
	return c.measure(ctx, start)
}

// handled is how many messages a round that consumes handles.
func (c *contest) handled() int64 {
	if c.kind == "null" {
		return 10 * int64(c.pace.messages)
	}
	return int64(c.pace.messages)
}

// measure lets a consumer work on what there is.
func (c *contest) measure(ctx context.Context, start func(seen func(*job)) (stopper, error)) (figures, error) {
	n := c.handled()
	warm := n / 10
	runtime.GC()
	var count atomic.Int64
	var before, after reading
	done := make(chan struct{})
	stop, err := start(func(*job) {
		switch count.Add(1) {
		case warm:
			before = c.place.readAt(&count)
		case n:
			after = c.place.readAt(&count)
			close(done)
		}
	})
	if err != nil {
		return figures{}, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return figures{}, errors.Join(fmt.Errorf("%d of %d handled: %w", count.Load(), n, context.Cause(ctx)), stop())
	}
	if err := stop(); err != nil {
		return figures{}, err
	}
	return between(before, after, int(after.handled-before.handled), nil), nil
}

// pacedRound sends at a fixed rate and measures until the handler of the consumer is called.
func (c *contest) pacedRound(ctx context.Context, rate int, consume func(seen func(*job)) (stopper, error), send func() error) (figures, error) {
	n := int64(c.pace.duration.Seconds() * float64(rate))
	warm := n / 10
	var count atomic.Int64
	var before, after reading
	done := make(chan struct{})
	latencies := samples()[:n]
	stop, err := consume(func(j *job) {
		k := count.Add(1)
		if k <= n {
			latencies[k-1] = now() - j.Sent
		}
		switch k {
		case warm:
			before = c.place.readAt(&count)
		case n:
			after = c.place.readAt(&count)
			close(done)
		}
	})
	if err != nil {
		return figures{}, err
	}
	err = c.paced(n, time.Second/time.Duration(rate), send)
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("%d of %d handled: %w", count.Load(), n, context.Cause(ctx)))
	}
	if err = errors.Join(err, stop()); err != nil {
		return figures{}, err
	}
	return between(before, after, int(after.handled-before.handled), latencies[warm:]), nil
}

// paced calls send n times, once every interval, whether or not the calls before have returned.
func (c *contest) paced(n int64, interval time.Duration, send func() error) error {
	tokens := make(chan struct{}, n)
	errs := make([]error, c.goroutines)
	var group sync.WaitGroup
	for lane := range c.goroutines {
		group.Go(func() {
			for range tokens {
				errs[lane] = errors.Join(errs[lane], send())
			}
		})
	}
	start := time.Now()
	ticker := time.NewTicker(interval)
	for sent := int64(0); sent < n; {
		<-ticker.C
		for due := int64(time.Since(start) / interval); sent < min(due, n); sent++ {
			tokens <- struct{}{}
		}
	}
	ticker.Stop()
	close(tokens)
	group.Wait()
	return errors.Join(errs...)
}

// saturatedRound publishes as fast as it goes while a consumer handles.
func (c *contest) saturatedRound(ctx context.Context, l *library) (figures, error) {
	all := samples()
	var count atomic.Int64
	stop, err := l.consume(ctx, c.place, c.place.queue(0), func(j *job) {
		if k := count.Add(1); k <= int64(len(all)) {
			all[k-1] = now() - j.Sent
		}
	})
	if err != nil {
		return figures{}, err
	}
	before := c.place.read()
	err = c.parallel(func(lane, _ int) error {
		return c.open[l.name].publish(ctx, c.place.queue(0), newJob(c.text))
	})
	handled := min(count.Load(), int64(len(all)))
	after := c.place.read()
	if err = errors.Join(err, stop()); err != nil {
		return figures{}, err
	}
	return between(before, after, int(handled), all[:handled]), nil
}
