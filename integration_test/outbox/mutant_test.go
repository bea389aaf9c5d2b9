package outbox_test

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

var mutations = flag.Bool("mutations", false, "break the outbox on purpose, and see that the tests notice it")

// mutants are ways to get an outbox wrong. Breaks is the test that must fail.
var mutants = []mutant.Mutant{
	{
		Name: "acknowledge before the commit", File: "transaction.go",
		Old:    "\t\tif err == nil && len(outs) > 0 && !d.Connected() {\n",
		New:    "\t\td.Delivery.Ack()\n\t\tif err == nil && len(outs) > 0 && !d.Connected() {\n",
		Breaks: "TestAckAfterCommit",
	},
	{
		Name: "delete before the confirm", File: "outbox/relay.go",
		Old:    "\tfor i, err := range r.bus.Forward(r.sending, envelopes) {\n",
		New:    "\tfor _, one := range sound {\n\t\tr.erase(l, []int64{one.id}, 0)\n\t}\n\tfor i, err := range r.bus.Forward(r.sending, envelopes) {\n",
		Breaks: "TestDeleteAfterConfirm",
	},
	{
		Name: "read behind a cursor", File: "outbox/lane.go",
		Old:    "\tswitch {\n\tcase len(ids) > 0 || len(l.known) > 0:\n",
		New:    "\tif len(ids) > 0 {\n\t\tl.floor, l.floored = ids[len(ids)-1], time.Now().Add(time.Hour)\n\t}\n\tswitch {\n\tcase len(ids) > 0 || len(l.known) > 0:\n",
		Breaks: "TestJoin/postgres",
	},
	{
		Name: "delete a range of rows", File: "outbox/dialect.go",
		Old:    "\t\tamong, args := d.among(ids)\n\t\treturn \"delete",
		New:    "\t\tamong, args := \"id <= ?\", []any{ids[len(ids)-1]}\n\t\treturn \"delete",
		Breaks: "TestJoin/postgres",
	},
	{
		Name: "take over lanes without two renewals", File: "outbox/lease.go",
		Old: "if r.healthy >= enough {", New: "if r.healthy < enough || r.healthy >= enough {",
		Breaks: "TestOutage",
	},
	{
		Name: "go on with a lane that is lost", File: "outbox/lease.go",
		Old: "if fresh, err = r.newLane(ctx); err != nil {", New: "if fresh, err = newLane(l.number), error(nil); err != nil {",
		Breaks: "TestLostLane/postgres",
	},
}

// sagaMutant is a saga that does not lock its row. Only a database shows that; the other
// mutants of sagas are in internal/proof.
var sagaMutant = mutant.Mutant{
	Name: "a saga does not lock its row", File: "outbox/saga.go",
	Old: "text += \" for update\"", New: "text += \"\"",
	Breaks: "TestSagaAtOnce/postgres",
}

// root is the folder of the library.
func root(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMutantsFit: the texts that the mutants replace are there.
func TestMutantsFit(t *testing.T) {
	t.Parallel()
	if err := mutant.Fit(root(t), mutants); err != nil {
		t.Error(err)
	}
}

// TestMutants: the tests notice each mutant. It takes minutes, so make proof-outbox runs it, and CI does not:
// go test -run '^TestMutants$' . -mutations
func TestMutants(t *testing.T) {
	if !*mutations {
		t.Log("not asked for; run with -mutations")
		return
	}
	for _, m := range mutants {
		t.Run(m.Name, func(t *testing.T) { notice(t, m) })
	}
}

// TestSagaMutant: a saga that does not lock its row is noticed.
func TestSagaMutant(t *testing.T) {
	t.Parallel()
	notice(t, sagaMutant)
}

// notice runs the test that a mutant breaks.
func notice(t *testing.T, m mutant.Mutant) {
	t.Helper()
	if err := m.Run(t.Context(), root(t), ".", ".", "-run", "^"+strings.ReplaceAll(m.Breaks, "/", "$/^")+"$", "-timeout", "45s"); err != nil {
		t.Fatal(err)
	}
}
