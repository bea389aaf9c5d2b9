package dialecttest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/harebus/harebus/dialect"
)

// tabled has the names of the goldens that are in a table of Goldens, RoundTrip or Refused.
var tabled sync.Map

func inTable(golden string) { tabled.Store(golden, true) }

// Refused reads goldens that are the peer's, and that no handler could read, and fails the test if the error does not say why.
func Refused(t *testing.T, d dialect.Dialect, goldens map[string]string) {
	t.Helper()
	for golden, why := range goldens {
		inTable(golden)
		w := Load(t, golden)
		f, h, faults := Read(d, &w)
		if f == nil || len(faults) != 1 || faults[0].Reason != "bad-envelope" || !strings.Contains(faults[0].Err.Error(), why) {
			t.Errorf("%s: %+v, %v", golden, h, faults)
		}
	}
}

// Main is for TestMain: it runs the tests of a dialect, and fails if a golden in testdata is in no table. others are the files there that are not the
// message of a peer. Runs of some tests only are not asked.
func Main(m *testing.M, others ...string) int {
	code := m.Run()
	if code != 0 || !everything() {
		return code
	}
	for _, golden := range others {
		inTable(golden)
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		fmt.Fprintln(os.Stderr, "no goldens in testdata:", err)
		return 1
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if _, ok := tabled.Load(name); !ok {
			fmt.Fprintf(os.Stderr, "the golden %s is in no table of Goldens, RoundTrip or Refused\n", name)
			code = 1
		}
	}
	return code
}

// everything says whether all tests were asked for.
func everything() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}
