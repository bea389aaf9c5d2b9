package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Invariant names a promise.
type Invariant string

// The promises.
const (
	// NoLoss: a confirmed message took effect, was parked, or lies in a queue.
	NoLoss Invariant = "NOLOSS"
	// NoPhantom: every message that is received or found was sent, with the same
	// body.
	NoPhantom Invariant = "NOPHANTOM"
	// HonestFail: a message whose send failed for certain is not received.
	HonestFail Invariant = "HONESTFAIL"
	// Account: the error queue has the messages that were meant to fail, and no
	// others.
	Account Invariant = "ACCOUNT"
	// Innocent: a message that no handler has begun is not in the error queue.
	Innocent Invariant = "INNOCENT"
	// Copies: one send makes at most MaxCopies copies.
	Copies Invariant = "COPIES"
	// DupMark: a duplicate has a reason that the guarantees name.
	DupMark Invariant = "DUPMARK"
	// Order: the first effects of the messages of a producer's key come in the
	// order of sending.
	Order Invariant = "ORDER"
	// Retry: no more attempts than configured, and no sooner.
	Retry Invariant = "RETRY"
	// Txn: a discarded message was never sent.
	Txn Invariant = "TXN"
	// Cancel: a message that was cancelled for certain is not received.
	Cancel Invariant = "CANCEL"
	// Timer: nothing takes effect before it is due, nor too late.
	Timer Invariant = "TIMER"
	// Bound: no call outlives its deadline by more than a second.
	Bound Invariant = "BOUND"
	// Liveness: soon after the last fault as much is confirmed as before the first.
	Liveness Invariant = "LIVENESS"
	// Isolation: a fault of others does not affect a bystander's messages.
	Isolation Invariant = "ISOLATION"
	// Leak: nothing is left when all is stopped.
	Leak Invariant = "LEAK"
)

// Expect is what a run was meant to do.
type Expect struct {
	// Fails reports whether a message was meant to end in the error queue. Nil
	// means none was.
	Fails func(id string) bool
	// Ordered checks Order; only for runs without failures and one worker.
	Ordered bool
	// MaxAttempts is the most attempts of one publication; 0 is not checked.
	MaxAttempts int
	// Innocent checks Innocent; not for runs with messages that no handler may see.
	Innocent bool
	// MaxCopies is the most copies of one message; 0 is not checked.
	MaxCopies int
	// Late is by how much a deferred message may be late; 0 is not checked.
	Late time.Duration
	// Slack is by how much clocks may differ for Timer and Retry.
	Slack time.Duration
	// Recovered checks Liveness; the run must go on sending at its rate for longer
	// than 15 s after the last fault, or as long as it takes.
	Recovered bool
	// Bystander is the key of messages that have nothing to do with the faults;
	// empty means there are none.
	Bystander string
}

// Violation is one broken promise.
type Violation struct {
	Invariant Invariant
	ID        string
	Text      string
	History   []Event
}

// String is the violation with the message's history, a line an event.
func (v Violation) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s: %s", v.Invariant, v.ID, v.Text)
	for _, e := range v.History {
		fmt.Fprintf(&s, "\n    %s %-12s %s attempt=%d redelivered=%t %s%s", e.T.Format("15:04:05.000000"), e.Op, e.Proc, e.Attempt, e.Redelivered, e.Queue, e.Err)
	}
	return s.String()
}

// Verdict is the result of a run.
type Verdict struct {
	Sent                  int   `json:"sent"`
	Confirmed             int   `json:"confirmed"`
	Handled               int   `json:"handled"`
	Parked                int   `json:"parked"`
	Duplicates            int   `json:"duplicates"`
	UnexplainedDuplicates int   `json:"unexplained_duplicates"`
	Lost                  int   `json:"lost"`
	LongestGapMS          int64 `json:"longest_gap_ms"`

	// Failed and Unknown are the sends that were not confirmed: see Counts.
	Failed  int `json:"-"`
	Unknown int `json:"-"`

	Violations []Violation `json:"-"`
}

// Broken returns the names of the promises that were broken.
func (v *Verdict) Broken() []Invariant {
	var names []Invariant
	for _, violation := range v.Violations {
		if !slices.Contains(names, violation.Invariant) {
			names = append(names, violation.Invariant)
		}
	}
	return names
}

// String is the verdict for people: the counts, then the first violations.
func (v *Verdict) String() string {
	const shown = 20
	var s strings.Builder
	fmt.Fprintf(&s, "sent %d, confirmed %d, handled %d, parked %d, duplicated %d (%d without explanation), lost %d, longest gap %v",
		v.Sent, v.Confirmed, v.Handled, v.Parked, v.Duplicates, v.UnexplainedDuplicates, v.Lost,
		time.Duration(v.LongestGapMS)*time.Millisecond)
	for i, violation := range v.Violations {
		if i == shown {
			fmt.Fprintf(&s, "\n… and %d more", len(v.Violations)-shown)
			break
		}
		s.WriteString("\n" + violation.String())
	}
	return s.String()
}

