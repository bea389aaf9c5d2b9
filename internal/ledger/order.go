package ledger

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Orders judges the order of the messages of each key, which are numbered from 1. Whoever sends or handles them
// writes down what happens, in the order in which it does.
type Orders struct {
	mu      sync.Mutex // guards what follows
	keys    map[string]*keyOrder
	tenure  int
	tenures []string // their owners
	routers int
	late    int
}

// keyOrder is what is known of a key.
type keyOrder struct {
	sent    int
	doubted map[int]bool // perhaps in the queue twice
	given   map[int]bool // given up: skipped or discarded
	effects []effect
}

type effect struct {
	n, tenure, router int
}

// NewOrders makes one.
func NewOrders() *Orders { return &Orders{keys: map[string]*keyOrder{}} }

func (o *Orders) key(name string) *keyOrder {
	k := o.keys[name]
	if k == nil {
		k = &keyOrder{doubted: map[int]bool{}, given: map[int]bool{}}
		o.keys[name] = k
	}
	return k
}

// Sent notes that the nth message of a key is confirmed. One that is doubted was sent more than once.
func (o *Orders) Sent(key string, n int, doubted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.key(key)
	k.sent = max(k.sent, n)
	if doubted {
		k.doubted[n] = true
	}
}

// Tenure notes that a process has become the owner of the queue. After that messages may be repeated.
func (o *Orders) Tenure(proc string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tenure++
	o.tenures = append(o.tenures, proc)
}

// Router notes that a process has become the router, which sends the messages into this partition of a queue. It may send some again, so that each key
// steps back once more, at any time after that: the copies are behind what is in the partition.
func (o *Orders) Router() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.routers++
}

// Done notes that a process has handled the nth message of a key with success. If another one is the owner, it is
// late: the process was frozen or cut off, and had not noticed. The message counts as not handled.
func (o *Orders) Done(proc, key string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.tenures) > 0 && o.tenures[len(o.tenures)-1] != proc {
		o.late++
		return
	}
	k := o.key(key)
	k.effects = append(k.effects, effect{n, o.tenure, o.routers})
}

// GivenUp notes that the nth message of a key was skipped or discarded.
func (o *Orders) GivenUp(key string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.key(key).given[n] = true
}

// OrderVerdict is what is wrong with the order of messages.
type OrderVerdict struct {
	// Sent and Done are numbers of messages, Tenures of owners, and Repeats of successes of messages that had
	// succeeded before, each of them explained by a new owner. Late are successes in a process that was no owner any more.
	Sent, Done, Tenures, Repeats, Late int
	// Missing were neither handled nor given up. Inversions are messages whose first success came before that of one
	// before them. Gaps are successes that neither continue the order of their key, nor step back at a new owner.
	Missing, Inversions, Gaps []string
}

// Verdict judges. Everything must have come to its end.
func (o *Orders) Verdict() OrderVerdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := OrderVerdict{Tenures: o.tenure, Late: o.late}
	for name, k := range o.keys {
		k.judge(name, &v)
	}
	for _, list := range []*[]string{&v.Missing, &v.Inversions, &v.Gaps} {
		slices.Sort(*list)
	}
	return v
}

func (k *keyOrder) judge(name string, v *OrderVerdict) {
	v.Sent += k.sent
	for _, e := range k.effects {
		delete(k.given, e.n) // of its two copies one was given up
	}
	first := map[int]bool{}
	lastNew := 0 // the highest whose first success has come
	last, backs := effect{}, 0
	for _, e := range k.effects {
		switch {
		case first[e.n]:
			v.Repeats++
		default:
			first[e.n] = true
			v.Done++
			if next := k.next(lastNew); e.n != next {
				v.Inversions = append(v.Inversions, fmt.Sprintf("%s: %d came for the first time, and %d had not", name, e.n, next))
			}
			lastNew = max(lastNew, e.n)
		}
		switch {
		case e.n == k.next(last.n), k.doubted[e.n]:
		case e.n <= last.n && e.tenure > last.tenure: // a step back
		case e.n <= last.n && backs < e.router-1:
			backs++
		default:
			v.Gaps = append(v.Gaps, fmt.Sprintf("%s: %d after %d, tenure %d after %d", name, e.n, last.n, e.tenure, last.tenure))
		}
		last = e
	}
	for n := 1; n <= k.sent; n++ {
		if !first[n] && !k.given[n] {
			v.Missing = append(v.Missing, fmt.Sprintf("%s: %d", name, n))
		}
	}
}

// next is the message that follows the nth.
func (k *keyOrder) next(n int) int {
	for n++; k.given[n]; n++ {
	}
	return n
}

// OK says whether nothing is wrong.
func (v OrderVerdict) OK() bool { return len(v.Missing)+len(v.Inversions)+len(v.Gaps) == 0 }

// String is the verdict as text: NOLOSS and ORDER name what is broken.
func (v OrderVerdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d handled, %d owners, %d repeated, %d late", v.Sent, v.Done, v.Tenures, v.Repeats, v.Late)
	for _, part := range []struct {
		name  string
		lines []string
	}{{"NOLOSS: missing", v.Missing}, {"ORDER: inversions", v.Inversions}, {"ORDER: gaps", v.Gaps}} {
		if len(part.lines) > 0 {
			fmt.Fprintf(&b, "\n%s (%d): %s", part.name, len(part.lines), strings.Join(part.lines[:min(len(part.lines), 10)], "; "))
		}
	}
	return b.String()
}
