package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestFigures measures a small package, of which every figure is known.
func TestFigures(t *testing.T) {
	t.Parallel()
	h, err := read("testdata/small")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		figure int
		places []string
	}{
		"source files":                     {3, nil},
		"lines, in hundreds":               {2, nil},
		"files that hold *Setup":           {1, []string{"setup.go"}},
		"files that read Config.Queue":     {1, []string{"setup.go"}},
		"fields of Config":                 {1, []string{"Queue"}},
		"files that import amqp091-go":     {1, []string{"setup.go"}},
		"lines of go.sum":                  {2, nil},
		"lines of a function, median":      {1, nil},
		"lines of a function, 90 of 100":   {61, nil},
		"functions over 60 lines":          {1, []string{"long.go Long has 61"}},
		"exported names without a comment": {3, []string{"Message", "Name", "Three"}},
	}
	for _, b := range bars {
		got, places := b.measure(h)
		if w, ok := want[b.name]; !ok || got != w.figure || !slices.Equal(places, w.places) {
			t.Errorf("%s: %d %q; want %d %q", b.name, got, places, w.figure, w.places)
		}
	}
}

// TestQueueIsRead finds the two ways to read the queue's name, each alone.
func TestQueueIsRead(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"method": 1, "field": 1, "other": 0} {
		h, err := read("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := h.readQueue(); got != want {
			t.Errorf("%s: %d files read the queue; want %d", name, got, want)
		}
	}
}

// TestBarsHold lets the report name the bar that does not hold, its figure and its places, and no other.
func TestBarsHold(t *testing.T) {
	t.Parallel()
	held := []bar{
		{"files", 3, 2, (*house).files},
		{"setup", 1, 0, (*house).holdSetup},
		{"long", 2, 0, (*house).long},
	}
	var out bytes.Buffer
	if err := run(&out, "testdata/small", held); err != nil {
		t.Errorf("all bars hold, and there is an error: %v", err)
	}
	for _, line := range []string{"files 3 3 2", "setup 1 1 0", "long 1 2 0 lower the bar"} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), line) {
			t.Errorf("no %q in the report:\n%s", line, out.String())
		}
	}
	held[1].most = 0
	err := run(io.Discard, "testdata/small", held)
	if err == nil || !strings.Contains(err.Error(), "setup: 1, at most 0 (setup.go)") ||
		strings.Contains(err.Error(), "files:") || strings.Contains(err.Error(), "long:") {
		t.Errorf("one bar does not hold: %v", err)
	}
}

// TestNoGoFiles: a wrong folder must not read as a small house.
func TestNoGoFiles(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"testdata", "testdata/nowhere"} {
		if err := run(io.Discard, folder, bars); err == nil {
			t.Errorf("%s: no error", folder)
		}
	}
}
