// Package lanes decides what is done next with the messages of an ordered queue. Those of one key are
// in a lane: one of them is handled at a time, in their order, and while one waits in the parking
// queue, those behind it go there, too. The package knows no broker and has no clock of its own: it is
// told what has come and what has become of it, and is not for concurrent use.
package lanes

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Message is a message that this process has and that is not acknowledged.
type Message struct {
	// Key is that of the message. Without one it has no order.
	Key, ID string
	// Count is how often the broker has delivered it before, and Again says that it may have.
	Count int64
	Again bool
	// Parked says that it has come from the parking queue, where it has this Place.
	Parked bool
	Place
	// Route is how a router has sent it into a partition; zero elsewhere.
	Route Route
	// Of is what the user of this package knows of it.
	Of any

	lane    *lane
	trouble int // how often it could not be stored
}

// Step is what is to be done with a message.
type Step int8

// The steps. Each ends with [Lanes.Done].
const (
	// Handle hands it to its handler.
	Handle Step = iota + 1
	// Try is Handle, after a note that says so: perhaps it ends the process.
	Try
	// Follow stores it in the parking queue, behind one of its key.
	Follow
	// Contain stores it there, held, because it has ended the process again and again.
	Contain
)

const (
	// alone is after how many deliveries a message is handled while nothing else is.
	alone = 2
	// noted is after how many deliveries a note is left before a message is handled.
	noted = 3
	// guilty is how many notes of tenures that have ended say that it ends the process.
	guilty = 2
	// gap is between the latest number and that of a message that somebody has put into the parking queue: the owner
	// before this one may still use the numbers after the latest one.
	gap = 1 << 20
	// longestPause is how long a message waits at most that could not be stored.
	longestPause = 30 * time.Second
)

// Lanes are those of one tenure: of the time for which this process alone has the queue.
type Lanes struct {
	owner string
	limit int // from so many parked messages on, none follows

	keys    map[string]*lane
	ready   []*lane // in which something can perhaps be done
	waiting []wait  // in which something can be done later, by time
	stalled []*lane // in which a message waits until fewer are parked
	running int     // messages in a handler
	alone   bool    // the only one of these is to be alone
	parked  int
	last    int64 // the highest number so far
	// finished are the copies of messages that are done with, the latest ones. A copy can come twice.
	finished map[place]int64
	oldest   []place
	// loaded are the ids of the messages that other tenures have parked. Perhaps they are also in the queue.
	loaded map[string]bool
	// repeated are keys of which messages were taken that other tenures had, and had not parked: perhaps they have handled them.
	repeated map[string]bool
	routed   routed
	trials   map[string]int // notes of other tenures
	late     bool           // what others send now was sent when they were no owners any more
}

// lane are the messages of a key.
type lane struct {
	key              string
	queue            []*Message      // in the order of the queue
	parked           []*Message      // by their numbers
	coming           map[int64]int64 // copies that are stored in the parking queue and have not come from there
	handling, moving *Message
	counted          int  // as parked
	listed           bool // in ready

	// router is the fencing number of the router that has sent messages again, and last what it has sent last, or what was here of that.
	router int64
	last   *Message
}

// place is one of a key: a stranger can give two keys the same number.
type place struct {
	key    string
	number int64
}

type wait struct {
	until time.Time
	lane  *lane
}

// New makes the lanes of a tenure.
func New(owner string, limit int) *Lanes {
	return &Lanes{owner: owner, limit: limit, keys: map[string]*lane{}, finished: map[place]int64{}, loaded: map[string]bool{}, repeated: map[string]bool{}, trials: map[string]int{}}
}

func (l *Lanes) of(key string) *lane {
	if key == "" {
		return &lane{}
	}
	found := l.keys[key]
	if found == nil {
		found = &lane{key: key}
		l.keys[key] = found
	}
	return found
}

// list notes that something can perhaps be done in a lane.
func (l *Lanes) list(of *lane) {
	if !of.listed {
		of.listed = true
		l.ready = append(l.ready, of)
	}
}

