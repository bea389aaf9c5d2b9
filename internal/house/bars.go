package main

import (
	"fmt"
	"io"
	"strings"
)

// A bar is a figure of the house and how large it may be.
type bar struct {
	name string
	// most is the largest figure that is accepted: today's, or the goal where that is reached. It may only fall: whoever lowers
	// the figure lowers most in the same commit.
	most int
	// goal is what the figure is to become.
	goal int
	// measure returns the figure, and the places that make it up where naming them helps.
	measure func(*house) (int, []string)
}

// bars are what the root package has to keep. The goals for files and lines are those with all capabilities of the bus; each
// of them has its code in packages of its own, and its exported names and their documentation in the root.
var bars = []bar{
	{"source files", 30, 30, (*house).files},
	{"lines, in hundreds", 70, 70, (*house).lines},
	{"files that hold *Setup", 5, 5, (*house).holdSetup},
	{"files that read Config.Queue", 1, 1, (*house).readQueue},
	{"fields of Config", 18, 18, (*house).fields},
	{"files that import amqp091-go", 2, 3, (*house).importClient},
	{"lines of go.sum", 25, 25, (*house).sums},
	{"lines of a function, median", 8, 8, (*house).median},
	{"lines of a function, 90 of 100", 21, 21, (*house).ninety},
	{"functions over 60 lines", 0, 0, (*house).long},
	{"exported names without a comment", 0, 0, (*house).undocumented},
}

// report prints the figures and returns an error for the bars that do not hold.
func report(w io.Writer, h *house, bars []bar) error {
	var broken []string
	fmt.Fprintf(w, "%-34s %7s %7s %7s\n", "", "now", "most", "goal")
	for _, b := range bars {
		now, places := b.measure(h)
		fmt.Fprintf(w, "%-34s %7d %7d %7d%s\n", b.name, now, b.most, b.goal, remark(now, b))
		if now > b.most {
			broken = append(broken, fmt.Sprintf("%s: %d, at most %d%s", b.name, now, b.most, list(places)))
		}
	}
	if len(broken) > 0 {
		return fmt.Errorf("measure the root package: more than internal/house/bars.go accepts:\n  %s", strings.Join(broken, "\n  "))
	}
	return nil
}

// remark says what to do about a figure that is not its bar.
func remark(now int, b bar) string {
	switch {
	case now > b.most:
		return "  TOO MANY"
	case now < b.most && b.most > b.goal:
		return "  lower the bar"
	}
	return ""
}

func list(places []string) string {
	if len(places) == 0 {
		return ""
	}
	return " (" + strings.Join(places, ", ") + ")"
}
