package main

import (
	"regexp"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/harebus/harebus/pulse"
)

// TestControl: the instances that take orders do what they are told; the others are named.
func TestControl(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	execute(t, "", "control", "pause", "-wait", "300ms", "-url", url, "orders").check(t, exitFailed, `no instance answers for the queue "orders"`)
	plain := serving(t, b, pulse.Config{}, "orders")
	execute(t, "", "control", "pause", "-url", url, "orders").check(t, exitFailed, "none of 1 instances takes orders")
	level := zap.NewAtomicLevelAt(zap.WarnLevel)
	setup := serving(t, b, pulse.Config{Control: true, LogLevel: &level}, "orders")
	for _, step := range []struct {
		args      []string
		code      int
		out, fail string
	}{
		{[]string{"pause", "orders"}, exitOK, `(?s)^\S+  paused  +limit 10  0 in hand\n\S+  takes no orders\n$`, ""},
		{[]string{"resume", "orders"}, exitOK, `^\S+  consumes  limit 10  0 in hand\n`, ""},
		{[]string{"concurrency", "-prefetch", "9", "orders", "3"}, exitOK, `consumes  limit 3  0 in hand\n`, ""},
		{[]string{"rate", "orders", "2.5"}, exitOK, `consumes  limit 3, 2\.5/s  0 in hand\n`, ""},
		{[]string{"rate", "orders", "0.01"}, exitFailed, `refused: .*lower the concurrency first`, "of 1 instances 1 have refused and 0 have not answered"},
		{[]string{"log", "-for", "5m", "orders", "debug"}, exitOK, `consumes  limit 3, 2\.5/s  0 in hand  log debug until \d\d:`, ""},
		{[]string{"log", "orders", "loud"}, exitFailed, `refused: "loud" is none of debug, info, warn and error`, "1 have refused"},
		{[]string{"rate", "-json", "orders", "0"}, exitOK, `^\{"instance":`, ""},
		{[]string{"pause", "-instance", "nobody", "orders"}, exitFailed, "^$", "no instance answers"},
	} {
		args := append([]string{"control", step.args[0], "-url", url}, step.args[1:]...)
		r := execute(t, "", args...)
		r.check(t, step.code, step.fail)
		if !regexp.MustCompile(step.out).MatchString(r.out) {
			t.Errorf("%v printed\n%s", step.args, r.out)
		}
	}
	if _, err := client(t, b).Consume("orders", "stranger", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"-json"}} {
		r := execute(t, "", append(append([]string{"control", "resume", "-url", url}, args...), "orders")...)
		if r.code != exitOK || !strings.Contains(r.out+r.err, "? orders has 1 consumers more than the instances that have answered\n") || strings.Contains(r.err, "?") == (len(args) == 0) {
			t.Errorf("exit code %d, printed\n%s%s", r.code, r.out, r.err)
		}
	}
	if r := execute(t, "", "status", "-url", url); !strings.Contains(r.out, ": its log is written at level debug until ") || level.Level() != zap.DebugLevel {
		t.Errorf("level %v, printed\n%s", level, r.out)
	}
	if got := setup.Endpoints()[0].Stats().Consume; got.Concurrency != 3 || got.Prefetch != 9 || plain.Stats().Paused {
		t.Errorf("consumes with %+v", got)
	}
}

// TestControlMisuse: what is wrong with a command line is said in one line.
func TestControlMisuse(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"want pause, resume": {"stop", "q"},
		"got \"\"":           {"-json"},
		"pause needs 1":      {"pause"},
		"rate needs 2":       {"rate", "q"},
		"is not a number":    {"concurrency", "q", "many"},
		"log needs 2":        {"log", "q"},
		"-for must be":       {"log", "-for", "-1s", "q", "debug"},
		"-for is not":        {"pause", "-for", "1s", "q"},
		"-prefetch is not":   {"pause", "-prefetch", "3", "q"},
		"must be more than":  {"pause", "-wait", "0", "q"},
		"-quiet and":         {"pause", "-quiet", "0", "q"},
		"-instance is empty": {"pause", "-instance", "", "q"},
	} {
		r := execute(t, "", append([]string{"control"}, args...)...)
		r.check(t, exitUsage, name)
		if strings.Count(r.err, "\n") != 1 {
			t.Errorf("%q", r.err)
		}
	}
	execute(t, "", "status", "-wait", "0s").check(t, exitUsage, "must be more than")
	execute(t, "", "top", "-every", "0s").check(t, exitUsage, "must be more than")
}
