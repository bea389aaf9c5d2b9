package proof_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// TestMain closes what the tests shared, and fails when the library has left a goroutine behind. In a process that a
// test has started it is that process's main function.
func TestMain(m *testing.M) {
	if assignment := os.Getenv(asChild); assignment != "" {
		os.Exit(beChild(assignment))
	}
	code := rabbit.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}
