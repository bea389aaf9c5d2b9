// Package docs_test checks the user documentation: its Go code compiles, what it
// quotes is what runs, and its links lead somewhere.
package docs_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// pages returns the documentation, by path from here.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, "../README.md", "../CHANGELOG.md", "../SECURITY.md", "../DESIGN.md", "../CONTRIBUTING.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	return texts
}

// blocks returns the Go code of a page.
func blocks(page string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		found = append(found, m[1])
	}
	return found
}

// TestLinks follows the links to files and to headings. Code has none: a call with a type argument looks like one.
func TestLinks(t *testing.T) {
	t.Parallel()
	code := regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`")
	link := regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	all := pages(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := path
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(path), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
			if page, ok := all[target]; ok && m[2] != "" && !slices.Contains(anchors(page), m[2]) {
				t.Errorf("%s links to %s, which has no heading %q", path, target, m[2])
			}
		}
	}
}

// anchors are what links to the headings of a page end in.
func anchors(page string) (found []string) {
	page = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(page, "")
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		text := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found = append(found, strings.ReplaceAll(text, " ", "-"))
	}
	return found
}

// TestNamedTestsExist looks for the tests that a page names.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)`).FindAllSubmatch(source, -1) {
			exists[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range pages(t) {
		for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1) {
			if !exists[m[1]] {
				t.Errorf("%s names %s, which does not exist", path, m[1])
			}
		}
	}
}

// TestVocabulary looks for the words of the tests in the files that are said to declare them.
func TestVocabulary(t *testing.T) {
	t.Parallel()
	rows := regexp.MustCompile("(?m)^\\| (`.+`) \\|.*\\| `(.+\\.go)` \\|$").FindAllStringSubmatch(pages(t)["testing-vocabulary.md"], -1)
	if len(rows) < 50 {
		t.Fatalf("%d words", len(rows))
	}
	for _, row := range rows {
		source, err := os.ReadFile(filepath.Join("..", row[2]))
		if err != nil {
			t.Error(err)
		}
		for word := range strings.SplitSeq(strings.ReplaceAll(row[1], "`", ""), ", ") {
			if !regexp.MustCompile(`(?m)^(type|var|func|func \(\w+ \*?\w+\)) ` + word + `\b`).Match(source) {
				t.Errorf("%s does not declare %s", row[2], word)
			}
		}
	}
}

// TestReadmeIsShort keeps the README at a length that is read.
func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	if n := strings.Count(pages(t)["../README.md"], "\n"); n > 200 {
		t.Errorf("README.md has %d lines, more than 200", n)
	}
}