// Verdict compares what happened with what was promised.
func (b *Book) Verdict(want Expect) *Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := &Verdict{LongestGapMS: b.gap.Milliseconds()}
	var c Counts
	for _, id := range b.order {
		m := b.entries[id]
		c.add(m)
		if m.copies() > 1 && !b.explained(m) {
			v.UnexplainedDuplicates++
		}
		if m.lost() {
			v.Lost++
		}
		v.Violations = append(v.Violations, b.check(m, &want)...)
	}
	v.Failed, v.Unknown = c.Failed, c.Unknown
	v.Sent, v.Confirmed, v.Handled, v.Parked, v.Duplicates = c.Sent, c.Confirmed, c.Handled, c.Parked, c.Duplicates
	if want.Ordered {
		v.Violations = append(v.Violations, b.checkOrder()...)
	}
	v.Violations = append(v.Violations, b.checkRun(&want)...)
	return v
}

func (b *Book) check(m *entry, want *Expect) []Violation {
	var found []Violation
	broken := func(i Invariant, format string, args ...any) {
		found = append(found, Violation{Invariant: i, ID: m.id, Text: fmt.Sprintf(format, args...), History: m.events})
	}
	seen := len(m.received) > 0 || m.ended()
	if m.lost() {
		broken(NoLoss, "confirmed, but it is nowhere")
	}
	if seen && m.invoked == 0 {
		broken(NoPhantom, "received, but never sent")
	}
	if m.wrongSum {
		broken(NoPhantom, "the body changed on the way")
	}
	if m.failed && m.ok == 0 && !m.unknown && seen {
		broken(HonestFail, "its send failed for certain, but it was received")
	}
	if m.discard && m.ok == 0 && seen {
		broken(Txn, "discarded, but received")
	}
	if m.cancel && seen {
		broken(Cancel, "cancelled, but received")
	}
	if fails := want.Fails != nil && want.Fails(m.id); !fails && m.parked > 0 {
		broken(Account, "parked, but it was not meant to fail")
	} else if fails && m.ok > 0 && m.parked == 0 {
		broken(Account, "meant to fail, but not parked")
	}
	if want.Innocent && m.parked > 0 && len(m.received) == 0 {
		broken(Innocent, "parked, but no handler has begun it")
	}
	checkCopies(m, want, b.explained(m), broken)
	if m.overrun > time.Second {
		broken(Bound, "the call came back %v after its deadline", m.overrun)
	}
	checkAttempts(m, want, b.explained(m), broken)
	checkTimer(m, want, broken)
	return found
}

// checkCopies counts the copies of a message.
func checkCopies(m *entry, want *Expect, explained bool, broken func(Invariant, string, ...any)) {
	n := m.copies()
	if want.MaxCopies > 0 && n > want.MaxCopies {
		broken(Copies, "%d copies, at most %d are allowed", n, want.MaxCopies)
	}
	if n > 1 && !explained {
		broken(DupMark, "%d copies without a reason", n)
	}
}

// checkAttempts counts the failures of a message too, unless it is excused for
// failing more often because it was delivered or sent more often.
func checkAttempts(m *entry, want *Expect, excused bool, broken func(Invariant, string, ...any)) {
	most := 0
	for _, e := range m.received {
		most = max(most, e.Attempt)
	}
	if !excused {
		most = max(most, len(m.fails))
	}
	if want.MaxAttempts > 0 && most > want.MaxAttempts {
		broken(Retry, "%d attempts, at most %d are allowed", most, want.MaxAttempts)
	}
	// A duplicated copy has its own course: each attempt needs some failure of
	// the attempt before it that lies far enough back.
	for _, again := range m.received {
		before := slices.IndexFunc(m.fails, func(f Event) bool { return f.Attempt == again.Attempt-1 })
		if before >= 0 && again.T.Before(m.fails[before].T.Add(m.fails[before].Pause-want.Slack)) {
			broken(Retry, "attempt %d came %v after the failure, sooner than %v", again.Attempt, again.T.Sub(m.fails[before].T), m.fails[before].Pause)
		}
	}
}

func checkTimer(m *entry, want *Expect, broken func(Invariant, string, ...any)) {
	if m.due.IsZero() || len(m.received) == 0 {
		return
	}
	first := m.received[0].T
	if first.Before(m.due.Add(-want.Slack)) {
		broken(Timer, "received %v before it was due", m.due.Sub(first))
	}
	if want.Late > 0 && first.After(m.due.Add(want.Late)) {
		broken(Timer, "received %v after it was due, more than %v", first.Sub(m.due), want.Late)
	}
}

// checkOrder compares first effects with the order of sending.
func (b *Book) checkOrder() []Violation {
	type taken struct {
		at  time.Time
		seq int
		m   *entry
	}
	byKey := map[string][]taken{}
	for _, m := range b.entries {
		if m.key != "" && len(m.effects) > 0 {
			byKey[m.key] = append(byKey[m.key], taken{m.effects[0].T, m.seq, m})
		}
	}
	var found []Violation
	for key, effects := range byKey {
		slices.SortFunc(effects, func(a, b taken) int { return a.at.Compare(b.at) })
		for i := 1; i < len(effects); i++ {
			if effects[i].seq < effects[i-1].seq {
				found = append(found, Violation{
					Invariant: Order, ID: effects[i].m.id, History: effects[i].m.events,
					Text: fmt.Sprintf("number %d of %q took effect after number %d", effects[i].seq, key, effects[i-1].seq),
				})
			}
		}
	}
	return found
}
