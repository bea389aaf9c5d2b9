package integration_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// TestMain lets many tests wait at the same time, which is what most of them do, closes the brokers they shared, and
// fails when the library has left a goroutine behind.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(asOperator) != "" {
		if err := operate(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(asWorker) != "" {
		fmt.Fprintln(os.Stderr, work())
		os.Exit(1)
	}
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "8"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := rabbit.Main(m)
	for _, err := range []error{closeCommanded(), closeBuilt()} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}
