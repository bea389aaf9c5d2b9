package mutant

import (
	"path/filepath"
	"testing"
)

// Above is the folder above that of the test: the root of the library, for packages that lie in it.
func Above(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// Notice fails the test unless each mutant is noticed. It builds the package of the test, which lies in the folder root, once for each;
// args are those of go test.
func Notice(t *testing.T, root string, mutants []Mutant, args func(m Mutant) []string) {
	t.Helper()
	for _, m := range mutants {
		t.Run(m.Name, func(t *testing.T) {
			if err := m.Run(t.Context(), root, ".", args(m)...); err != nil {
				t.Error(err)
			}
		})
	}
}
