package ledger_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/harebus/harebus/internal/ledger"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(ms int, e ledger.Event) ledger.Event {
	e.T = start.Add(time.Duration(ms) * time.Millisecond)
	return e
}

func sent(id string, events ...ledger.Event) []ledger.Event {
	return append([]ledger.Event{
		at(0, ledger.Event{Op: ledger.SendInvoke, ID: id, Sum: "s"}),
		at(1, ledger.Event{Op: ledger.SendOK, ID: id}),
	}, events...)
}

// outage is two seconds of messages, every ms, nothing during a fault, and then
// two seconds of messages at another pace.
func outage(every, fault, then int) []ledger.Event {
	var events []ledger.Event
	send := func(ms int) {
		id := fmt.Sprint(ms)
		events = append(events, at(ms, ledger.Event{Op: ledger.SendInvoke, ID: id, Key: "k", Seq: ms}),
			at(ms+1, ledger.Event{Op: ledger.SendOK, ID: id}), at(ms+2, ledger.Event{Op: ledger.Effect, ID: id}))
	}
	const calm = 2000
	for ms := 0; ms < calm; ms += every {
		send(ms)
	}
	events = append(events, at(calm, ledger.Event{Op: ledger.FaultBegin, Err: "outage"}), at(calm+fault, ledger.Event{Op: ledger.FaultEnd, Err: "outage"}))
	if then == 0 {
		return events
	}
	for ms := calm + fault; ms < 2*calm+fault; ms += then {
		send(ms)
	}
	return events
}

