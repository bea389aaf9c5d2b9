package schedule

import (
	"time"

	"github.com/harebus/harebus"
)

const (
	// renewal is how long a token is held before it is published anew. The broker takes back what
	// is held for longer than its consumer timeout, 30 minutes by default.
	renewal = 5 * time.Minute
	// orphaned is how long a token without a definition is kept.
	orphaned = 30 * 24 * time.Hour
	// overdue is after how long a token that should have come is taken as lost.
	overdue = time.Minute
	// gathering is how long a token waits for others, if there are more than crowd, so that their successors are published together.
	gathering = 10 * time.Millisecond
	crowd     = 20
	// longestPause is the longest pause between two attempts to publish the successor of a token.
	longestPause = 30 * time.Second
)

// keeper holds the message of a token: a [harebus.Hold].
type keeper interface {
	Release()
	Holds() bool
}

// entry is the token of a schedule that counts.
type entry struct {
	token token
	id    string    // of its message
	since time.Time // when that came, or was confirmed if it is on its way
	// hold is nil until the message has come. timer releases it; nil when it has.
	hold  keeper
	timer *time.Timer
	kept  time.Time // when hold or timer changed
	worn  bool      // the broker has counted a delivery of the message: it is to be published anew
	// mark is the number of the first mark behind the message in the queue: when it is back, so is the message, unless another
	// instance has got it. early are the predecessors that wait for that.
	mark  int
	early []keeper

	failures int       // to publish its successor
	patience time.Time // there is no further attempt before then
}

// leader is what an instance knows of the tokens. It does nothing but decide: Schedules carries
// out what it says and reports what was confirmed. Every instance has one, but only that of the
// active consumer is given tokens.
type leader struct {
	definitions map[string]*definition
	entries     map[string]*entry
	// spent are the ids of messages whose successor is confirmed: they are to be acknowledged.
	spent map[string]struct{}
	ready []*entry // released by their timers
	// complete says that every token that exists is among the entries. probing is the number of
	// the mark that shows it when it comes back; 0 if none is on its way.
	complete bool
	probing  int
	marks    int // sent
	back     int // the latest that has come back
	newID    func() string
}

func newLeader() *leader {
	return &leader{definitions: map[string]*definition{}, entries: map[string]*entry{}, spent: map[string]struct{}{}, newID: harebus.NewMessageID}
}

// step is the change of a token: the message for its due time, if any, is published and
// confirmed, then the successor of the token. After that the token is acknowledged.
type step struct {
	entry      *entry
	definition *definition // nil for a token that nobody defines
	verdict    verdict
	message    *dueMessage // nil if nothing is fired
	fired      bool        // message is confirmed
	late       time.Duration
	next       token
	id         string // of the message of next
}

// fate is what becomes of the message of a token that has come.
type fate int8

const (
	fateCounts   fate = iota // it is the one that counts
	fateNeedless             // it is to be acknowledged
	fateEarly                // it waits for its successor, which is on its way
)

// arrive notes the message of a token.
func (l *leader) arrive(t *token, id string, redelivered bool, now time.Time) (*entry, fate) {
	e := l.entries[t.Name]
	if _, ok := l.spent[id]; ok {
		if !redelivered {
			delete(l.spent, id)
			return nil, fateNeedless
		}
		// It may have been in other hands since, where its successor has become needless.
		if e != nil && e.hold == nil && l.back < e.mark {
			return e, fateEarly
		}
		delete(l.spent, id)
	}
	if e != nil && e.id == id {
		if e.timer != nil && e.hold.Holds() {
			return nil, fateNeedless // the broker has the same message twice
		}
		e.worn = e.worn || redelivered
		return e, fateCounts
	}
	// Only a token that is held for sure can make another one needless. One that is on its way may
	// have come to another instance, which has acknowledged it in favour of this very one.
	if e != nil && e.hold != nil && e.hold.Holds() {
		if !t.beats(&e.token) {
			return nil, fateNeedless
		}
		l.retire(e)
	} else if e != nil {
		e.stop()
	}
	e = &entry{token: *t, id: id, since: now, worn: redelivered}
	l.entries[t.Name] = e
	return e, fateCounts
}

// gather says whether a token that has just come, and of which a successor is to be published, waits for the others: so those of
// a takeover are published together, and not one after the other.
func (l *leader) gather(e *entry, now time.Time) bool {
	released := e.hold != nil && e.timer == nil
	if released || len(l.entries) <= crowd {
		return false
	}
	s, _, _ := l.look(e, now)
	return s != nil
}

// alive says whether the message of the token is held here, or may be on its way.
func (e *entry) alive(now time.Time) bool {
	if e.hold == nil {
		return !elapsed(e.since, now, overdue)
	}
	return e.hold.Holds() || e.timer == nil && !elapsed(e.kept, now, overdue)
}

// elapsed says whether so much time has passed. If the clock was set back, nobody knows, so it has.
func elapsed(since, now time.Time, d time.Duration) bool {
	return now.Before(since) || now.Sub(since) >= d
}

// retire has the held message of an entry acknowledged.
func (l *leader) retire(e *entry) {
	if e.hold == nil {
		e.met()
		return
	}
	l.spent[e.id] = struct{}{}
	e.stop()
	e.hold.Release()
}

func (e *entry) stop() {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	e.met()
}

// met has the predecessors that wait for this token looked at again: it has come, or it never will.
func (e *entry) met() {
	for _, h := range e.early {
		h.Release()
	}
	e.early = nil
}