// Arrive takes a message from the queue, in its order. False means that it is in the parking queue
// already, or a copy that is too late: it is to be acknowledged, and that is all. Behind one that is perhaps repeated all others of its key are, too:
// else it would be the last one, with what is new long before it.
func (l *Lanes) Arrive(m *Message) bool {
	if m.Again && m.Key != "" && l.loaded[m.ID] && !l.repeated[m.Key] {
		return false
	}
	if m.Key != "" && l.routed.late(m) {
		return false
	}
	m.lane = l.of(m.Key)
	if m.Key != "" && m.Route.Again && m.lane.sent(m) {
		return false
	}
	if m.Again && m.Key != "" {
		l.repeated[m.Key] = true
	}
	m.lane.queue = append(m.lane.queue, m)
	l.list(m.lane)
	return true
}

// Park takes a message from the parking queue. It returns the one that is to be acknowledged, and that
// is all: this one or an earlier copy of it; nil if there is none.
func (l *Lanes) Park(m *Message) (spare *Message) {
	foreign := m.Owner != l.owner
	if foreign && l.late {
		return m // its original is here or in the queue
	}
	if foreign {
		l.loaded[m.ID] = true
	}
	if m.Number == 0 || m.Key == "" || !foreign && m.Number > l.last { // none of ours
		l.last += gap
		m.Number, m.Copy = l.last, 0
	}
	if m.Key == "" {
		m.Held = false // nobody could release it
	}
	l.last = max(l.last, m.Number)
	of := l.of(m.Key)
	if copied, ok := of.coming[m.Number]; ok && copied <= m.Copy {
		delete(of.coming, m.Number)
	}
	if l.obsolete(of, m) {
		l.count(of)
		l.list(of)
		return m
	}
	for i, other := range of.parked {
		if other.Number == m.Number && other != of.handling {
			spare, of.parked = other, slices.Delete(of.parked, i, i+1)
			break
		}
	}
	m.lane = of
	at, _ := slices.BinarySearchFunc(of.parked, m.Number, func(o *Message, n int64) int { return cmp.Compare(o.Number, n) })
	for at < len(of.parked) && of.parked[at].Number == m.Number {
		at++
	}
	of.parked = slices.Insert(of.parked, at, m)
	l.count(of)
	l.list(of)
	return spare
}

// obsolete says whether there is, or was, the same copy or a later one.
func (l *Lanes) obsolete(of *lane, m *Message) bool {
	if _, later := of.coming[m.Number]; later || l.over(of, m.Number, m.Copy) {
		return true
	}
	return slices.ContainsFunc(of.parked, func(o *Message) bool { return o.Number == m.Number && o.Copy >= m.Copy })
}

// over says whether a copy, or a later one, is done with.
func (l *Lanes) over(of *lane, number, copied int64) bool {
	latest, ok := l.finished[place{of.key, number}]
	return ok && latest >= copied
}

// Settled says that from now on nothing of other tenures counts that comes from the parking queue.
func (l *Lanes) Settled() { l.late = true }

// Suspect takes a note of another tenure: it was about to handle the message of this id.
func (l *Lanes) Suspect(id string) { l.trials[id]++ }

// Suspected says whether there are notes about a message.
func (l *Lanes) Suspected(m *Message) bool { return l.trials[m.ID] > 0 }

// Acquit forgets the notes about a message.
func (l *Lanes) Acquit(id string) { delete(l.trials, id) }

// Has says whether a message with this id is here.
func (l *Lanes) Has(id string) bool {
	for _, of := range l.keys {
		if of.behind(nil, id) != nil {
			return true
		}
	}
	return false
}

// sent says whether a router that has died had sent a message into the lane, where it still is: behind the one that its successor has sent
// before.
func (of *lane) sent(m *Message) bool {
	if of.router != m.Route.Fence {
		of.router, of.last = m.Route.Fence, nil
	}
	found := of.behind(of.last, m.ID)
	of.last = cmp.Or(found, m)
	return found != nil
}

