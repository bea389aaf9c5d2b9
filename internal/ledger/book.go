package ledger

import (
	"slices"
	"sync"
	"time"
)

// Book holds what is known of every message. It is safe for concurrent use.
type Book struct {
	mu      sync.Mutex // guards what follows
	entries map[string]*entry
	crashes []time.Time
	order   []string // ids by their first send
	last    time.Time
	gap     time.Duration // the longest pause between confirmed sends
}

// entry is one message.
type entry struct {
	id       string
	events   []Event // for the report; bounded
	invoked  int
	key      string
	seq      int
	sum      string
	due      time.Time
	parent   string
	ok       int
	failed   bool
	unknown  bool
	discard  bool
	received []Event
	fails    []Event
	effects  []Event
	parked   int
	drained  int
	wrongSum bool
}

// keepEvents bounds the history kept for each message.
const keepEvents = 40

// NewBook returns an empty book.
func NewBook() *Book { return &Book{entries: map[string]*entry{}} }

// Record adds an event; a zero time becomes now.
func (b *Book) Record(e Event) {
	if e.T.IsZero() {
		e.T = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Op == Crash {
		b.crashes = append(b.crashes, e.T)
		return
	}
	if e.ID == "" {
		return
	}
	m := b.entry(e.ID)
	if len(m.events) < keepEvents {
		m.events = append(m.events, e)
	}
	if e.Sum != "" && m.sum != "" && e.Sum != m.sum {
		m.wrongSum = true
	}
	b.apply(m, e)
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
		m.key, m.seq, m.parent, m.due = e.Key, e.Seq, e.Parent, e.Due
		if m.sum == "" {
			m.sum = e.Sum
		}
	case SendOK:
		m.ok++
		if !b.last.IsZero() {
			b.gap = max(b.gap, e.T.Sub(b.last))
		}
		b.last = e.T
	case SendFail:
		m.failed = true
	case SendUnknown:
		m.unknown = true
	case Discard:
		m.discard = true
	case Recv:
		m.received = append(m.received, e)
	case Effect:
		m.effects = append(m.effects, e)
	case Failed:
		m.fails = append(m.fails, e)
	case Parked:
		m.parked++
	case Drained:
		m.drained++
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
		if m.ok > 0 && !m.ended() && !gaveUp {
			pending = append(pending, id)
		}
	}
	return pending
}

// Gap returns the longest pause between two confirmed sends so far.
func (b *Book) Gap() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gap
}

// Counts are the running totals of a book.
type Counts struct{ Sent, Confirmed, Handled, Parked, Duplicates int }

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
}

func (m *entry) ended() bool { return len(m.effects) > 0 || m.parked > 0 || m.drained > 0 }

// copies is how often the message took effect or lies somewhere. More than one
// is a duplicate.
func (m *entry) copies() int { return len(m.effects) + m.parked + m.drained }

// explained says whether a duplicate has a reason that the guarantees name: the
// outcome of its send, or of the send of the message that caused it, was not
// known; it was delivered again; or something crashed between its first sign of
// life and its last.
func (b *Book) explained(m *entry) bool {
	if m.unknown || m.invoked > 1 {
		return true
	}
	if slices.ContainsFunc(m.received, func(e Event) bool { return e.Redelivered }) {
		return true
	}
	first, last := m.events[0].T, m.events[len(m.events)-1].T
	if slices.ContainsFunc(b.crashes, func(t time.Time) bool { return !t.Before(first) && !t.After(last) }) {
		return true
	}
	parent, ok := b.entries[m.parent]
	return ok && m.parent != m.id && (len(parent.received) > 1 || parent.unknown)
}
