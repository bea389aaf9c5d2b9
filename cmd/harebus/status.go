package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/pulse"
)

const statusExplanation = `Asks the instances of services how they are, and prints a line for each queue of each
instance: what it handles now, and what has become of the messages since it started.
With names of queues only these are shown, also when no instance answers. Services answer
if they use package pulse; of others a named queue shows how many messages and consumers
it has. A remark says when a queue has more consumers than the instances that have answered:
the others do not use package pulse, or were slower than -quiet. Nothing is changed.

TIME is from a delivery until its handler is done, CRITICAL from the sending of a message
until then: the bounds below which half and 99 of 100 lie. -types prints a line for each
type of message. LIMIT is how many messages an instance handles at once, and a second.

Exit codes: 0 done, 1 the command has failed, 2 the command line is wrong.`

// asking is what the commands that ask instances have in common.
type asking struct {
	*services.Asker

	std     stdio
	json    bool
	wait    time.Duration
	quiet   time.Duration
	timeout time.Duration
}

// askFlags adds the flags of a command that asks.
func (a *asking) flags(flags *flag.FlagSet) {
	flags.BoolVar(&a.json, "json", false, "print JSON objects, one a line")
	flags.DurationVar(&a.wait, "wait", 2*time.Second, "how long the first answer may `take`")
	flags.DurationVar(&a.quiet, "quiet", 250*time.Millisecond, "wait for the next answer for at most this `time`; more for slow instances")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "give up `after` this long without a broker")
}

// open makes the asker. The caller closes it.
func (a *asking) open(b access.Broker) (err error) {
	if a.wait <= 0 || a.quiet <= 0 || a.timeout <= 0 {
		return errors.New("-wait, -quiet and -timeout must be more than 0")
	}
	a.Asker, err = services.Open(services.Options{Broker: b, Operator: whoActs(), Wait: a.wait, Quiet: a.quiet, Timeout: a.timeout})
	return err
}

// look asks, and says which answers were none. JSON has no place for a refusal.
func (a *asking) look(ctx context.Context, queues []string, others ...string) (*services.State, error) {
	s, err := a.Look(ctx, queues, others...)
	switch {
	case err != nil:
		return nil, err
	case s.Refused != nil && a.json:
		return nil, s.Refused
	}
	a.noteUnreadable(s)
	return s, nil
}

func (a *asking) noteUnreadable(s *services.State) {
	if s.Round.Unreadable > 0 {
		fmt.Fprintf(a.std.err, "harebus: %d answers could not be read\n", s.Round.Unreadable)
	}
}

// errNotAsked ends a command that has printed why.
var errNotAsked = errors.New("no instance could be asked")

// noteRefused prints why no instance could be asked.
func noteRefused(w io.Writer, refused error) {
	fmt.Fprintf(w, "? %s: %s\n", errNotAsked, visible.Line(refused.Error()))
}

// printNotes prints notes, a line each.
func printNotes(w io.Writer, notes ...[]string) {
	for _, note := range slices.Concat(notes...) {
		fmt.Fprintln(w, note)
	}
}

// runStatus is the command status.
func runStatus(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("status [flags] [QUEUE...]", statusExplanation)
	a := &asking{std: std}
	connect := connectionFlags(flags)
	a.flags(flags)
	types := flags.Bool("types", false, "print a line for each type of message, too")
	if code, done := parse(flags, args, std); done {
		return code
	}
	broker, err := connect.broker(std)
	if err == nil {
		err = a.open(broker)
	}
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	defer a.Close()
	if err := a.status(ctx, flags.Args(), *types); err != nil {
		return std.fail(fmt.Errorf("harebus: status: %w", err))
	}
	return exitOK
}

func (a *asking) status(ctx context.Context, queues []string, types bool) error {
	ctx, cancel := a.Bounded(ctx)
	defer cancel()
	state, err := a.look(ctx, queues)
	if err != nil {
		return err
	}
	answers := state.Round.Answers
	if a.json {
		printNotes(a.std.err, state.MoreConsumers())
		for i := range answers {
			if err := queue.WriteJSON(a.std.out, answers[i]); err != nil {
				return err
			}
		}
		return state.Blocked()
	}
	var text strings.Builder
	if len(answers) > 0 {
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0) //nolint:mnd // columns two apart
		fmt.Fprintln(w, "INSTANCE\tSERVICE\tVERSION\tUP\tQUEUE\tSTATE\tLIMIT\tIN HAND\tOLDEST\tHANDLED\tFAILED\tRETRIED\tPARKED\tTIME\tCRITICAL")
		for i := range answers {
			statusLines(w, &answers[i], types)
		}
		_ = w.Flush() // a Builder takes everything
	}
	printNotes(&text, state.MoreConsumers(), state.Remarks())
	if state.Refused != nil {
		noteRefused(&text, state.Refused)
	}
	printNotes(&text, state.Unanswered())
	if text.Len() == 0 {
		text.WriteString("no instance has answered; services answer if they use package pulse\n")
	}
	if _, err = io.WriteString(a.std.out, text.String()); err == nil && state.Refused != nil {
		return errNotAsked
	}
	return cmp.Or(err, state.Blocked())
}

// statusLines prints an instance.
func statusLines(w io.Writer, a *pulse.Answer, types bool) {
	for i := range a.Queues {
		q := &a.Queues[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", visible.Word(a.Instance), visible.Word(a.Service), visible.Word(cmp.Or(a.Version, "-")), services.Short(a.Clock.Sub(a.Started)),
			visible.Word(q.Name), services.Condition(a, q), services.Limits(q), q.InHand, services.Short(q.Oldest), counts(&q.All))
		for _, name := range slices.Sorted(maps.Keys(q.Types)) {
			if of := q.Types[name]; types {
				fmt.Fprintf(w, "\t\t\t\t  %s\t\t\t\t\t%s\n", visible.Word(name), counts(&of))
			}
		}
	}
}

func counts(m *harebus.MessageStats) string {
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%s\t%s", m.Handled, m.Failed, m.Retried, m.Parked, services.Quantiles(m.HandlingTime), services.Quantiles(m.CriticalTime))
}
