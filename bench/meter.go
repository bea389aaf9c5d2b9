package main

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// traffic counts what goes through the sockets of one place.
type traffic struct{ reads, writes atomic.Int64 }

// countedConn is a socket whose calls are counted: each is one system call.
type countedConn struct {
	net.Conn
	t *traffic
}

func (c countedConn) Read(p []byte) (int, error) {
	c.t.reads.Add(1)
	return c.Conn.Read(p)
}

func (c countedConn) Write(p []byte) (int, error) {
	c.t.writes.Add(1)
	return c.Conn.Write(p)
}

func (t *traffic) dial(network, address string) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return countedConn{c, t}, nil
}

// reading is the state of all meters at one instant.
type reading struct {
	at             time.Time
	cpu            time.Duration // of this process
	mallocs, bytes uint64
	reads, writes  int64
	handled        int64 // messages, where a consumer is measured

	machine, broker, database time.Duration // CPU time used; negative if unknown
}

func (p *place) read() reading {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return reading{
		mallocs: m.Mallocs, bytes: m.TotalAlloc,
		reads: p.traffic.reads.Load(), writes: p.traffic.writes.Load(),
		machine: machineTime(), broker: processTime(p.pid), database: familyTime(p.books.pid()),
		cpu: ownTime(), at: time.Now(),
	}
}

// patience is how long a run may wait, in all, for the rest of the machine to
// become quiet.
type patience struct{ left time.Duration }

// await waits before a round while others use more than noise of the machine.
func (p *patience) await(on *place, noise float64) {
	const look = 100 * time.Millisecond
	for p != nil && p.left > 0 {
		before := on.read()
		time.Sleep(look)
		p.left -= look
		if f := between(before, on.read(), 1, nil); !(f.foreign > noise) {
			return
		}
	}
}

// readAt is for a consumer: others go on handling while it reads.
func (p *place) readAt(count *atomic.Int64) reading {
	r := p.read()
	r.handled = count.Load()
	return r
}

// figures are the results of one round.
type figures struct {
	rate, p50, p99, p999              float64 // latencies in µs; NaN where there are none
	cpu, allocs, bytes, writes, reads float64 // for each message
	broker, database                  float64 // CPU for each message; NaN if unknown
	foreign                           float64 // share of the machine; NaN if unknown
	messages                          int
	elapsed                           time.Duration
}

// between makes figures of what happened between two readings. Without a message
// they are zero.
func between(a, b reading, messages int, latencies []int64) figures {
	if messages <= 0 {
		return figures{elapsed: b.at.Sub(a.at), p50: nan, p99: nan, p999: nan, broker: nan, database: nan, foreign: nan}
	}
	n := float64(messages)
	f := figures{
		messages: messages, elapsed: b.at.Sub(a.at),
		rate:   n / b.at.Sub(a.at).Seconds(),
		cpu:    float64((b.cpu - a.cpu).Nanoseconds()) / 1e3 / n,
		allocs: float64(b.mallocs-a.mallocs) / n, bytes: float64(b.bytes-a.bytes) / n,
		writes: float64(b.writes-a.writes) / n, reads: float64(b.reads-a.reads) / n,
		p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99), p999: quantile(latencies, 0.999),
		broker: used(a.broker, b.broker, n), database: used(a.database, b.database, n), foreign: nan,
	}
	if a.machine >= 0 && a.broker >= 0 {
		others := (b.machine - a.machine) - (b.broker - a.broker) - max(b.database-a.database, 0) - (b.cpu - a.cpu)
		f.foreign = max(others.Seconds(), 0) / (f.elapsed.Seconds() * float64(runtime.NumCPU()))
	}
	return f
}

// used is the CPU time of a process between two readings, in microseconds for each message; NaN if unknown.
func used(a, b time.Duration, messages float64) float64 {
	if a < 0 || b < 0 {
		return nan
	}
	return float64((b - a).Nanoseconds()) / 1e3 / messages
}

// quantile sorts latencies, in nanoseconds, and returns one in microseconds.
func quantile(latencies []int64, q float64) float64 {
	if len(latencies) == 0 {
		return nan
	}
	slices.Sort(latencies)
	return float64(latencies[min(int(q*float64(len(latencies))), len(latencies)-1)]) / 1e3
}

// stopwatch records latencies without allocating while the round runs.
type stopwatch struct {
	lanes [][]int64
}

// samples is shared by all rounds, so that the heap has one size for everybody.
var samples = sync.OnceValue(func() []int64 { return make([]int64, 1<<20) })

func newStopwatch(lanes int) *stopwatch {
	all := samples()
	each := len(all) / lanes
	w := &stopwatch{lanes: make([][]int64, lanes)}
	for i := range w.lanes {
		w.lanes[i] = all[i*each : i*each : (i+1)*each]
	}
	return w
}

// record drops what does not fit: a million samples are enough.
func (w *stopwatch) record(lane int, ns int64) {
	if l := w.lanes[lane]; len(l) < cap(l) {
		w.lanes[lane] = append(l, ns)
	}
}

// all joins the lanes; the stopwatch must not be used any more.
func (w *stopwatch) all() []int64 {
	joined := samples()[:0]
	for _, l := range w.lanes {
		joined = append(joined, l...)
	}
	return joined
}
