package main

import (
	"context"
	"fmt"
	"time"

	"github.com/harebus/harebus/internal/redrive"
	"github.com/harebus/harebus/topology"
)

const redriveExplanation = `Moves messages from the error queue back to the queue each came from (its
SourceQueue header), so that they are handled again as if for the first time:
ErrorRetries, ErrorDetails, SourceQueue, DeferredTime and the broker's x-death
headers are removed. Body, ids and everything else stay as they are.

Each message is removed from the error queue only after the broker has confirmed
it in the other one: an interruption can leave a message in both, never in
neither. What is not moved stays in the error queue, at its place; only a message
of a quorum queue that has been looked at ten times goes to its end. Messages that
come while redrive runs are left alone.

stdout says what was done, a line for each message and one at the end.

Exit codes: 0 everything that was asked for was moved, 1 something was left for
another reason than -match and -count, 2 the command line is wrong.`

// runRedrive is the command redrive.
func runRedrive(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("redrive [flags]", redriveExplanation)
	var o redrive.Options
	url := urlFlag(flags)
	flags.IntVar(&o.Count, "count", 0, "move at most `N` messages; 0 is all")
	flags.StringVar(&o.Match, "match", "", "move only messages of this `type`")
	flags.StringVar(&o.To, "to", "", "move them to this `queue` instead of where they came from")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	flags.StringVar(&o.Queue, "error-queue", "error", "`queue` to move messages from")
	flags.StringVar(&o.HeaderPrefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "give up `after` this long without an answer from the broker")
	if code, done := parse(flags, args, std); done {
		return code
	}
	switch {
	case flags.NArg() > 0:
		return std.misuse(flags, fmt.Sprintf("unexpected argument %q", flags.Arg(0)))
	case o.Count < 0 || o.Timeout <= 0:
		return std.misuse(flags, "a number is out of range")
	case o.To == o.Queue:
		return std.misuse(flags, "-to is the error queue itself")
	}
	if o.To != "" {
		if err := topology.ValidName("queue", o.To); err != nil {
			return std.misuse(flags, err.Error())
		}
	}
	o.URL = url()
	report, err := redrive.Run(ctx, o, func(item redrive.Item) { printItem(std, item) })
	verb := "moved"
	if o.DryRun {
		verb = "would move"
	}
	fmt.Fprintf(std.out, "%s %d, left %d, not matched %d\n", verb, report.Moved, report.Left, report.Unmatched)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: %w", err))
	}
	if report.Left > 0 {
		return exitFailed
	}
	return exitOK
}

// printItem quotes what comes from a message: it may hold line breaks and worse.
func printItem(std stdio, item redrive.Item) {
	fmt.Fprintf(std.out, "%s %q", item.Action, item.ID)
	if item.Type != "" {
		fmt.Fprintf(std.out, " of type %q", item.Type)
	}
	if item.To != "" {
		fmt.Fprintf(std.out, " to %q", item.To)
	}
	if item.Reason != "" {
		fmt.Fprintf(std.out, ": %s", item.Reason)
	}
	fmt.Fprintln(std.out)
}