// Each history breaks the promises named and no others: the checker is what all
// other proofs rest on.
func TestVerdictNamesTheBrokenPromise(t *testing.T) {
	t.Parallel()
	failing := func(id string) bool { return id == "bad" }
	copied := ledger.Event{Op: ledger.Copied, ID: "a"}
	again := ledger.Event{Op: ledger.Copied, ID: "a", Redelivered: true}
	tests := map[string]struct {
		events []ledger.Event
		want   ledger.Expect
		broken []ledger.Invariant
	}{
		"handled once":          {events: sent("a", at(2, ledger.Event{Op: ledger.Recv, ID: "a", Attempt: 1, Sum: "s"}), at(3, ledger.Event{Op: ledger.Effect, ID: "a"}))},
		"still in a queue":      {events: sent("a", at(2, ledger.Event{Op: ledger.Drained, ID: "a", Sum: "s"}))},
		"confirmed and nowhere": {events: sent("a"), broken: []ledger.Invariant{ledger.NoLoss}},
		"received but not handled": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Recv, ID: "a"})), broken: []ledger.Invariant{ledger.NoLoss},
		},
		"unknown and nowhere": {events: []ledger.Event{
			at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a"}), at(1, ledger.Event{Op: ledger.SendUnknown, ID: "a"}),
		}},
		"never sent": {
			events: []ledger.Event{at(2, ledger.Event{Op: ledger.Effect, ID: "ghost"})}, broken: []ledger.Invariant{ledger.NoPhantom},
		},
		"parked, and no handler has begun it": {
			events: sent("bad", at(2, ledger.Event{Op: ledger.Parked, ID: "bad"})),
			want:   ledger.Expect{Fails: failing, Innocent: true}, broken: []ledger.Invariant{ledger.Innocent},
		},
		"parked after an attempt": {
			events: sent("bad", at(2, ledger.Event{Op: ledger.Recv, ID: "bad", Attempt: 1}), at(3, ledger.Event{Op: ledger.Parked, ID: "bad"})),
			want:   ledger.Expect{Fails: failing, Innocent: true},
		},
		"more copies than a nack may make": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a"}), at(1, ledger.Event{Op: ledger.SendUnknown, ID: "a"}),
				at(2, ledger.Event{Op: ledger.Effect, ID: "a"}), at(3, ledger.Event{Op: ledger.Effect, ID: "a"}), at(4, ledger.Event{Op: ledger.Drained, ID: "a"}),
			},
			want: ledger.Expect{MaxCopies: 2}, broken: []ledger.Invariant{ledger.Copies},
		},
		"body changed": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Recv, ID: "a", Sum: "other"}), at(3, ledger.Event{Op: ledger.Effect, ID: "a"})),
			broken: []ledger.Invariant{ledger.NoPhantom},
		},
		"failed for certain but received": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a"}), at(1, ledger.Event{Op: ledger.SendFail, ID: "a"}),
				at(2, ledger.Event{Op: ledger.Effect, ID: "a"}),
			}, broken: []ledger.Invariant{ledger.HonestFail},
		},
		"discarded but received": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a"}), at(1, ledger.Event{Op: ledger.Discard, ID: "a"}),
				at(2, ledger.Event{Op: ledger.Effect, ID: "a"}),
			}, broken: []ledger.Invariant{ledger.Txn},
		},
		"parked without a reason": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Parked, ID: "a", Sum: "s"})),
			want:   ledger.Expect{Fails: failing}, broken: []ledger.Invariant{ledger.Account},
		},
		"parked as meant": {
			events: sent("bad", at(2, ledger.Event{Op: ledger.Parked, ID: "bad", Sum: "s"})), want: ledger.Expect{Fails: failing},
		},
		"handled though meant to fail": {
			events: sent("bad", at(2, ledger.Event{Op: ledger.Effect, ID: "bad"})),
			want:   ledger.Expect{Fails: failing}, broken: []ledger.Invariant{ledger.Account},
		},
		"twice without a reason": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Effect, ID: "a"}), at(3, ledger.Event{Op: ledger.Effect, ID: "a"})),
			broken: []ledger.Invariant{ledger.DupMark},
		},
		"twice after a redelivery": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Effect, ID: "a"}),
				at(3, ledger.Event{Op: ledger.Recv, ID: "a", Redelivered: true, Sum: "s"}), at(4, ledger.Event{Op: ledger.Effect, ID: "a"})),
		},
		"twice, copied before and after the acknowledgement was lost": {
			events: sent("a", at(2, copied), at(3, again), at(4, ledger.Event{Op: ledger.Effect, ID: "a"}), at(5, ledger.Event{Op: ledger.Effect, ID: "a"})),
		},
		"twice, copied once": {
			events: sent("a", at(2, copied), at(3, ledger.Event{Op: ledger.Effect, ID: "a"}), at(4, ledger.Event{Op: ledger.Effect, ID: "a"})),
			broken: []ledger.Invariant{ledger.DupMark},
		},
		"twice, copied twice without a redelivery": {
			events: sent("a", at(2, copied), at(3, copied), at(4, ledger.Event{Op: ledger.Effect, ID: "a"}), at(5, ledger.Event{Op: ledger.Effect, ID: "a"})),
			broken: []ledger.Invariant{ledger.DupMark},
		},
		"twice, and the redelivery was copied for the first time": {
			events: sent("a", at(2, again), at(3, ledger.Event{Op: ledger.Effect, ID: "a"}), at(4, ledger.Event{Op: ledger.Effect, ID: "a"})),
			broken: []ledger.Invariant{ledger.DupMark},
		},
		"three times, and one redelivery was copied again": {
			events: sent("a", at(2, copied), at(3, again), at(4, ledger.Event{Op: ledger.Effect, ID: "a"}),
				at(5, ledger.Event{Op: ledger.Effect, ID: "a"}), at(6, ledger.Event{Op: ledger.Parked, ID: "a"})),
			want: ledger.Expect{Fails: func(string) bool { return true }}, broken: []ledger.Invariant{ledger.DupMark},
		},
		"more failures than attempts, and a redelivery was copied again": {
			events: sent("a", at(2, copied), at(3, again), at(4, ledger.Event{Op: ledger.Failed, ID: "a", Attempt: 1}),
				at(5, ledger.Event{Op: ledger.Failed, ID: "a", Attempt: 1}), at(6, ledger.Event{Op: ledger.Effect, ID: "a"})),
			want: ledger.Expect{MaxAttempts: 1},
		},
		"more failures than attempts, and nothing was copied again": {
			events: sent("a", at(2, copied), at(4, ledger.Event{Op: ledger.Failed, ID: "a", Attempt: 1}),
				at(5, ledger.Event{Op: ledger.Failed, ID: "a", Attempt: 1}), at(6, ledger.Event{Op: ledger.Effect, ID: "a"})),
			want: ledger.Expect{MaxAttempts: 1}, broken: []ledger.Invariant{ledger.Retry},
		},
		"twice around a crash": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Effect, ID: "a"}), at(3, ledger.Event{Op: ledger.Crash}), at(4, ledger.Event{Op: ledger.Effect, ID: "a"})),
		},
		"twice, the crash long before": {
			events: append([]ledger.Event{at(-50, ledger.Event{Op: ledger.Crash})},
				sent("a", at(2, ledger.Event{Op: ledger.Effect, ID: "a"}), at(4, ledger.Event{Op: ledger.Effect, ID: "a"}))...),
			broken: []ledger.Invariant{ledger.DupMark},
		},
		"too many attempts": {
			events: sent("bad", at(2, ledger.Event{Op: ledger.Recv, ID: "bad", Attempt: 7}), at(3, ledger.Event{Op: ledger.Parked, ID: "bad"})),
			want:   ledger.Expect{Fails: failing, MaxAttempts: 6}, broken: []ledger.Invariant{ledger.Retry},
		},
		"retried too soon": {
			events: sent("a", at(2, ledger.Event{Op: ledger.Failed, ID: "a", Attempt: 1, Pause: time.Second}),
				at(500, ledger.Event{Op: ledger.Recv, ID: "a", Attempt: 2}), at(501, ledger.Event{Op: ledger.Effect, ID: "a"})),
			broken: []ledger.Invariant{ledger.Retry},
		},
		"early": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a", Due: start.Add(time.Second)}), at(1, ledger.Event{Op: ledger.SendOK, ID: "a"}),
				at(900, ledger.Event{Op: ledger.Recv, ID: "a"}), at(901, ledger.Event{Op: ledger.Effect, ID: "a"}),
			}, broken: []ledger.Invariant{ledger.Timer},
		},
		"late": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a", Due: start.Add(time.Second)}), at(1, ledger.Event{Op: ledger.SendOK, ID: "a"}),
				at(3000, ledger.Event{Op: ledger.Recv, ID: "a"}), at(3001, ledger.Event{Op: ledger.Effect, ID: "a"}),
			}, want: ledger.Expect{Late: time.Second}, broken: []ledger.Invariant{ledger.Timer},
		},
		"overtaken": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "1", Key: "k", Seq: 1}), at(0, ledger.Event{Op: ledger.SendInvoke, ID: "2", Key: "k", Seq: 2}),
				at(1, ledger.Event{Op: ledger.Effect, ID: "2"}), at(2, ledger.Event{Op: ledger.Effect, ID: "1"}),
			}, want: ledger.Expect{Ordered: true}, broken: []ledger.Invariant{ledger.Order},
		},
		"a call that outlives its deadline": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a", Deadline: start.Add(time.Second)}), at(2100, ledger.Event{Op: ledger.SendFail, ID: "a"}),
			}, broken: []ledger.Invariant{ledger.Bound},
		},
		"a call that keeps its deadline": {
			events: []ledger.Event{
				at(0, ledger.Event{Op: ledger.SendInvoke, ID: "a", Deadline: start.Add(time.Second)}), at(1900, ledger.Event{Op: ledger.SendFail, ID: "a"}),
			},
		},
		"as fast as before the fault":    {events: outage(100, 3000, 100), want: ledger.Expect{Recovered: true}},
		"half as fast as before":         {events: outage(100, 3000, 200), want: ledger.Expect{Recovered: true}, broken: []ledger.Invariant{ledger.Liveness}},
		"nothing confirmed after faults": {events: outage(100, 3000, 0), want: ledger.Expect{Recovered: true}, broken: []ledger.Invariant{ledger.Liveness}},
		"recovery without a fault": {
			events: sent("a", at(3, ledger.Event{Op: ledger.Effect, ID: "a"})),
			want:   ledger.Expect{Recovered: true}, broken: []ledger.Invariant{ledger.Liveness},
		},
		"a bystander served all the time": {events: outage(100, 900, 100), want: ledger.Expect{Bystander: "k"}},
		"a bystander kept waiting":        {events: outage(100, 3000, 100), want: ledger.Expect{Bystander: "k"}, broken: []ledger.Invariant{ledger.Isolation}},
		"a bystander's send failed": {
			events: append(outage(100, 900, 100), at(9000, ledger.Event{Op: ledger.SendInvoke, ID: "z", Key: "k"}), at(9001, ledger.Event{Op: ledger.SendFail, ID: "z"})),
			want:   ledger.Expect{Bystander: "k"}, broken: []ledger.Invariant{ledger.Isolation},
		},
		"a bystander who never came": {
			events: sent("a", at(3, ledger.Event{Op: ledger.Effect, ID: "a"})),
			want:   ledger.Expect{Bystander: "k"}, broken: []ledger.Invariant{ledger.Isolation},
		},
		"something left": {
			events: []ledger.Event{at(0, ledger.Event{Op: ledger.Left, Err: "a connection"})}, broken: []ledger.Invariant{ledger.Leak},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			book := ledger.NewBook()
			for _, e := range test.events {
				book.Record(e)
			}
			verdict := book.Verdict(test.want)
			if got := verdict.Broken(); !slices.Equal(got, test.broken) {
				t.Errorf("broken promises: %v, want %v\n%v", got, test.broken, verdict)
			}
		})
	}
}

func TestRecorderSurvivesACutLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	r, err := ledger.NewRecorder(path, "p")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range sent("a") {
		if err := r.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"op":"eff`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	book := ledger.NewBook()
	if err := book.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if v := book.Verdict(ledger.Expect{}); v.Sent != 1 || v.Confirmed != 1 || v.Lost != 1 {
		t.Errorf("verdict %v", v)
	}
	if pending := book.Pending(1); !slices.Equal(pending, []string{"a"}) {
		t.Errorf("pending %v", pending)
	}
}
