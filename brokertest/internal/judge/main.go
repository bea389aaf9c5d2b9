// Command judge runs the test suite that amqp091-go ships in its module, with the
// build tag integration, against a broker of this package over TCP. The suite was
// not written for this broker, so it is an independent check.
//
//	go run ./brokertest/internal/judge [flags of go test, such as -run TestX]
//
// It copies the module out of the module cache, where nothing can be written,
// offers the few calls of the HTTP management interface and of rabbitmqctl that
// the suite makes, and prints what passed, failed and was left out, with
// reasons. It exits with 1 when a test failed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/harebus/harebus/brokertest"
)

// leftOut names tests that need something that the broker does not support, with
// the reason. There is none at the moment.
var leftOut = map[string]string{}

// limit is how long the suite may take.
const limit = 8 * time.Minute

func main() {
	if len(os.Args) > 1 && os.Args[1] == "set_vm_memory_high_watermark" {
		exit(controlWatermark(os.Args[2:])) // called in the place of rabbitmqctl
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "amqp091-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	b := brokertest.New()
	defer b.Close()
	addr, err := b.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	m, err := manage(b)
	if err != nil {
		return err
	}
	defer m.close()

	version, err := copyModule(ctx, dir, m.addr)
	if err != nil {
		return err
	}
	fmt.Printf("github.com/rabbitmq/amqp091-go %s against brokertest on %s\n", version, addr)
	events, runErr := runSuite(ctx, dir, "amqp://guest:guest@"+addr.String()+"/", m.addr)
	integration, err := testsIn(dir)
	if err != nil {
		return err
	}
	if len(os.Args) > 1 {
		clear(integration) // a part was asked for
	}
	return report(events, integration, runErr)
}

// copyModule copies the client's module to dir, with the management interface
// the suite expects on a fixed port at addr instead, and returns its version.
func copyModule(ctx context.Context, dir, addr string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}\n{{.Version}}", "github.com/rabbitmq/amqp091-go").Output()
	if err != nil {
		return "", fmt.Errorf("find amqp091-go: %w", err)
	}
	from, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return "", fmt.Errorf("copy amqp091-go: %w", err)
	}
	_, port, _ := strings.Cut(addr, ":")
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(src), "15672") {
			return err
		}
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(src), "15672", port)), 0o600)
	})
	return version, err
}

// event is a line of go test -json.
type event struct {
	Action  string
	Test    string
	Output  string
	Elapsed float64
}

// runSuite runs the suite. Its error says only that something failed.
func runSuite(ctx context.Context, dir, url, managed string) ([]event, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append([]string{"test", "-tags", "integration", "-count=1", "-json", "-timeout", limit.String(), "."}, os.Args[1:]...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "AMQP_URL="+url, "RABBITMQ_RABBITMQCTL_PATH="+self, "JUDGE_MANAGED="+managed, "GOFLAGS=-mod=mod")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var events []event
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			events = append(events, e)
		}
	}
	_, _ = io.Copy(io.Discard, stdout) // what follows a line that is too long
	return events, cmd.Wait()
}

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(\w+ \*testing\.T\)`)

// testsIn returns the tests in files that need the build tag.
func testsIn(dir string) (map[string]bool, error) {
	names := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(string(src), "//go:build integration") {
			continue
		}
		for _, m := range testName.FindAllStringSubmatch(string(src), -1) {
			names[m[1]] = true
		}
	}
	return names, nil
}

// report prints the verdict and returns an error when a test failed or none ran.
func report(events []event, integration map[string]bool, runErr error) error {
	var passed, inner int
	var failed, skipped []string
	output := map[string][]string{}
	for _, e := range events {
		switch {
		case e.Action == "output":
			output[e.Test] = append(output[e.Test], e.Output)
		case e.Test == "":
		case strings.Contains(e.Test, "/"):
			if e.Action == "pass" {
				inner++
			}
		case e.Action == "pass":
			if passed++; integration[e.Test] {
				delete(integration, e.Test)
			}
		case e.Action == "fail":
			failed = append(failed, e.Test)
			delete(integration, e.Test)
		case e.Action == "skip":
			skipped = append(skipped, e.Test)
			delete(integration, e.Test)
		}
	}
	var unexpected []string
	for _, name := range failed {
		if why := leftOut[name]; why != "" {
			fmt.Printf("left out  %s: %s\n", name, why)
			continue
		}
		unexpected = append(unexpected, name)
		fmt.Printf("FAILED    %s\n%s", name, strings.Join(output[name], ""))
	}
	for _, name := range skipped {
		fmt.Printf("skipped   %s by itself:%s\n", name, strings.Join(lastLines(output[name], 1), ""))
	}
	for _, name := range slices.Sorted(keys(integration)) {
		unexpected = append(unexpected, name)
		fmt.Printf("NOT RUN   %s\n", name)
	}
	fmt.Printf("%d tests passed (and %d inside them), %d failed, %d left out, %d skipped themselves\n",
		passed, inner, len(unexpected), len(failed)+len(integration)-len(unexpected), len(skipped))
	switch {
	case len(unexpected) > 0:
		return fmt.Errorf("%d tests failed", len(unexpected))
	case passed == 0:
		return fmt.Errorf("no test ran: %w", runErr)
	case runErr != nil && len(failed) == 0:
		fmt.Print(strings.Join(lastLines(output[""], 60), ""))
		return fmt.Errorf("the suite failed as a whole: %w", runErr)
	}
	return nil
}

// lastLines returns the last n lines that say something.
func lastLines(lines []string, n int) []string {
	lines = slices.DeleteFunc(slices.Clone(lines), func(s string) bool {
		return strings.HasPrefix(s, "---") || strings.HasPrefix(s, "===")
	})
	return lines[max(0, len(lines)-n):]
}

func keys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
