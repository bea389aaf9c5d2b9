package ledger_test

import (
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/ledger"
)

// TestOrders: the judge finds what is missing, inverted and skipped, and nothing else.
func TestOrders(t *testing.T) {
	t.Parallel()
	type step struct {
		do string // "s": sent, "S": perhaps twice, "t": new owner, "r": new router, "d": done, "g": given up, "l": done by another process
		n  int
	}
	for name, c := range map[string]struct {
		steps []step
		want  string
	}{
		"in order":              {[]step{{"s", 3}, {"d", 1}, {"d", 2}, {"d", 3}}, "3 sent, 3 handled, 1 owners, 0 repeated, 0 late"},
		"missing at the end":    {[]step{{"s", 3}, {"d", 1}, {"d", 2}}, "NOLOSS: missing (1): a: 3"},
		"skipped":               {[]step{{"s", 3}, {"d", 1}, {"d", 3}}, "ORDER: gaps (1): a: 3 after 1"},
		"inverted":              {[]step{{"s", 2}, {"d", 2}, {"d", 1}}, "ORDER: inversions (2)"},
		"sent again":            {[]step{{"s", 3}, {"r", 0}, {"d", 1}, {"r", 0}, {"d", 2}, {"d", 1}, {"d", 2}, {"d", 3}}, "3 sent, 3 handled, 1 owners, 2 repeated, 0 late"},
		"sent again twice":      {[]step{{"s", 2}, {"r", 0}, {"d", 1}, {"r", 0}, {"d", 2}, {"d", 1}, {"d", 2}, {"d", 1}}, "ORDER: gaps (1): a: 1 after 2"},
		"given up":              {[]step{{"s", 3}, {"d", 1}, {"g", 2}, {"d", 3}}, "3 sent, 2 handled, 1 owners, 0 repeated, 0 late"},
		"a step back":           {[]step{{"s", 3}, {"d", 1}, {"d", 2}, {"t", 0}, {"d", 1}, {"d", 2}, {"d", 3}}, "3 sent, 3 handled, 2 owners, 2 repeated, 0 late"},
		"repeated by the owner": {[]step{{"s", 2}, {"d", 1}, {"d", 1}, {"d", 2}}, "ORDER: gaps (1): a: 1 after 1"},
		"a gap after a step":    {[]step{{"s", 4}, {"d", 1}, {"d", 2}, {"d", 3}, {"t", 0}, {"d", 1}, {"d", 3}, {"d", 4}}, "ORDER: gaps (1): a: 3 after 1"},
		"perhaps twice":         {[]step{{"S", 1}, {"s", 2}, {"d", 1}, {"d", 1}, {"d", 2}}, "2 sent, 2 handled, 1 owners, 1 repeated, 0 late"},
		"late":                  {[]step{{"s", 2}, {"d", 1}, {"l", 2}, {"d", 2}}, "2 sent, 2 handled, 1 owners, 0 repeated, 1 late"},
		"late and missing":      {[]step{{"s", 2}, {"d", 1}, {"l", 2}}, "NOLOSS: missing (1): a: 2"},
		"given up and done":     {[]step{{"S", 2}, {"d", 1}, {"d", 2}, {"g", 2}, {"s", 3}, {"d", 3}}, "3 sent, 3 handled, 1 owners, 0 repeated, 0 late"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := ledger.NewOrders()
			o.Tenure("p")
			for _, s := range c.steps {
				switch s.do {
				case "s", "S":
					o.Sent("a", s.n, s.do == "S")
				case "t":
					o.Tenure("p")
				case "r":
					o.Router()
				case "g":
					o.GivenUp("a", s.n)
				case "l":
					o.Done("zombie", "a", s.n)
				default:
					o.Done("p", "a", s.n)
				}
			}
			v := o.Verdict()
			if !strings.Contains(v.String(), c.want) || v.OK() == (strings.Contains(c.want, "ORDER") || strings.Contains(c.want, "NOLOSS")) {
				t.Errorf("%v, want %s", v, c.want)
			}
		})
	}
}
