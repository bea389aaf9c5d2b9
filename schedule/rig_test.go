package schedule

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// rig is a broker in a bubble of virtual time, and the runs that instances of a service have seen.
type rig struct {
	t      *testing.T
	broker *brokertest.Broker
	logs   *observer.ObservedLogs
	log    *zap.Logger

	mu   sync.Mutex
	runs []run
}

// run is one call of a handler.
type run struct {
	Due
	id   string
	when time.Time
	by   string
}

func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	inBubble(t, test)
}

func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		r := &rig{t: t, broker: brokertest.New(), logs: logs, log: zap.New(core)}
		t.Cleanup(r.broker.Close)
		test(t, r)
	})
}

// instance is one process of the service. Its connections pass through it, so that it can die.
type instance struct {
	*Schedules
	r    *rig
	name string

	mu    sync.Mutex
	conns []net.Conn
	dead  bool
	// frozen, if not nil, is closed when what the instance reads and writes goes on.
	frozen chan struct{}
	// wrong is by how much its clock is.
	wrong time.Duration
	// writes is after how many writes to the broker the instance dies; 0: never. wrote is how many it has made.
	writes, wrote int
}

// Dial connects, unless the instance is dead.
func (i *instance) Dial(network, address string) (net.Conn, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dead {
		return nil, errors.New("the process is dead")
	}
	conn, err := i.r.broker.Dial(network, address)
	if err != nil {
		return nil, err
	}
	i.conns = append(i.conns, conn)
	return &mortal{conn, i}, nil
}

// mortal is a connection of an instance.
type mortal struct {
	net.Conn
	instance *instance
}

// Read reads, and returns when the instance is not frozen.
func (c *mortal) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.instance.thaw()
	return n, err
}

func (c *mortal) Write(b []byte) (int, error) {
	i := c.instance
	i.thaw()
	i.mu.Lock()
	i.wrote++
	if i.writes > 0 {
		if i.writes--; i.writes == 0 {
			i.dieLocked()
		}
	}
	i.mu.Unlock()
	return c.Conn.Write(b)
}

// shown is what the clock of the instance shows.
func (i *instance) shown() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return clock().Add(i.wrong)
}

// freeze stops for so long what the instance reads and writes. Its clock goes on.
func (i *instance) freeze(d time.Duration) {
	frozen := make(chan struct{})
	i.mu.Lock()
	i.frozen = frozen
	i.mu.Unlock()
	time.AfterFunc(d, func() { close(frozen) })
}

// thaw waits for the end of a freeze.
func (i *instance) thaw() {
	i.mu.Lock()
	frozen := i.frozen
	i.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

// die ends the instance as a kill does: everything that it has connected is cut.
func (i *instance) die() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dieLocked()
}

func (i *instance) dieLocked() {
	i.dead = true
	for _, conn := range i.conns {
		_ = conn.Close() // it may be closed already
	}
}

// bury stops what is left of a dead instance.
func (i *instance) bury() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = i.setup.Stop(ctx) // it cannot reach its broker any more
}

// instance makes an instance that is not started.
func (r *rig) instance(name string, change ...func(*harebus.Config, *Config)) *instance {
	r.t.Helper()
	i := &instance{r: r, name: name}
	cfg := harebus.Config{URL: r.broker.URL(), Dial: i.Dial, Queue: "shop", Logger: zap.NewNop()}
	own := Config{Logger: r.log}
	for _, c := range change {
		c(&cfg, &own)
	}
	setup, err := harebus.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(i.bury)
	if i.Schedules, err = New(setup, own); err != nil {
		r.t.Fatal(err)
	}
	i.Schedules.clock = i.shown
	return i
}

// add adds a schedule whose runs are noted.
func (i *instance) add(name, cron string, opts ...Option) {
	i.r.t.Helper()
	if err := i.Add(name, cron, i.note, opts...); err != nil {
		i.r.t.Fatal(err)
	}
}

// note is a handler.
func (i *instance) note(ctx context.Context, _ *harebus.Bus, due Due) error {
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	i.r.runs = append(i.r.runs, run{due, harebus.Incoming(ctx).ID, time.Now(), i.name})
	return nil
}

// start starts the instance.
func (i *instance) start() *instance {
	i.r.t.Helper()
	ctx, cancel := context.WithTimeout(i.r.t.Context(), time.Minute)
	defer cancel()
	if err := i.setup.Start(ctx); err != nil {
		i.r.t.Fatal(err)
	}
	return i
}

// stop stops the instance in order.
func (i *instance) stop() {
	i.r.t.Helper()
	if err := i.setup.Close(); err != nil {
		i.r.t.Fatal(err)
	}
}

// seen are the runs of a schedule, by due time. How many of them were repeated, under the same id,
// is the second result. A run before its due time, or a second one under another id, fails the test.
func (r *rig) seen(name string) (times []time.Time, repeated int) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := map[time.Time]string{}
	for _, one := range r.runs {
		if one.Schedule != name {
			continue
		}
		at := one.At.UTC()
		if one.when.Before(at) {
			r.t.Errorf("%s: the due time %v was handled at %v, which is early", name, at, one.when)
		}
		id, ok := ids[at]
		switch {
		case !ok:
			times = append(times, at)
		case id != one.id:
			r.t.Errorf("%s: the due time %v came under two ids", name, at)
		default:
			repeated++
		}
		ids[at] = one.id
	}
	slices.SortFunc(times, time.Time.Compare)
	return times, repeated
}

// complete fails the test unless every due time in a range, and no other, was seen.
func (r *rig) complete(name, cron string, from, to time.Time) {
	r.t.Helper()
	want := dueTimes(r.t, cron, from, to)
	got, _ := r.seen(name)
	if !slices.EqualFunc(got, want, time.Time.Equal) {
		r.t.Errorf("%s: %d due times, want %d\nmissing %v\ntoo many %v", name, len(got), len(want), without(want, got), without(got, want))
	}
}

// between fails the test unless every due time in a range was seen.
func (r *rig) between(name, cron string, from, to time.Time) {
	r.t.Helper()
	want := dueTimes(r.t, cron, from, to)
	got, _ := r.seen(name)
	if missing := without(want, got); len(missing) > 0 {
		r.t.Errorf("%s: missing %v", name, missing)
	}
}

// steady fails the test unless the due times of a schedule follow each other at an interval.
func (r *rig) steady(name string, interval time.Duration) {
	r.t.Helper()
	got, _ := r.seen(name)
	for i := 1; i < len(got); i++ {
		if gap := got[i].Sub(got[i-1]); gap != interval {
			r.t.Errorf("%s: between the due times %v and %v are %v", name, got[i-1], got[i], gap)
		}
	}
}

// dueTimes are the due times of an expression in a range.
func dueTimes(t *testing.T, cron string, from, to time.Time) (times []time.Time) {
	t.Helper()
	table, err := parse(cron, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for at := table.next(from); !at.After(to); at = table.next(at) {
		times = append(times, at.UTC())
	}
	return times
}

// without are the times of a that are not in b.
func without(a, b []time.Time) (rest []time.Time) {
	for _, t := range a {
		if !slices.ContainsFunc(b, t.Equal) {
			rest = append(rest, t)
		}
	}
	return rest[:min(len(rest), 10)]
}

// logged is how many lines of the log contain a text.
func (r *rig) logged(text string) int { return r.logs.FilterMessageSnippet(text).Len() }

// noted are the runs so far.
func (r *rig) noted() []run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.runs)
}
