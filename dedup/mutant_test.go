package dedup_test

import (
	"flag"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

var mutations = flag.Bool("mutations", false, "break the library on purpose, and see that the tests notice it")

// mutants are mistakes that lose messages or handle them twice.
var mutants = []mutant.Mutant{
	{
		Name: "the id is kept before what was sent is confirmed", File: "dedup/dedup.go",
		Old: "\tif err := errors.Join(bus.Forward(ctx, envelopes)...); err != nil {\n\t\treturn err\n\t}\n\tif err := d.send(ctx, bus, handled{ID: m.ID}); err != nil {\n\t\treturn err\n\t}\n", New: "\tif err := d.send(ctx, bus, handled{ID: m.ID}); err != nil {\n\t\treturn err\n\t}\n\tif err := errors.Join(bus.Forward(ctx, envelopes)...); err != nil {\n\t\treturn err\n\t}\n",
		Breaks: "TestLoggedLast",
	},
	{
		Name: "handling begins before the ids are known", File: "dedup/dedup.go",
		Old: "\tcase <-d.loaded:\n", New: "\tcase <-time.After(0):\n",
		Breaks: "TestOnce",
	},
	{
		Name: "a copy does not wait", File: "dedup/ids.go",
		Old: "other := i.current[k]", New: "other := i.current[key{}]",
		Breaks: "TestTogether",
	},
}

// TestMutantsFit: each mutant still finds its line.
func TestMutantsFit(t *testing.T) {
	t.Parallel()
	if err := mutant.Fit(mutant.Above(t), mutants); err != nil {
		t.Error(err)
	}
}

// TestMutants: the tests notice each mistake. It builds the package once for each.
func TestMutants(t *testing.T) {
	if !*mutations {
		t.Log("not asked for; run with -mutations")
		return
	}
	mutant.Notice(t, mutant.Above(t), mutants, func(m mutant.Mutant) []string {
		return []string{"-run", "^" + m.Breaks + "$", "-timeout", "60s", "."}
	})
}
