package proof_test

import (
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

var mutations = flag.Bool("mutations", false, "check that the simulation notices when the library is broken on purpose")

// mutants are ways to get it wrong, most of them seen in the wild; the simulation
// must fail, naming the promise.
var mutants = []mutant.Mutant{
	{
		Name: "acknowledge before handling", File: "internal/consume/worker.go",
		Old:    "\t\tc.heed(d)\n\t\ttask.Handle()\n",
		New:    "\t\tc.heed(d)\n\t\td.Ack()\n\t\ttask.Handle()\n",
		Breaks: "NOLOSS",
	},
	{
		Name: "ignore returns", File: "internal/session/confirm.go",
		Old: "if c.wasReturned(f.key) {", New: "if c.wasReturned(f.key) && false {",
		Breaks: "NOLOSS",
	},
	{
		Name: "do not wait for confirms", File: "internal/session/confirm.go",
		Old:    "\tselect {\n\tcase <-f.confirm.Done():\n\t\treturn c.resolve(f)\n\tdefault:\n\t}\n",
		New:    "\tif c.session.Spawn(func() { <-f.confirm.Done(); c.resolve(f) }) {\n\t\treturn Result{Verdict: Confirmed}\n\t}\n",
		Breaks: "NOLOSS",
	},
	{
		Name: "take an unknown outcome for a failure", File: "internal/session/confirm.go",
		Old: "return Result{Verdict: Unknown, Err: err, Raised:", New: "return Result{Verdict: NotSent, Final: true, Err: err, Raised:",
		Breaks: "HONESTFAIL",
	},
	{
		Name: "send again under a new id", File: "internal/publish/publisher.go",
		Old: "\tvar together []*Message\n", New: "\tfor _, i := range left {\n\t\tm := &outs[i].Publishing\n\t\tm.MessageId += \"-again\"\n\t\tm.Headers[\"PikaBus.MessageId\"] = m.MessageId\n\t}\n\tvar together []*Message\n",
		Breaks: "NOPHANTOM",
	},
	{
		Name: "acknowledge on the next connection", File: "internal/consume/delivery.go",
		Old: "\td.feed.acks.Done(d.Raw.DeliveryTag)\n", New: "\td.consumer.mu.Lock()\n\tif next := d.consumer.feed; next != nil {\n\t\td.feed = next\n\t}\n\td.consumer.mu.Unlock()\n\td.feed.acks.Done(d.Raw.DeliveryTag)\n",
		Breaks: "NOLOSS",
	},
	{
		Name: "forget the number of failures", File: "internal/resend/copy.go",
		Old: "field.SmallestInt(c.Failures + 1)", New: "field.SmallestInt(1)",
		Breaks: "RETRY",
	},
	{
		Name: "copy the broker's headers", File: "internal/resend/copy.go",
		Old: "return header.OfBroker(key) })", New: "return header.OfBroker(key) && false })",
		Breaks: "NOLOSS",
	},
	{
		Name: "keep a channel that nacks", File: "internal/session/confirm.go",
		Old: "\tc.Retire()\n\treturn Result{Verdict: Nacked}", New: "\treturn Result{Verdict: Nacked}",
		Breaks: "LIVENESS",
	},
	{
		Name: "do not cut error details", File: "internal/header/fit.go",
		Old:    "const MaxErrorDetails = 8 << 10\n\n// shorten cuts valid UTF-8 to at most so many bytes, and says so.\nfunc shorten(text string, most int) string {\n\tif len(text) <= most {\n",
		New:    "const MaxErrorDetails = 8 << 20\n\nfunc shorten(text string, most int) string {\n\tif true {\n",
		Breaks: "ACCOUNT",
	},
	{
		Name: "postpone a message twice", File: "internal/resend/resend.go",
		Old: "\t\terr = publisher.Publish(ctx, out)\n\t\tif err == nil ||", New: "\t\terr = publisher.Publish(ctx, out)\n\t\tif err == nil && purpose == Postpone && c.FirstFailed.IsZero() {\n\t\t\terr = publisher.Publish(ctx, out)\n\t\t}\n\t\tif err == nil ||",
		Breaks: "DUPMARK",
	},
	{
		Name: "retry without a pause", File: "internal/resend/resend.go",
		Old: "due := time.Now().Add(after)", New: "due := time.Now().Add(after / 2)",
		Breaks: "RETRY",
	},
	{
		Name: "cancel at the gate of another message", File: "topology/ticket.go",
		Old: "Exchange: d.name(gateKeys[gateOf(id)]), Key:", New: "Exchange: d.name(gateKeys[gateOf(id+\"x\")]), Key:",
		Breaks: "CANCEL",
	},
	{
		Name: "cancel all messages of a gate", File: "topology/ticket.go",
		Old: "Key: Ticket{ID: id}.label(), Queue: d.name(cancelled)", New: "Key: d.dueLabel(\"\", \"proof\"), Queue: d.name(cancelled)",
		Breaks: "NOLOSS",
	},
	{
		Name: "retry in the queue of another endpoint", File: "receive.go",
		Old: "Queue: d.endpoint.copies, On:", New: "Queue: d.endpoint.setup.all()[0].copies, On:",
		Breaks: "NOPHANTOM",
	},
	{
		Name: "deliver deferred messages early", File: "bus.go",
		Old: "time.Now().Add(delay)", New: "time.Now().Add(delay / 2)",
		Breaks: "TIMER",
	},
	{
		Name: "publish what a transaction discards", File: "internal/buffer/buffer.go",
		Old: "\touts := s.outs\n\ts.outs = nil\n", New: "\touts := s.outs\n\ts.outs = nil\n\tif s.parent != nil {\n\t\ts.parent.outs = append(s.parent.outs, outs...)\n\t\treturn nil, nil\n\t}\n",
		Breaks: "TXN",
	},
	{
		Name: "commit although the handler failed", File: "receive.go",
		Old: "\t\treturn failed(d.Context(), err)\n\t}\n\touts, err := scope.End()\n", New: "\t\tif outs, _ := scope.End(); len(outs) > 0 {\n\t\t\t_ = d.endpoint.commit(d.ctx, outs)\n\t\t}\n\t\treturn failed(d.Context(), err)\n\t}\n\touts, err := scope.End()\n",
		Breaks: "TXN",
	},
	{
		Name: "send a transaction's messages in another order", File: "internal/publish/publisher.go",
		Old: "\tresults := p.pipeline(ctx, outs)\n", New: "\touts[0], outs[len(outs)-1] = outs[len(outs)-1], outs[0]\n\tresults := p.pipeline(ctx, outs)\n",
		Breaks: "ORDER",
	},
	{
		Name: "let stops use up the deliveries", File: "internal/consume/delivery.go",
		Old: "return count >= int64(limit/2)", New: "return false",
		Breaks: "INNOCENT",
	},
	{
		Name: "try a nacked event ten times", File: "internal/publish/retry.go",
		Old: "	const first, second = 4, 7\n", New: "	if nacks < 9 {\n\t\treturn tryNow\n\t}\n\tconst first, second = 4, 7\n",
		Breaks: "COPIES",
	},
	{
		Name: "let messages with different delays share a queue", File: "internal/publish/delay.go",
		Old:    "\tmsg := out.Publishing\n",
		New:    "\tmsg := out.Publishing\n\tmsg.Expiration = fmt.Sprint(max(0, time.Until(out.Due).Milliseconds()))\n\tif shared := \"50s\"; !d.known(s, []string{shared}, delayBase) {\n\t\t_ = d.cfg.EstablishDelays(context.Background(), s, d.delays.Queue(shared))\n\t\td.remember(s, shared)\n\t}\n\tlabels := way.CC[len(way.CC):]\n\tif !out.Rough && !out.Handled {\n\t\tlabels = way.CC[max(0, len(way.CC)-2):]\n\t}\n\tway.CC = append([]string{\"in.3.5\", \"2.end\"}, labels...)\n",
		Breaks: "TIMER",
	},
	{
		Name: "the receiver's clock decides", File: "receive.go",
		Old: "> 0 && !d.served():", New: "> 0:",
		Breaks: "TIMER",
	},
	{
		Name: "no delivery limit on delay queues", File: "topology/delays.go",
		Old: "\t\t\"x-delivery-limit\":       LookLimit,\n", New: "",
		Breaks: "TIMER",
	},
	{
		Name: "no delivery limit on the error queue", File: "internal/routing/listener.go",
		Old: "\tif q.Type == topology.Quorum {\n", New: "\tif q.Type == topology.Quorum && false {\n",
		Breaks: "NOLOSS",
	},
	{
		Name: "park what a key service cannot open", File: "seal/policy.go",
		Old: "\tif errors.Is(err, ErrUnknownKey) {\n\t\treturn fmt.Errorf(", New: "\tif err != nil || errors.Is(err, ErrUnknownKey) {\n\t\treturn fmt.Errorf(",
		Breaks: "ACCOUNT",
	},
	{
		Name: "take what is not sealed", File: "seal/seal.go",
		Old: "\t\tif s.covers(id.Type) {\n\t\t\treturn reject(", New: "\t\tif s.covers(id.Type) && id.ID == \"\" {\n\t\t\treturn reject(",
		Breaks: "NOPHANTOM",
	},
	{
		Name: "bind the id of a message to nothing", File: "seal/identity.go",
		Old: "\t\tid.ID, id.CorrelationID,", New: "\t\tid.CorrelationID, id.CorrelationID,",
		Breaks: "NOPHANTOM",
	},
	{
		Name: "take what is too old", File: "seal/policy.go",
		Old: "age > r.MaxAge", New: "age > 2*r.MaxAge",
		Breaks: "NOPHANTOM",
	},
	{
		Name: "quote a sealed message", File: "seal/seal.go",
		Old: "p.Confidential, p.DueAt = !s.Details,", New: "p.Confidential, p.DueAt = s.Details,",
		Breaks: "SECRET",
	},
}

// targeted are mistakes that a ledger of messages cannot see; the tests of the root
// package, or of the package of the file, that they break are named.
var targeted = []mutant.Mutant{
	{
		Name: "take a late cancellation for a certain one", File: "internal/publish/cancel.go",
		Old: "\tcase err == nil && time.Until(out.Due) >= Margin:\n", New: "\tcase err == nil:\n",
		Breaks: "TestCancelLate",
	},
	{
		Name: "let a cancellation catch what was handled", File: "internal/publish/delay.go",
		Old: "\tif out.Handled {\n", New: "\tif out.Handled && wait < 0 {\n",
		Breaks: "TestRetryIsNotCancelled",
	},
	{
		Name: "keep the topic after a refusal", File: "internal/declare/change.go",
		Old: "\tif err == nil && c.decided.CompareAndSwap(false, true) {\n", New: "\tc.Keep()\n\tif err == nil && c.decided.CompareAndSwap(false, true) {\n",
		Breaks: "TestSubscribeRefused",
	},
	{
		Name: "give back in any order", File: "internal/consume/drain.go",
		Old: "\tif left := u.remains.take(); len(u.republishWorn(left)) < len(left) {\n", New: "\tleft := u.remains.take()\n\tfor i := len(left) - 1; i >= 0; i-- {\n\t\tu.acks.GiveBack(left[i].Raw.DeliveryTag)\n\t}\n\tif len(left) < 0 {\n",
		Breaks: "TestRestartsKeepTheOrder",
	},
	{
		Name: "let stops use up the delivery limit", File: "internal/consume/delivery.go",
		Old: "return count >= int64(limit/2)", New: "return false",
		Breaks: "TestRestartsUseUpNothing",
	},
	{
		Name: "a late message starts an instance", File: "saga/handle.go",
		Old: "\tcase r.kind == goes && record.Done:\n", New: "\tcase false:\n",
		Breaks: "TestEarlyAndLate",
	},
	{
		Name: "a timeout comes to a later run", File: "saga/handle.go",
		Old: "(record.Done || record.Run != r.run)", New: "record.Done",
		Breaks: "TestTimeout",
	},
	{
		Name: "a state loses what the program does not know", File: "saga/state.go",
		Old: "\tif r.Format == version {\n", New: "\tif r.Format > version {\n",
		Breaks: "TestStoredState",
	},
	{
		Name: "ask an absent key service for every message", File: "seal/envelope.go",
		Old: "time.Now().Before(f.until)", New: "time.Now().Before(f.until) && f.count < 0",
		Breaks: "TestKeyServiceAway",
	},
	{
		Name: "copy what comes back by itself", File: "internal/consume/leftovers.go",
		Old: "\tif u.ch.IsClosed() {\n", New: "\tif false {\n",
		Breaks: "TestCutsMakeNoCopies",
	},
	{
		Name: "seal again what was moved", File: "seal/reseal.go",
		Old: "\tpolicy.Types, policy.MaxAge = []string{\"*\"}, 0\n", New: "\tpolicy.Types, policy.MaxAge, policy.AnyDestination = []string{\"*\"}, 0, true\n",
		Breaks: "TestResealElsewhere",
	},
}

// TestMutantsFit: each mutant still finds its line, so that a change of the library that
// moves it is noticed at once.
func TestMutantsFit(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := mutant.Fit(root, slices.Concat(mutants, targeted)); err != nil {
		t.Error(err)
	}
}

// TestMutants proves the proof. It builds the simulation once for each mutant,
// so it takes minutes: go test ./internal/proof -run Mutants -mutations.
func TestMutants(t *testing.T) {
	if !*mutations {
		t.Log("not asked for; run with -mutations")
		return
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.Name, func(t *testing.T) {
			err := m.Run(t.Context(), root, root, "./internal/proof", "-run", "Calm|Simulation", "-schedules", "400")
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, m := range targeted {
		t.Run(m.Name, func(t *testing.T) {
			tests := "."
			if folder, _, ok := strings.Cut(m.File, "/"); ok && folder != "internal" {
				tests = "./" + folder
			}
			// The order of goroutines hides some of them now and then.
			if err := m.Run(t.Context(), root, root, tests, "-run", "^"+m.Breaks+"$", "-count=8", "-failfast"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
