package stream_test

import (
	"flag"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

var mutations = flag.Bool("mutations", false, "break the library on purpose, and see that the tests notice it")

// mutants are mistakes that skip messages, or wait without a word.
var mutants = []mutant.Mutant{
	{
		Name: "a place behind what is not done", File: "internal/streams/place.go",
		Old: "for n < len(p.open) && p.open[n].done {", New: "for n < len(p.open) {",
		Breaks: "TestLowWater",
	},
	{
		Name: "a reader that does not know what its predecessors kept", File: "internal/streams/group.go",
		Old: "if err := g.send(ctx, token{Barrier: barrier}); err != nil {\n\t\t\t\t\treturn err\n\t\t\t\t}", New: "return nil",
		Breaks: "TestGroup",
	},
	{
		Name: "a gap is passed over", File: "internal/streams/place.go",
		Old: "\tcase missing <= 1:\n", New: "\tcase missing <= 1000:\n",
		Breaks: "TestGap",
	},
	{
		Name: "a stream that was made anew is not noticed", File: "internal/streams/place.go",
		Old: "\tcase missing < 0:\n", New: "\tcase false:\n",
		Breaks: "TestMadeAnew",
	},
	{
		Name: "an offset beyond the end is waited for", File: "internal/streams/place.go",
		Old: "\treturn p.beyond(offset, end)\n", New: "\t_, p.from = end, offset\n\treturn nil\n",
		Breaks: "TestBeyondTheEnd",
	},
	{
		Name: "silence is the end of a stream", File: "internal/streams/probe.go",
		Old: "if err != nil || q.Messages == 0 {", New: "if err != nil || q.Messages >= 0 {",
		Breaks: "TestSlowBroker",
	},
	{
		Name: "a reader that goes on without end beside a handler that hangs", File: "internal/streams/place.go",
		Old: "if ack = i < ahead; !ack {", New: "if ack = true; !ack {",
		Breaks: "TestHungHandler",
	},
	{
		Name: "a message that cannot be parked is sent into the stream", File: "internal/resend/resend.go",
		Old: "\tif c.On.Reads() {\n", New: "\tif false {\n",
		Breaks: "TestErrorQueueAway",
	},
	{
		Name: "an attempt that does not count", File: "internal/consume/read.go",
		Old: "\t\td.Failures++\n", New: "",
		Breaks: "TestRetriesInPlace",
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
