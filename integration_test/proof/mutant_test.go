package proof_test

import (
	"path/filepath"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

// What goes wrong at the end of a channel only a real broker shows; all other mutants are in internal/proof.
func TestMutantIsNoticed(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	m := mutant.Mutant{
		Name: "close without cancelling the consumer", File: "internal/consume/drain.go",
		Old:    "\terr := u.cancel()\n\tc.setFeed(nil, c.cfg.Stopped, true)\n",
		New:    "\terr := error(nil)\n\tif u.ch != nil {\n\t\treturn nil\n\t}\n\tc.setFeed(nil, c.cfg.Stopped, true)\n",
		Breaks: "NODUP",
	}
	err = m.Run(t.Context(), root, "..", "./proof", "-run", "^TestStopWithMessagesInHand$/quorum", "-timeout", "3m")
	if err != nil {
		t.Fatal(err)
	}
}