// behind is the first message with an id behind another one; nil if there is none. All are behind nil, and behind one that is done with.
func (of *lane) behind(other *Message, id string) *Message {
	at := slices.Index(of.queue, other)
	for _, m := range of.parked { // which are before those of the queue
		if m.ID == id && (other == nil || at < 0 && m.Number > other.Number) {
			return m
		}
	}
	for _, m := range of.queue[at+1:] {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// Next is what is to be done now; nil if there is nothing.
func (l *Lanes) Next(now time.Time) (*Message, Step) {
	for len(l.waiting) > 0 && !l.waiting[0].until.After(now) {
		l.list(l.waiting[0].lane)
		l.waiting = l.waiting[1:]
	}
	for len(l.ready) > 0 {
		of := l.ready[0]
		m, step := l.step(of, now)
		if m != nil && !l.admits(m, step) {
			return nil, 0
		}
		l.ready[0], l.ready = nil, l.ready[1:]
		of.listed = false
		if m != nil {
			l.begin(of, m, step)
			l.list(of)
			return m, step
		}
		l.drop(of)
	}
	return nil, 0
}

// step is what can be done in a lane.
func (l *Lanes) step(of *lane, now time.Time) (*Message, Step) {
	blocked := len(of.parked)+len(of.coming) > 0
	if of.handling == nil {
		if first := of.first(blocked); first != nil && !first.Held {
			if !first.Due.After(now) {
				return first, l.handle(first)
			}
			l.wait(of, first.Due)
		}
	}
	if !blocked || of.moving != nil || len(of.queue) == 0 || of.queue[0] == of.handling {
		return nil, 0
	}
	next := of.queue[0]
	switch {
	case next.Due.After(now):
		l.wait(of, next.Due)
	case l.parked >= l.limit:
		l.stalled = append(l.stalled, of)
	default:
		return next, Follow
	}
	return nil, 0
}

// first is the message to be handled next; nil if there is none, or one before it has not come yet.
func (of *lane) first(blocked bool) *Message {
	switch {
	case !blocked && len(of.queue) > 0 && of.moving == nil:
		return of.queue[0]
	case !blocked || len(of.parked) == 0:
		return nil
	}
	first := of.parked[0]
	for number := range of.coming {
		if number <= first.Number {
			return nil
		}
	}
	return first
}

// handle says how a message is handled.
func (l *Lanes) handle(m *Message) Step {
	switch {
	case l.trials[m.ID] >= guilty:
		return Contain
	case m.Count >= noted:
		return Try
	}
	return Handle
}

// admits says whether a step can be taken beside what is being done.
func (l *Lanes) admits(m *Message, step Step) bool {
	if step != Handle && step != Try {
		return true
	}
	return !l.alone && (l.running == 0 || !l.suspicious(m))
}

// suspicious says whether a message is handled alone. The counts of those in the parking queue rise
// with each stop, so they say little.
func (l *Lanes) suspicious(m *Message) bool {
	return !m.Parked && m.Count >= alone || l.Suspected(m)
}

func (l *Lanes) begin(of *lane, m *Message, step Step) {
	if step == Follow {
		of.moving = m
		return
	}
	of.handling = m
	if step != Contain {
		l.running++
		l.alone = l.suspicious(m)
	}
}

// NewPlace is where the message is to be stored in the parking queue: behind all others, or in the place that
// it has there.
func (l *Lanes) NewPlace(m *Message) Place {
	if m.Number == 0 {
		m.Number = l.number()
	}
	p := Place{Number: m.Number, Owner: l.owner}
	if m.Parked {
		p.Copy = m.Copy + 1
	}
	return p
}

func (l *Lanes) number() int64 {
	l.last++
	return l.last
}

// Done says what has become of a message: it is acknowledged, after a copy was stored in the parking queue if
// moved is not nil; or it is not, and the step is to be taken again.
func (l *Lanes) Done(m *Message, step Step, acked bool, moved *Place, now time.Time) {
	of := m.lane
	if step == Follow {
		of.moving = nil
	} else {
		l.leave(of, m, step)
	}
	switch {
	case !acked:
		m.trouble++
		m.Due = now.Add(min(time.Second<<min(m.trouble-1, 10), longestPause))
	default:
		of.remove(m)
		switch {
		case m.Number != 0 && moved == nil:
			l.finish(of, m.Number, math.MaxInt64) // also a copy of which it was not known whether it is stored
		case m.Parked:
			l.finish(of, m.Number, m.Copy)
		}
		if moved != nil && !of.has(moved) && !l.over(of, moved.Number, moved.Copy) {
			if of.coming == nil {
				of.coming = map[int64]int64{}
			}
			of.coming[moved.Number] = moved.Copy
		}
	}
	l.count(of)
	l.list(of)
}

func (l *Lanes) leave(of *lane, m *Message, step Step) {
	if of.handling != m {
		return
	}
	of.handling = nil
	if step != Contain {
		l.running--
		l.alone = false
	}
}

// Keep says that the handler keeps the message without handling it, and Resume that it is to be handled again.
func (l *Lanes) Keep() {
	l.running--
	l.alone = false
}

// Resume says that a message that was kept is to be handled again.
func (l *Lanes) Resume(m *Message) {
	m.lane.handling = nil
	l.list(m.lane)
}

// Held is the message that holds a key; nil if none does.
func (l *Lanes) Held(key string) *Message {
	of := l.keys[key]
	if of == nil || len(of.parked) == 0 || !of.parked[0].Held {
		return nil
	}
	return of.parked[0]
}

// Release has a message that holds its key handled again: with a note, because perhaps it ends the process.
func (l *Lanes) Release(m *Message) {
	m.Held, m.Due, m.Count = false, time.Time{}, noted
	delete(l.trials, m.ID)
	l.list(m.lane)
}

// Discard forgets a message that holds its key, and that is to be acknowledged.
func (l *Lanes) Discard(m *Message) { l.Done(m, Handle, true, nil, time.Time{}) }

// When is when something can be done that cannot be done now; zero if that is not known.
func (l *Lanes) When() time.Time {
	if len(l.waiting) == 0 {
		return time.Time{}
	}
	return l.waiting[0].until
}

// Parked is how many messages are in the parking queue, and full says that no other follows.
func (l *Lanes) Parked() (n int, full bool) { return l.parked, l.parked >= l.limit }

// Key is a key whose messages are in the parking queue.
type Key struct {
	Key     string
	Waiting int // messages
	First   *Message
}

// Keys are those whose messages are in the parking queue, in their order.
func (l *Lanes) Keys() (all []Key) {
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		if of := l.keys[key]; len(of.parked) > 0 {
			all = append(all, Key{key, len(of.parked) + len(of.coming), of.parked[0]})
		}
	}
	return all
}

func (l *Lanes) wait(of *lane, until time.Time) {
	at, _ := slices.BinarySearchFunc(l.waiting, until, func(w wait, t time.Time) int { return w.until.Compare(t) })
	if at < len(l.waiting) && l.waiting[at] == (wait{until, of}) {
		return
	}
	l.waiting = slices.Insert(l.waiting, at, wait{until, of})
}

// finish notes that a copy is done with.
func (l *Lanes) finish(of *lane, number, copied int64) {
	const most = 4096
	at := place{of.key, number}
	if _, known := l.finished[at]; !known {
		l.oldest = append(l.oldest, at)
	}
	l.finished[at] = max(copied, l.finished[at])
	if len(l.oldest) > most {
		delete(l.finished, l.oldest[0])
		l.oldest = l.oldest[1:]
	}
}

// count brings the number of parked messages up to date, and lets those follow for which there is room now.
func (l *Lanes) count(of *lane) {
	l.parked += len(of.parked) + len(of.coming) - of.counted
	of.counted = len(of.parked) + len(of.coming)
	if l.parked < l.limit {
		for _, one := range l.stalled {
			l.list(one)
		}
		l.stalled = nil
	}
}

// drop forgets a lane without messages.
func (l *Lanes) drop(of *lane) {
	if len(of.queue)+len(of.parked)+len(of.coming) == 0 && of.handling == nil && of.moving == nil && l.keys[of.key] == of {
		delete(l.keys, of.key)
	}
}

func (of *lane) remove(m *Message) {
	from := &of.queue
	if m.Parked {
		from = &of.parked
	}
	if i := slices.Index(*from, m); i >= 0 {
		*from = slices.Delete(*from, i, i+1)
	}
}

// has says whether a copy that was stored has come.
func (of *lane) has(p *Place) bool {
	return slices.ContainsFunc(of.parked, func(o *Message) bool { return o.Number == p.Number && o.Copy >= p.Copy })
}
