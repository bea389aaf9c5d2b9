package schedule

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

var mutations = flag.Bool("mutations", false, "break the package on purpose, and see that the tests notice it")

// mutants are mistakes that lose or repeat due times.
var mutants = []mutant.Mutant{
	{
		Name: "the token before the due message", File: "schedule/serve.go",
		Old: "\ts.fire(ctx, steps)\n\tvar open []*step\n", New: "\tdefer s.fire(ctx, steps)\n\tvar open []*step\n\tfor _, one := range steps {\n\t\tone.fired = true\n\t}\n",
		Breaks: "TestQueueThatTakesNothing",
	},
	{
		Name: "acknowledge before the confirm", File: "schedule/serve.go",
		Old: "\tif s.leader.entries[t.Name] == e { // not confirmed\n", New: "\tif false {\n",
		Breaks: "TestQueueThatTakesNothing",
	},
	{
		Name: "the due message is not confirmed", File: "schedule/serve.go",
		Old: "\t\tif one.message == nil || one.fired {\n", New: "\t\tif true {\n",
		Breaks: "TestQueueThatTakesNothing",
	},
	{
		Name: "a leader without its mark", File: "schedule/leader.go",
		Old: "\tif !l.complete {\n\t\treturn nil\n\t}\n", New: "",
		Breaks: "TestTokensBehindTheMark",
	},
	{
		Name: "a token on its way makes another one needless", File: "schedule/leader.go",
		Old: "\tif e != nil && e.hold != nil && e.hold.Holds() {\n", New: "\tif e != nil && e.alive(now) {\n",
		Breaks: "TestCuts",
	},
	{
		Name: "the clock of the instance instead of the watermark", File: "schedule/definition.go",
		Old: "\tfirst := d.after(t.Last)\n", New: "\tfirst := d.after(now.Add(-time.Second))\n",
		Breaks: "TestClockChanges",
	},
}

// TestMutantsFit: each mutant still finds its line.
func TestMutantsFit(t *testing.T) {
	t.Parallel()
	if err := mutant.Fit(root(t), mutants); err != nil {
		t.Error(err)
	}
}

// TestMutants: the tests notice each mistake. It builds the package once for each.
func TestMutants(t *testing.T) {
	if !*mutations {
		t.Log("not asked for; run with -mutations")
		return
	}
	for _, m := range mutants {
		t.Run(m.Name, func(t *testing.T) {
			if err := m.Run(t.Context(), root(t), ".", ".", "-timeout", "100s", "-run", "^"+m.Breaks+"$"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func root(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}