// TestTestingPageQuotes compares the code of testing.md with what is compiled and
// run.
func TestTestingPageQuotes(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../example_testing_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page := pages(t)["testing.md"]
	quoted := 0
	for _, block := range blocks(page) {
		if !strings.Contains(block, "\nfunc ") && !strings.HasPrefix(block, "func ") {
			continue // a line of code in a sentence; TestCodeCompiles has it
		}
		quoted++
		if !bytes.Contains(source, []byte(block)) {
			t.Errorf("testing.md has code that example_testing_test.go has not:\n%s", block)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)`).FindAllStringSubmatch(string(source), -1) {
		if !strings.Contains(page, "func "+m[1]+"(") {
			t.Errorf("testing.md does not show %s", m[1])
		}
	}
	if quoted < 5 {
		t.Errorf("testing.md quotes %d pieces of code, fewer than it should", quoted)
	}
	if lines := strings.Count(blockOf(page, "func TestPlaceOutage("), "\n"); lines == 0 || lines >= 40 {
		t.Errorf("the test of a handler, a retry and an outage has %d lines, not under 40", lines)
	}
}

// TestSagasPageQuotes compares the functions of sagas.md with what the tests of package saga run.
func TestSagasPageQuotes(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../saga/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var sources []byte
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, source...)
	}
	found := blocks(pages(t)["sagas.md"])
	if len(found) < 3 {
		t.Errorf("%d pieces of code", len(found))
	}
	for _, block := range found {
		if !bytes.Contains(sources, []byte(block)) {
			t.Errorf("sagas.md has code that no test of package saga has:\n%s", block)
		}
	}
}

func blockOf(page, start string) string {
	for _, block := range blocks(page) {
		if strings.HasPrefix(block, start) {
			return block
		}
	}
	return ""
}

// preamble is what code in sentences may refer to.
const preamble = `
var (
	ctx, later context.Context
	mux *http.ServeMux
	cfg harebus.Config
	setup *harebus.Setup
	bus *harebus.Bus
	broker *brokertest.Broker
	db *sql.DB
	ob *outbox.Outbox
	cmd PlaceOrder
	errNoMoney, errNoSuchAccount error
)

type (
	Charge   struct{ Euros float64 }
	ChargeV2 struct{ Cents int }
)
`

// imports are those that snippets may use; unused ones are not complained about.
var imports = []string{
	"context", "database/sql", "encoding/json", "errors", "fmt", "maps", "net", "net/http", "os", "os/signal", "slices", "syscall", "time",
	"github.com/harebus/harebus/answers", "github.com/harebus/harebus/claim", "github.com/harebus/harebus/failed", "github.com/harebus/harebus/seal",
	"github.com/harebus/harebus", "github.com/harebus/harebus/service", "github.com/harebus/harebus/brokertest", "github.com/harebus/harebus/outbox", "github.com/harebus/harebus/topology",
}

// modules are the pages of modules or packages of their own: the folder of the module, and what
// their snippets import beside imports.
var modules = map[string]struct {
	folder  string
	imports []string
}{
	"telemetry.md":   {"../otelbus", []string{"github.com/harebus/harebus/otelbus", "go.opentelemetry.io/otel/propagation"}},
	"contracts.md":   {"../asyncapi", []string{"github.com/harebus/harebus/asyncapi", "testing"}},
	"schedules.md":   {"../schedule", []string{"github.com/harebus/harebus/schedule"}},
	"batches.md":     {"", []string{"github.com/harebus/harebus/batch"}},
	"fairness.md":    {"", []string{"github.com/harebus/harebus/fair"}},
	"limits.md":      {"", []string{"github.com/harebus/harebus/limit"}},
	"ordering.md":    {"", []string{"github.com/harebus/harebus/order"}},
	"pulse.md":       {"", []string{"github.com/harebus/harebus/pulse"}},
	"spring.md":      {"", []string{"github.com/harebus/harebus/dialect", "github.com/harebus/harebus/dialect/spring"}},
	"celery.md":      {"", []string{"github.com/harebus/harebus/dialect", "github.com/harebus/harebus/dialect/celery"}},
	"neighbours.md":  {"", []string{"github.com/harebus/harebus/dialect", "github.com/harebus/harebus/dialect/wolverine"}},
	"streams.md":     {"", []string{"github.com/harebus/harebus/stream", "github.com/harebus/harebus/dedup"}},
	"masstransit.md": {"", []string{"github.com/harebus/harebus/dialect", "github.com/harebus/harebus/dialect/masstransit"}},
	"nservicebus.md": {"", []string{"github.com/harebus/harebus/dialect", "github.com/harebus/harebus/dialect/nservicebus"}},
	"cloudevents.md": {"", []string{"github.com/harebus/harebus/dialect", "github.com/harebus/harebus/dialect/cloudevents"}},
}

// program makes something that compiles of a block: a package that is not main, so
// that nothing is linked.
func program(block string, further ...string) string {
	if strings.HasPrefix(block, "package ") {
		return block
	}
	var b strings.Builder
	b.WriteString("package snippet\n")
	for _, path := range slices.Concat(imports, further) {
		fmt.Fprintf(&b, "import %q\n", path)
	}
	if !strings.Contains(block, "type PlaceOrder ") {
		b.WriteString("type PlaceOrder struct{ ID int }\n")
	}
	if strings.Contains(block, " := newOrders()") {
		b.WriteString("func newOrders() (*harebus.Setup, error) { return setup, nil }\n")
	}
	b.WriteString(preamble)
	if strings.HasPrefix(block, "type ") || strings.HasPrefix(block, "func ") {
		b.WriteString(block)
	} else {
		b.WriteString("func snippet() {\n" + block + "}\n")
	}
	return b.String()
}

// tolerated are complaints about what a snippet leaves out.
var tolerated = regexp.MustCompile(`declared and not used|imported and not used|^# |^$`)

// TestCodeCompiles builds every Go block of every page.
func TestCodeCompiles(t *testing.T) {
	t.Parallel()
	for path, text := range pages(t) {
		for i, block := range blocks(text) {
			if path == "sagas.md" || path == "testing.md" && strings.Contains(block, "func ") {
				continue // compiled where it is quoted from
			}
			if strings.HasPrefix(block, "package main\n") {
				continue // TestReadmeProgramRuns
			}
			t.Run(fmt.Sprintf("%s-%d", strings.Trim(path, "./"), i+1), func(t *testing.T) {
				t.Parallel()
				complaints := buildIn(t, modules[path].folder, program(block, modules[path].imports...), os.DevNull)
				complaints = slices.DeleteFunc(complaints, func(line string) bool { return tolerated.MatchString(line) })
				if len(complaints) > 0 {
					t.Errorf("%s\nin\n%s", strings.Join(complaints, "\n"), block)
				}
			})
		}
	}
}

// build compiles a program as if it lay in this module and returns what the
// compiler says.
func build(t *testing.T, source, output string) []string {
	t.Helper()
	return buildIn(t, "", source, output)
}

// buildIn compiles a program as if it lay in another module.
func buildIn(t *testing.T, module, source, output string) []string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(here, module, "snippet", "main.go"): file},
	})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "-overlay", overlayFile, "-o", output, "./snippet")
	cmd.Dir = module
	said, err := cmd.CombinedOutput()
	if err != nil && len(said) == 0 {
		t.Fatal(err)
	}
	return strings.Split(string(said), "\n")
}

// TestReadmeProgramRuns runs the README's first program until it has done all its
// work, then interrupts it. The handler may be called before the call that sent the
// message has returned; an interruption in between ends that call with an error.
func TestReadmeProgramRuns(t *testing.T) {
	t.Parallel()
	first := blocks(pages(t)["../README.md"])[0]
	binary := filepath.Join(t.TempDir(), "program")
	if said := strings.Join(build(t, first, binary), ""); said != "" {
		t.Fatal(said)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	said := bufio.NewScanner(stdout)
	var lines []string
	for len(lines) < 2 && said.Scan() {
		lines = append(lines, said.Text())
	}
	slices.Sort(lines) // either may come first
	if !slices.Equal(lines, []string{"placing order 7", "sent; Ctrl-C ends this"}) {
		t.Errorf("it said %q (%v)", lines, said.Err())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v: %s", err, &stderr)
	}
}
