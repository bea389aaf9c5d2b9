package main

import (
	"slices"
	"time"
)

// everybody publishes; consumers and publishers differ in variants.
var (
	everybody  = []string{"harebus", "raw", "raw-coalesced", "watermill", "go-rabbitmq"}
	ours       = []string{"harebus", "raw"}
	publishers = append([]string{"harebus-sealed"}, everybody...)
	batchers   = []string{"harebus", "raw", "raw-coalesced"}
	consumers  = []string{"harebus", "raw", "raw-multiple", "watermill", "watermill-x10", "go-rabbitmq"}
	transforms = []string{"harebus", "raw", "watermill", "watermill-x10", "go-rabbitmq"}
	allWays    = []string{"harebus-plain", "harebus-ordered", "harebus-divided", "harebus-fair", "harebus-batch", "harebus-stream"}
	onBothEnds = []string{"harebus", "raw", "watermill", "go-rabbitmq"}
)

const (
	small = 256
	large = 4096
)

// changes says whether a database takes part.
func (s *spec) changes() bool {
	return slices.Contains([]string{"store", "store-10", "deliver", "drain", "handle"}, s.workload)
}

// planOf is what the options choose. The short plan has no database, unless it is named.
func planOf(o *options) []spec {
	switch {
	case !o.short:
		return append(fullPlan(), databasePlan()...)
	case o.workloads != "":
		return append(shortPlan(), databasePlan()...)
	default:
		return shortPlan()
	}
}

// databasePlan has what changes a database and sends messages.
func databasePlan() []spec {
	keepers := []string{"bare", "commit-publish", "harebus", "harebus-join", "watermill"}
	return []spec{
		{"store", "quorum", small, 1, 1, keepers},
		{"store-10", "quorum", small, 1, 1, keepers},
		{"store", "quorum", small, 8, 1, keepers},
		{"deliver", "quorum", small, 8, 1, keepers[1:]},
		{"drain", "quorum", small, 0, 1, []string{"harebus", "watermill"}},
		{"handle", "quorum", small, 0, 1, []string{"commit-publish", "harebus"}},
	}
}

// shortPlan has the rows that decide, most wanted first.
func shortPlan() []spec {
	var plan []spec
	for _, kind := range []string{"quorum", "classic"} {
		plan = append(plan,
			spec{"publish", kind, small, 100, 1, everybody},
			spec{"publish", kind, small, 1000, 1, []string{"harebus", "raw", "watermill"}},
			spec{"publish", kind, small, 1, 1, ours},
			spec{"transaction", kind, small, 1, 1, batchers},
			spec{"consume", kind, small, 0, 1, []string{"harebus", "raw", "watermill"}},
		)
	}
	return append(plan,
		spec{"transform", "quorum", small, 0, 1, []string{"harebus", "raw", "watermill", "watermill-x10"}},
		spec{"end-to-end", "quorum", small, 100, 1, ours},
		spec{"request", "quorum", small, 1, 1, ours},
		spec{"request", "quorum", small, 50, 1, ours},
		spec{"ways", "quorum", small, 0, 1, allWays},
		spec{"ways-1ms", "quorum", small, 0, 1, []string{"harebus-plain", "harebus-batch"}},
		spec{"publish", "null", small, 1000, 1, batchers},
		spec{"transaction", "null", small, 1, 1, batchers},
		spec{"consume", "null", small, 0, 1, ours},
	)
}

// fullPlan has everything.
func fullPlan() []spec {
	var plan []spec
	for _, kind := range []string{"quorum", "classic"} {
		for _, goroutines := range []int{1, 10, 100, 1000} {
			plan = append(plan, spec{"publish", kind, small, goroutines, 1, publishers})
		}
		for _, goroutines := range []int{1, 100} {
			plan = append(plan, spec{"publish", kind, large, goroutines, 1, everybody})
		}
		plan = append(plan,
			spec{"publish", kind, small, 100, 4, everybody},
			spec{"publish", kind, small, 1000, 4, everybody},
			spec{"transaction", kind, small, 1, 1, batchers},
			spec{"transaction", kind, large, 1, 1, batchers},
			spec{"consume", kind, small, 0, 1, consumers},
			spec{"consume", kind, large, 0, 1, consumers},
			spec{"transform", kind, small, 0, 1, transforms},
			spec{"end-to-end", kind, small, 100, 1, onBothEnds},
			spec{"saturated", kind, small, 100, 1, onBothEnds},
			spec{"retry", kind, small, 0, 1, []string{"harebus"}},
			spec{"request", kind, small, 1, 1, ours},
			spec{"request", kind, small, 50, 1, ours},
		)
	}
	for _, goroutines := range []int{1, 100, 1000} {
		plan = append(plan, spec{"publish", "null", small, goroutines, 1, publishers})
	}
	return append(plan,
		spec{"ways", "quorum", small, 0, 1, allWays},
		spec{"ways-1ms", "quorum", small, 0, 1, []string{"harebus-plain", "harebus-batch"}},
		spec{"publish", "null", large, 1000, 1, batchers},
		spec{"transaction", "null", small, 1, 1, batchers},
		spec{"consume", "null", small, 0, 1, []string{"harebus", "raw", "raw-multiple"}},
		spec{"transform", "null", small, 0, 1, ours},
	)
}

// only keeps what the flags name; empty lists keep all.
func only(plan []spec, workloads, kinds, names []string) []spec {
	var kept []spec
	for _, s := range plan {
		if len(workloads) > 0 && !slices.Contains(workloads, s.workload) ||
			len(kinds) > 0 && !slices.Contains(kinds, s.kind) {
			continue
		}
		if len(names) > 0 {
			s.libraries = slices.DeleteFunc(slices.Clone(s.libraries), func(n string) bool { return !slices.Contains(names, n) })
		}
		if len(s.libraries) > 0 {
			kept = append(kept, s)
		}
	}
	return kept
}

// paceOf a workload: rare or slow workloads get a little more time.
func paceOf(base pace, s spec) pace {
	switch s.workload {
	case "end-to-end":
		base.duration = max(4*base.duration, 600*time.Millisecond)
	case "deliver":
		base.duration = max(4*base.duration, time.Second)
	case "retry":
		base.messages /= 4
	case "handle":
		base.messages /= 3
	case "transform":
		base.messages /= 2
	case "ways-1ms":
		base.messages /= 5
	}
	return base
}
