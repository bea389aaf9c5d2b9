package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// steps stands in for .ci/steps. TestA of the step root fails unless it is run alone, judge fails once, lint always, and
// client-main needs what is not to be had.
const steps = `#!/bin/bash
case $1 in
failures | broken | reruns) exec .ci/real "$1" ;;
root)
    if [ "$RUN" = '^(TestA)$' ]; then
        echo '--- PASS: TestA (0.00s)' >"$LOG"
    else
        printf -- '--- PASS: TestB (0.00s)\n--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/sub (0.00s)\nFAIL\tpackage\n' >"$LOG"
        exit 1
    fi ;;
judge) [ -e tried ] && rm tried || { touch tried; exit 1; } ;;
lint) [ ! -e dirty ] ;;
client-main) exit 75 ;;
esac
`

// ci is a repository with the .ci/run of this one and these steps.
type ci struct {
	t      *testing.T
	folder string
}

func newCI(t *testing.T) *ci {
	t.Helper()
	c := &ci{t, t.TempDir()}
	c.write(".ci/steps", steps)
	for from, to := range map[string]string{"run": ".ci/run", "steps": ".ci/real"} {
		text, err := os.ReadFile("../../.ci/" + from)
		if err != nil {
			t.Fatal(err)
		}
		c.write(to, string(text))
	}
	c.write(".ci/reruns", "# a comment\n")
	c.command("git", "init", "-q")
	c.command("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "first")
	return c
}

func (c *ci) write(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		c.t.Fatal(err)
	}
}

func (c *ci) command(name string, args ...string) {
	c.t.Helper()
	command := exec.Command(name, args...)
	command.Dir = c.folder
	if out, err := command.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// run runs .ci/run and wants it to pass or fail, and its output to have these parts.
func (c *ci) run(args string, pass bool, parts ...string) {
	c.t.Helper()
	command := exec.Command(".ci/run", strings.Fields(args)...)
	command.Dir = c.folder
	out, err := command.CombinedOutput()
	if pass != (err == nil) {
		c.t.Errorf(".ci/run %s: %v\n%s", args, err, out)
	}
	for _, part := range parts {
		if !strings.Contains(string(out), part) {
			c.t.Errorf(".ci/run %s does not print %q:\n%s", args, part, out)
		}
	}
}

func (c *ci) reruns() string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.folder, ".ci/reruns"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// TestSecondTries: what passes at the second try is listed, and each test counts once.
func TestSecondTries(t *testing.T) {
	t.Parallel()
	c := newCI(t)
	c.run("root judge client-main", true,
		"=== root: once more ^(TestA)$", "root: TestA TestA/sub\n", "judge: the whole step\n",
		"NOT DONE, because what they need is not to be had: client-main\n", "2 passed, 0 failed, 0 skipped")
	if got := c.reruns(); got != "# a comment\n" {
		t.Errorf("a run of some steps is remembered: %s", got)
	}
}

// TestFailedSteps: a step that fails makes CI fail, wherever it runs, and so does one that does not exist.
func TestFailedSteps(t *testing.T) {
	t.Parallel()
	c := newCI(t)
	c.run("quick", true, "root: TestA TestA/sub\n")
	c.run("lnit", false, "failed steps: lnit\n")
	c.write("dirty", "")
	c.run("quick", false, "=== lint: FAILED (exit status 1)", "failed steps: lint\n")
}

// TestRerunsAreRemembered: a test that needs a second try in two full runs makes the second fail, and the next gate too.
func TestRerunsAreRemembered(t *testing.T) {
	t.Parallel()
	c := newCI(t)
	c.run("", true, "root: TestA TestA/sub\n")
	if got := strings.Fields(strings.TrimPrefix(c.reruns(), "# a comment\n")); len(got) != 4 || got[2] != "TestA" || got[3] != "judge" {
		t.Errorf("remembered: %q", got)
	}
	c.run("full", false, "needed a second try again and again: TestA judge:", "failed steps: reruns\n")
	c.run("reruns", false, "failed steps: reruns\n")
	c.write(".ci/reruns", "# mended\n")
	c.run("reruns", true)
}