// look says what is to be done with a token now: a step, or nothing until wake. gone says that the token is to be
// acknowledged without a successor.
func (l *leader) look(e *entry, now time.Time) (s *step, wake time.Time, gone bool) {
	if wait := e.patience.Sub(now); wait > 0 && wait <= longestPause { // else the clock was set back
		return nil, e.patience, false
	}
	s = &step{entry: e, definition: l.definitions[e.token.Name], next: e.token, id: l.newID()}
	wake = e.since.Add(renewal)
	again := e.worn || elapsed(e.since, now, renewal)
	if s.definition == nil {
		switch {
		case e.token.Orphan == nil:
			s.next.Orphan, again = &now, true
		case now.Sub(*e.token.Orphan) > orphaned:
			return nil, wake, true
		}
	} else {
		if e.token.Orphan != nil {
			s.next.Orphan, again = nil, true
		}
		s.verdict = s.definition.plan(&e.token, now)
		if next := s.verdict.wake; !next.IsZero() {
			wake = earlier(wake, next)
		}
		if !s.verdict.due.IsZero() {
			s.move()
			again = true
		}
		s.describe()
	}
	if !again {
		return nil, wake, false
	}
	return s, wake, false
}

// move moves the watermark to the due time of the verdict.
func (s *step) move() {
	v, t := s.verdict, &s.next
	due := v.due.UTC()
	t.Last, t.Fresh, t.Revision = due, false, 0
	if !v.fire {
		t.Missed += v.missed + 1
		return
	}
	s.message = &dueMessage{Schedule: t.Name, At: due, Previous: t.Fired, Missed: t.Missed + v.missed}
	t.Missed, t.Fired, t.Running = 0, &due, nil
	if s.definition.overlap == Skip {
		t.Running = &due
	}
}

// describe writes the definition into the token, for people.
func (s *step) describe() {
	t, d := &s.next, s.definition
	t.Expression, t.Zone, t.Next, t.Fires = d.expression, d.zone.String(), nil, nil
	next := d.after(t.Last).UTC()
	if next.IsZero() || t.Paused {
		return
	}
	t.Next = &next
	if fires := d.fires(next); fires.After(next) {
		t.Fires = &fires
	}
}

// confirmed notes that the successor of a token is in the queue.
func (l *leader) confirmed(s *step, now time.Time) {
	name := s.next.Name
	if e := s.entry; e != nil && e == l.entries[name] && e.hold != nil {
		l.spent[e.id] = struct{}{}
	}
	if s.entry == l.entries[name] { // nothing newer has come
		l.succeed(s, now)
	}
}

// succeed notes that the successor of a token is on its way.
func (l *leader) succeed(s *step, now time.Time) {
	if s.entry != nil {
		s.entry.met()
	}
	l.entries[s.next.Name] = &entry{token: s.next, id: s.id, since: now, mark: l.marks + 1}
}

// replaced is confirmed for a change from outside: the token that is held is to be acknowledged.
func (l *leader) replaced(s *step, now time.Time) {
	if s.entry == l.entries[s.next.Name] {
		l.retire(s.entry)
		l.succeed(s, now)
	}
}

// failed notes that a step was not confirmed. It is tried again later and later.
func (e *entry) failed(now time.Time) {
	pause := longestPause
	if e.failures < 5 {
		pause = time.Second << e.failures
	}
	e.failures++
	e.patience = now.Add(pause)
}

// batch takes the other tokens whose time has come, so that many due times of one second, and the tokens of a takeover, take
// two confirmations together, and not two for each.
func (l *leader) batch(but *entry, now time.Time) (steps []*step) {
	const most = 500
	var rest []*entry
	for i, e := range l.ready {
		if len(steps) == most {
			rest = append(rest, l.ready[i:]...)
			break
		}
		if e == but || e != l.entries[e.token.Name] || e.failures > 0 {
			continue // it is tried alone, so that it holds up no other
		}
		if s, _, _ := l.look(e, now); s != nil {
			steps = append(steps, s)
		}
	}
	l.ready = rest
	return steps
}

// missing are the first tokens of the schedules that have none: their watermark is now.
func (l *leader) missing(now time.Time) (steps []*step) {
	if !l.complete {
		return nil
	}
	for name, d := range l.definitions {
		if l.entries[name] == nil {
			s := &step{definition: d, next: token{Name: name, Last: now.UTC(), Fresh: true}, id: l.newID()}
			s.describe()
			steps = append(steps, s)
		}
	}
	return steps
}

// mark is the next one of this instance.
func (l *leader) mark(probe bool) mark {
	l.marks++
	if probe {
		l.probing = l.marks
	}
	return mark{Number: l.marks, Probe: probe}
}

// returned notes that a mark has come back. It says whether every token is known since then, and
// whether it was not before.
func (l *leader) returned(m mark) (complete, changed bool) {
	l.back = max(l.back, m.Number)
	for _, e := range l.entries {
		if l.back >= e.mark {
			e.met()
		}
	}
	if !m.Probe || m.Number != l.probing {
		return false, false
	}
	l.probing = 0
	changed = !l.complete
	l.complete = true
	return true, changed
}

// awaited says whether predecessors wait for tokens, so that another mark is needed.
func (l *leader) awaited() bool {
	for _, e := range l.entries {
		if len(e.early) > 0 {
			return true
		}
	}
	return false
}

// tick forgets tokens that are held no longer. It returns true if there were some: then another
// instance leads, or the queue was deleted.
func (l *leader) tick(now time.Time) (lost bool) {
	for name, e := range l.entries {
		if elapsed(e.kept, now, overdue/6) && !e.alive(now) {
			e.stop()
			delete(l.entries, name)
			lost = true
		}
	}
	if lost {
		l.complete, l.probing, l.ready = false, 0, nil
		clear(l.spent)
	}
	return lost
}

// forget is for the end of consuming.
func (l *leader) forget() {
	for _, e := range l.entries {
		e.stop()
	}
	clear(l.entries)
	clear(l.spent)
	l.complete, l.probing, l.ready = false, 0, nil
}
