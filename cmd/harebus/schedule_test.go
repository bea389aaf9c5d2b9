package main

import (
	"strings"
	"testing"
)

// TestScheduleMisuse: what cannot be is refused before the broker is asked.
func TestScheduleMisuse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 250)
	for says, args := range map[string][]string{
		"want ls, run":        {"list", "orders"},
		"run needs 2":         {"run", "orders"},
		"it has 260 bytes":    {"ls", "-timeout", "2s", "-url", "amqp://127.0.0.1:1", long},
		"it has 300 bytes":    {"run", "-timeout", "2s", "-url", "amqp://127.0.0.1:1", "-tokens", long + long[:50], "orders", "daily"},
		"must be more than 0": {"ls", "-timeout", "0s", "orders"},
	} {
		execute(t, "", append([]string{"schedule"}, args...)...).check(t, exitUsage, says)
	}
}
