package services

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/pulse"
)

// Line is what the instances of a service say about one queue together. Rates, and the times Half and Most, are those since
// the round before.
type Line struct {
	Service   string   `json:"service"`
	Queue     string   `json:"queue"`
	Instances int      `json:"instances"`
	Paused    int      `json:"paused"`
	Ready     *int     `json:"ready"` // nil is unknown
	InHand    int64    `json:"in_hand"`
	Handled   float64  `json:"handled_per_second"`
	Failed    float64  `json:"failed_per_second"`
	Retried   uint64   `json:"retried"`
	Parked    uint64   `json:"parked"`
	Half      string   `json:"critical_half"`
	Most      string   `json:"critical_99"`
	Versions  []string `json:"versions"`

	// All are the counts and times since the instances started.
	All harebus.MessageStats `json:"-"`
	// Takers is how many instances take orders, and Rated says that there was a round before.
	Takers int  `json:"-"`
	Rated  bool `json:"-"`

	critical harebus.Histogram
}

// Watch makes lines of one round after the other. The zero Watch has seen none.
type Watch struct {
	// Gone are instances that have not answered any more, since when.
	Gone map[string]time.Time

	before map[string]pulse.Answer // by instance
}

// Lines makes the lines of a round, by service and queue.
func (w *Watch) Lines(s *State) []Line {
	type place struct{ service, queue string }
	lines := map[place]*Line{}
	for i := range s.Round.Answers {
		a := &s.Round.Answers[i]
		for j := range a.Queues {
			q := &a.Queues[j]
			at := place{a.Service, q.Name}
			if lines[at] == nil {
				lines[at] = &Line{Service: a.Service, Queue: q.Name}
			}
			lines[at].add(a, q, w.before[a.Instance])
		}
	}
	sorted := make([]Line, 0, len(lines))
	for _, l := range lines {
		l.Half, l.Most = "-", "-"
		if l.critical.Count() > 0 {
			l.Half, l.Most = Short(l.critical.Quantile(0.5)), Short(l.critical.Quantile(0.99)) //nolint:mnd // as the help of top says
		}
		if waits := s.Waiting[l.Queue]; waits.Known() {
			l.Ready = &waits.Ready
		}
		sorted = append(sorted, *l)
	}
	slices.SortFunc(sorted, func(a, b Line) int {
		return strings.Compare(a.Service+"\x00"+a.Queue, b.Service+"\x00"+b.Queue)
	})
	return sorted
}

// add adds what an instance says. before is what it said before; its counts begin anew when it was started anew.
func (l *Line) add(a *pulse.Answer, q *pulse.Queue, before pulse.Answer) {
	l.Instances++
	l.InHand += q.InHand
	l.Retried += q.All.Retried
	l.Parked += q.All.Parked
	Add(&l.All, &q.All)
	if q.Paused {
		l.Paused++
	}
	if a.Control {
		l.Takers++
	}
	if !slices.Contains(l.Versions, a.Version) {
		l.Versions = append(l.Versions, a.Version)
	}
	i := slices.IndexFunc(before.Queues, func(one pulse.Queue) bool { return one.Name == q.Name })
	seconds := a.Clock.Sub(before.Clock).Seconds()
	if i < 0 || seconds <= 0 {
		return
	}
	l.Rated = true
	was := &before.Queues[i].All
	l.Handled += rate(was.Handled, q.All.Handled, seconds)
	l.Failed += rate(was.Failed, q.All.Failed, seconds)
	addSince(&l.critical, was.CriticalTime, q.All.CriticalTime)
}

// Add adds counts and times to others.
func Add(to, more *harebus.MessageStats) {
	to.Handled += more.Handled
	to.Failed += more.Failed
	to.Retried += more.Retried
	to.Parked += more.Parked
	addSince(&to.HandlingTime, harebus.Histogram{}, more.HandlingTime)
	addSince(&to.CriticalTime, harebus.Histogram{}, more.CriticalTime)
}

// rate is how many a second were counted. A count that has fallen was not made by the same instance.
func rate(before, now uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) / seconds
}

// addSince adds what a histogram has counted since it was another one.
func addSince(to *harebus.Histogram, before, now harebus.Histogram) {
	if to.Counts == nil && len(now.Counts) > 0 {
		to.Counts = make([]uint64, len(now.Counts))
	}
	for i, n := range now.Counts {
		if i < len(before.Counts) {
			n -= min(before.Counts[i], n)
		}
		to.Counts[i] += n
	}
}

// Remember keeps what was said, and notes who has not answered any more.
func (w *Watch) Remember(s *State) {
	const most = time.Minute
	if w.Gone == nil {
		w.Gone = map[string]time.Time{}
	}
	now := map[string]pulse.Answer{}
	for _, a := range s.Round.Answers {
		now[a.Instance] = a
		delete(w.Gone, a.Instance)
	}
	for name := range w.before {
		if _, ok := now[name]; !ok {
			w.Gone[name] = time.Now()
		}
	}
	maps.DeleteFunc(w.Gone, func(_ string, since time.Time) bool { return time.Since(since) > most })
	w.before = now
}
