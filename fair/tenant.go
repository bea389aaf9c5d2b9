package fair

import "time"

// tenant is one of those who share an endpoint. The scheduler's mu guards it.
//
// The turns are those of a round robin whose deficits are counted as time: each message takes 1/weight of
// the time of its tenant, and the tenant with the earliest time is the next one. So no round finds tenants
// whose deficit is too small, however small a weight is.
type tenant struct {
	weight  float64
	places  []*place // in the order in which they came; some may be gone
	waits   int      // those that are not
	runs    int
	settles time.Time // until then its messages move to the backlog

	next  float64 // its time
	order uint64  // among equal times
	at    int     // its place among the turns
}

// held is how many of its messages are in this process.
func (t *tenant) held() int { return t.waits + t.runs }

// take takes the first message that waits. There is one.
func (t *tenant) take() *place {
	for {
		p := t.places[0]
		t.places[0] = nil
		t.places = t.places[1:]
		if !p.gone {
			return p
		}
	}
}

// tenant finds that of a message. mu is held.
func (s *Scheduler) tenant(f file, now time.Time) *tenant {
	t := s.tenants[f.key]
	if t == nil {
		if len(s.tenants) >= s.sweepAt {
			s.sweep(now)
		}
		t = &tenant{weight: f.weight}
		s.tenants[f.key] = t
	}
	return t
}

// sweep forgets tenants that have nothing here and owe others a turn at most. mu is held.
func (s *Scheduler) sweep(now time.Time) {
	for key, t := range s.tenants {
		if t.held() == 0 && t.next <= s.now+1 && !now.Before(t.settles) {
			delete(s.tenants, key)
		}
	}
	s.sweepAt = max(1000, 2*len(s.tenants))
}

// turns is a heap: the first tenant is the one whose turn it is.
type turns []*tenant

func (q turns) Len() int { return len(q) }

func (q turns) Less(i, j int) bool {
	if q[i].next != q[j].next {
		return q[i].next < q[j].next
	}
	return q[i].order < q[j].order
}

func (q turns) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

func (q *turns) Push(t any) {
	one := t.(*tenant) //nolint:forcetypeassert // container/heap is not generic
	one.at = len(*q)
	*q = append(*q, one)
}

func (q *turns) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return t
}
