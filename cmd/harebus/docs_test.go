package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/topology"
)

// documentedCommand is one on a page of the documentation: in a sentence or a table, or in a line of a block.
var documentedCommand = regexp.MustCompile("(?m)`harebus ([^`\n]+)`|^(?:\\$ |    )harebus ([^\n]+)$")

// TestDocumentedCommands: a command that a page prints is one that this version takes. What only names a command, or a flag without its
// value, need not be, nor what needs a file of keys.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	stands := map[string]string{
		"FILE": topologyFile(t, ordersService), "TICKET": topology.Ticket{ID: "0193a7c2-0000-7000-8000-000000000001", Due: time.Now().Add(time.Hour)}.String(),
		"QUEUE": ordersService.Queue, "…": defaultURL, "/var/lib/orders": t.TempDir(),
	}
	stands["orders.json"], stands["orders-old.json"] = stands["FILE"], stands["FILE"]
	ended, end := context.WithCancel(t.Context())
	end() // nothing is done
	ran := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range documentedCommand.FindAllStringSubmatch(string(text), -1) {
			line := found[1] + found[2]
			for _, rest := range []string{" > ", " #", "   (", " && ", " | "} {
				line, _, _ = strings.Cut(line, rest)
			}
			words := strings.Fields(strings.ReplaceAll(line, "'", ""))
			for i, word := range words {
				if stand, ok := stands[word]; ok {
					words[i] = stand
				}
			}
			if !slices.ContainsFunc(table(), func(c command) bool { return c.name == words[0] }) {
				t.Errorf("%s: harebus %s: there is no such command", page, line)
			}
			if !slices.Contains([]string{"errors", "status", "top", "control", "topology", "doctor", "deferred", "parked", "schedule", "peek", "redrive", "replay", "send", "publish", "ui"}, words[0]) {
				continue
			}
			last := words[len(words)-1]
			if names := len(words) <= 2 && !strings.HasPrefix(last, "-"); names || strings.HasPrefix(last, "-") && found[2] == "" || slices.Contains(words, "-keys") {
				continue
			}
			ran++
			var out, errs buffer
			if code := run(ended, words, strings.NewReader(""), &out, &errs); code == exitUsage {
				t.Errorf("%s: harebus %s: %s", page, line, errs.String())
			}
		}
	}
	if ran < 40 {
		t.Errorf("only %d commands were found", ran)
	}
}
