package brokertest

import (
	"container/heap"
	"time"
)

// clock runs callbacks at their time, in the order of their times and, for
// equal times, of their making. It uses one runtime timer, so that the order is
// the same in every run, also inside a testing/synctest bubble. All its methods
// are called with the broker's lock held.
type clock struct {
	heap  alarmHeap
	seq   uint64
	timer *time.Timer
	armed time.Time
	ended bool
	fire  func() // called without the lock when the earliest alarm is due
}

// alarm is a callback waiting for its time.
type alarm struct {
	at    time.Time
	seq   uint64
	run   func()
	index int // position in the heap, -1 when it is not in it
}

// after arranges for run to be called, with the lock held, d from now.
func (c *clock) after(d time.Duration, run func()) *alarm {
	return c.at(time.Now().Add(d), run)
}

// at arranges for run to be called, with the lock held, at t.
func (c *clock) at(t time.Time, run func()) *alarm {
	c.seq++
	a := &alarm{at: t, seq: c.seq, run: run, index: -1}
	if c.ended {
		return a
	}
	heap.Push(&c.heap, a)
	c.arm()
	return a
}

// cancel drops an alarm; nil and alarms that ran are fine.
func (c *clock) cancel(a *alarm) {
	if a != nil && a.index >= 0 {
		heap.Remove(&c.heap, a.index)
	}
}

// due runs everything whose time has come.
func (c *clock) due(now time.Time) {
	for len(c.heap) > 0 && !c.heap[0].at.After(now) {
		a := heap.Pop(&c.heap).(*alarm)
		a.run()
	}
	c.armed = time.Time{}
	c.arm()
}

// arm sets the runtime timer to the earliest alarm.
func (c *clock) arm() {
	if len(c.heap) == 0 {
		return
	}
	next := c.heap[0].at
	if !c.armed.IsZero() && !next.Before(c.armed) {
		return
	}
	c.armed = next
	if c.timer == nil {
		c.timer = time.AfterFunc(time.Until(next), c.fire)
		return
	}
	c.timer.Reset(time.Until(next))
}

// stop forgets everything; nothing is due any more.
func (c *clock) stop() {
	c.ended = true
	for _, a := range c.heap {
		a.index = -1
	}
	c.heap = nil
	if c.timer != nil {
		c.timer.Stop()
	}
}

type alarmHeap []*alarm

func (h alarmHeap) Len() int { return len(h) }

func (h alarmHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}

func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	a.index = len(*h)
	*h = append(*h, a)
}

func (h *alarmHeap) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	a.index = -1
	return a
}
