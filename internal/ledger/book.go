package ledger

import (
	"slices"
	"sync"
	"time"
)

// Book holds what is known of every message. It is safe for concurrent use.
type Book struct {
	mu       sync.Mutex // guards what follows
	entries  map[string]*entry
	crashes  []time.Time
	faults   []Event  // their begins and ends
	left     []string // what was left when all was stopped
	order    []string // ids by their first send
	confirms []time.Time
	gap      time.Duration // the longest pause between confirmed sends
	mirror   *Recorder
	err      error // of the mirror
}

// entry is one message.
type entry struct {
	id       string
	events   []Event // for the report; bounded
	last     time.Time
	invoked  int
	key      string
	seq      int
	sum      string
	due      time.Time
	deadline time.Time
	overrun  time.Duration // by how much a call outlived its deadline
	parent   string
	ok       int
	failed   bool
	unknown  bool
	discard  bool
	cancel   bool
	received []Event
	fails    []Event
	copied   bool
	again    int // how often a redelivery was copied that had been copied before
	effects  []Event
	parked   int
	drained  int
	wrongSum bool
}

// keepEvents bounds the history kept for each message.
const keepEvents = 100

// NewBook returns an empty book.
func NewBook() *Book { return &Book{entries: map[string]*entry{}} }

// Mirror also writes every later event to r, for a process that is going to be
// killed. What went wrong doing so is in [Book.MirrorErr].
func (b *Book) Mirror(r *Recorder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mirror = r
}

// MirrorErr is the first error of writing to the mirror.
func (b *Book) MirrorErr() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Record adds an event; a zero time becomes now.
func (b *Book) Record(e Event) {
	if e.T.IsZero() {
		e.T = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mirror != nil && b.err == nil {
		b.err = b.mirror.Record(e)
	}
	if e.ID == "" {
		b.happened(e)
		return
	}
	m := b.entry(e.ID)
	if len(m.events) < keepEvents {
		m.events = append(m.events, e)
	}
	m.last = e.T
	if e.Sum != "" && m.sum != "" && e.Sum != m.sum {
		m.wrongSum = true
	}
	b.apply(m, e)
}

// happened records an event that concerns no single message.
func (b *Book) happened(e Event) {
	switch e.Op {
	case Crash:
		b.crashes = append(b.crashes, e.T)
	case FaultBegin, FaultEnd:
		b.faults = append(b.faults, e)
	case Left:
		b.left = append(b.left, e.Err)
	}
}

func (b *Book) entry(id string) *entry {
	m, ok := b.entries[id]
	if !ok {
		m = &entry{id: id}
		b.entries[id] = m
		b.order = append(b.order, id)
	}
	return m
}

func (b *Book) apply(m *entry, e Event) {
	switch e.Op {
	case SendInvoke:
		m.invoked++
		m.key, m.seq, m.parent, m.due, m.deadline = e.Key, e.Seq, e.Parent, e.Due, e.Deadline
		if m.sum == "" {
			m.sum = e.Sum
		}
	case SendOK:
		m.ok++
		m.returned(e.T)
		if n := len(b.confirms); n > 0 {
			b.gap = max(b.gap, e.T.Sub(b.confirms[n-1]))
		}
		b.confirms = append(b.confirms, e.T)
	case SendFail:
		m.failed = true
		m.returned(e.T)
	case SendUnknown:
		m.unknown = true
		m.returned(e.T)
	case Discard:
		m.discard = true
	case Cancelled:
		m.cancel = true
	case Recv:
		m.received = append(m.received, e)
	case Effect:
		m.effects = append(m.effects, e)
	case Failed:
		m.fails = append(m.fails, e)
	case Copied:
		if m.copied && e.Redelivered {
			m.again++
		}
		m.copied = true
	case Parked:
		m.parked++
	case Drained:
		m.drained++
	}
}

// returned records when the call that sent the message returned.
func (m *entry) returned(at time.Time) {
	if !m.deadline.IsZero() {
		m.overrun = max(m.overrun, at.Sub(m.deadline))
	}
}

// Pending returns the ids of confirmed messages that have neither had an effect
// nor been found anywhere, nor failed as often as they may: what a run still has
// to wait for.
func (b *Book) Pending(attempts int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var pending []string
	for _, id := range b.order {
		m := b.entries[id]
		gaveUp := slices.ContainsFunc(m.fails, func(e Event) bool { return e.Attempt >= attempts })
		if m.lost() && !gaveUp {
			pending = append(pending, id)
		}
	}
	return pending
}

// Refusals returns the errors of the sends that failed or ended without an
// outcome, with their messages' ids, in the order in which they began.
func (b *Book) Refusals() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var texts []string
	for _, id := range b.order {
		for _, e := range b.entries[id].events {
			if e.Op == SendFail || e.Op == SendUnknown {
				texts = append(texts, id+": "+e.Err)
			}
		}
	}
	return texts
}

// Gap returns the longest pause between two confirmed sends so far.
func (b *Book) Gap() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gap
}

// Counts are the running totals of a book.
type Counts struct {
	Sent, Confirmed, Handled, Parked, Duplicates int
	// Failed is the number of sends that failed for certain, Unknown that of
	// sends whose outcome their callers were not told.
	Failed, Unknown int
}

// Counts returns the totals so far.
func (b *Book) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	var c Counts
	for _, m := range b.entries {
		c.add(m)
	}
	return c
}

func (c *Counts) add(m *entry) {
	if m.invoked > 0 {
		c.Sent++
	}
	if m.ok > 0 {
		c.Confirmed++
	}
	if len(m.effects) > 0 {
		c.Handled++
	}
	if m.parked > 0 {
		c.Parked++
	}
	if m.copies() > 1 {
		c.Duplicates++
	}
	if m.failed {
		c.Failed++
	}
	if m.unknown {
		c.Unknown++
	}
}

// lost says whether the message was confirmed, is nowhere, and was not cancelled.
func (m *entry) lost() bool { return m.ok > 0 && !m.ended() && !m.cancel }

func (m *entry) ended() bool { return len(m.effects) > 0 || m.parked > 0 || m.drained > 0 }

// copies is how often the message took effect or lies somewhere. More than one
// is a duplicate.
func (m *entry) copies() int { return len(m.effects) + m.parked + m.drained }

// explained says whether a duplicate has a reason that the guarantees name: the
// outcome of its send, or of the send of the message that caused it, was not known;
// it was delivered again; or something crashed between its first event and its last.
// A delivery that was copied before its acknowledgement was lost is copied again when it
// comes back, maybe before any handler has begun. The broker marks the redelivery and not
// its copy, so each such redelivery explains one copy more.
func (b *Book) explained(m *entry) bool {
	if m.unknown || m.invoked > 1 {
		return true
	}
	if slices.ContainsFunc(m.received, func(e Event) bool { return e.Redelivered }) {
		return true
	}
	first := m.events[0].T
	if slices.ContainsFunc(b.crashes, func(t time.Time) bool { return !t.Before(first) && !t.After(m.last) }) {
		return true
	}
	if m.again > 0 && m.copies() <= 1+m.again {
		return true
	}
	parent, ok := b.entries[m.parent]
	return ok && m.parent != m.id && (len(parent.received) > 1 || parent.unknown)
}
