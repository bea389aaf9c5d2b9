package outbox_test

import (
	"path/filepath"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

// TestSagaMutant: a saga that does not lock its row is noticed. Only a database shows that;
// the other mutants of sagas are in internal/proof.
func TestSagaMutant(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	m := mutant.Mutant{
		Name: "a saga does not lock its row", File: "outbox/saga.go",
		Old: "text += \" for update\"", New: "text += \"\"",
		Breaks: "TestSagaAtOnce",
	}
	if err := m.Run(t.Context(), root, ".", ".", "-run", "^TestSagaAtOnce$/^postgres$"); err != nil {
		t.Fatal(err)
	}
}
