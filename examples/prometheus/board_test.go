package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const deploy = "../../deploy"

// board is what the tests need of a Grafana board.
type board struct {
	UID           string
	SchemaVersion int
	Panels        []struct {
		ID          int
		Title       string
		Type        string
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct{ Expr, LegendFormat string }
		FieldConfig struct{ Defaults struct{ Unit string } }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

func readBoard(t *testing.T) (b board) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(deploy, "grafana", "harebus.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// Grafana accepts the board: its panels have ids of their own and do not overlap.
func TestBoard(t *testing.T) {
	t.Parallel()
	b := readBoard(t)
	if b.UID != "harebus" || b.SchemaVersion == 0 || len(b.Panels) < 15 {
		t.Errorf("uid %q, schema version %d, %d panels", b.UID, b.SchemaVersion, len(b.Panels))
	}
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range b.Panels {
		if ids[p.ID] {
			t.Errorf("the id %d is there twice", p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				if taken[[2]int{x, y}] = p.Title; x >= 24 {
					t.Fatalf("%s is too far on the right", p.Title)
				}
			}
		}
	}
}

// words are metrics and labels of harebus in a query.
var words = regexp.MustCompile(`\b(?:harebus|messaging|error)_[a-z_]+`)

// Every metric and label of the board and the alerts is in a scrape of the example, and each query of the board has a result over
// two scrapes. Prometheus' own tool evaluates them.
func TestQueries(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first, second := twoScrapes(ctx, t)
	queries := map[string]string{}
	for _, p := range readBoard(t).Panels {
		for i, target := range p.Targets {
			queries[fmt.Sprintf("%s %d", p.Title, i+1)] = target.Expr
		}
	}
	alerts, err := os.ReadFile(filepath.Join(deploy, "prometheus", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(alerts)
	for _, query := range queries {
		text += query
	}
	for _, v := range readBoard(t).Templating.List {
		text += v.Definition
	}
	for _, word := range words.FindAllString(text, -1) {
		if !strings.Contains(second, word) {
			t.Errorf("%s is in no scrape", word)
		}
	}
	tool := promtool(ctx, t)
	folder := t.TempDir()
	rules, tests := asRules(queries, first, second)
	write(t, filepath.Join(folder, "queries.yml"), rules)
	write(t, filepath.Join(folder, "queries_test.yml"), tests)
	if out, err := exec.CommandContext(ctx, tool, "test", "rules", filepath.Join(folder, "queries_test.yml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The alerts are raised when they should be, and not otherwise.
func TestAlerts(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, promtool(ctx, t), "test", "rules", filepath.Join(deploy, "prometheus", "alerts_test.yml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// promtool is the path of Prometheus' tool, which a script fetches where it is missing.
func promtool(ctx context.Context, t *testing.T) string {
	t.Helper()
	path, err := exec.CommandContext(ctx, "../../scripts/promtool").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(path))
}

// twoScrapes are what two scrapes of the running example have, the first when every kind of message has been handled.
func twoScrapes(ctx context.Context, t *testing.T) (first, second string) {
	t.Helper()
	url := start(ctx, t)
	for first == "" {
		if text := page(ctx, t, url); strings.Contains(text, `harebus_outcome="retried"`) && parked(text) > 0 {
			first = text
		}
	}
	for second = first; parked(second) == parked(first); {
		<-time.After(100 * time.Millisecond)
		second = page(ctx, t, url)
	}
	return first, second
}

var parkedCount = regexp.MustCompile(`harebus_attempts_total\{harebus_outcome="parked".*\} (\d+)`)

func parked(text string) int {
	found := parkedCount.FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(found[1]) // digits
	return n
}

// asRules makes an alert of each query that is raised if the query has a result that is a number, and a test with the two scrapes,
// a minute apart, that expects all of them.
func asRules(queries map[string]string, first, second string) (rules, tests string) {
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$queue", ".*", "$type", ".*")
	rules = "groups:\n  - name: queries\n    rules:\n"
	tests = "rule_files: [queries.yml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n"
	before := samples(first)
	for series, value := range samples(second) {
		old, ok := before[series]
		if !ok {
			old = "_"
		}
		tests += fmt.Sprintf("      - {series: '%s', values: '%s %s'}\n", series, old, value)
	}
	tests += "    alert_rule_test:\n"
	for name, query := range queries {
		query = variables.Replace(query)
		rules += fmt.Sprintf("      - alert: %q\n        expr: 'count((%s) == (%s)) > 0'\n", name, query, query)
		tests += fmt.Sprintf("      - {eval_time: 1m, alertname: %q, exp_alerts: [{}]}\n", name)
	}
	return rules, tests
}

// samples are the values of harebus in a scrape, by series.
func samples(text string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || !slices.ContainsFunc([]string{"harebus_", "messaging_"}, func(p string) bool { return strings.HasPrefix(line, p) }) {
			continue
		}
		found[strings.Replace(line[:at], "{", `{job="example",`, 1)] = line[at+1:]
	}
	return found
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
