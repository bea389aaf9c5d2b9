package harebus_test

import (
	"testing"
)

// TestLowDeliveryLimit: a delivery limit below the number of attempts is told once at each
// start, with the argument and what to do. It counts whatever kind of number it is.
func TestLowDeliveryLimit(t *testing.T) {
	for name, c := range map[string]struct {
		limit   any
		retries int
		lines   int
	}{
		"lower":       {3, 5, 1},
		"as an int64": {int64(5), 5, 1},
		"as high":     {6, 5, 0},
		"the default": {nil, 30, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				logger, logs := observed()
				cfg := r.config("orders")
				cfg.Logger, cfg.Retry.MaxRetries = logger, c.retries
				if c.limit != nil {
					cfg.QueueOptions.Arguments = map[string]any{"x-delivery-limit": c.limit}
				}
				s, _ := counting(r, cfg)
				r.start(s)
				told := logs.FilterMessageSnippet("x-delivery-limit in QueueOptions.Arguments is lower")
				if told.Len() != c.lines {
					t.Errorf("%d lines, want %d", told.Len(), c.lines)
				}
			})
		})
	}
}
