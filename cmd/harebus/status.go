package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus"
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
	std     stdio
	client  *pulse.Client
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

// open makes the client. The caller closes it.
func (a *asking) open(b access.Broker) (err error) {
	if a.wait <= 0 || a.quiet <= 0 || a.timeout <= 0 {
		return errors.New("-wait, -quiet and -timeout must be more than 0")
	}
	a.client, err = pulse.Open(pulse.ClientConfig{
		Connect: harebus.ConnectConfig{URLs: b.URLs, TLS: b.TLS, ExternalAuth: b.ExternalAuth}, Patience: a.wait, Quiet: a.quiet, From: whoActs(), Log: b.Log,
	})
	return err
}

// bounded ends a round that the broker does not let end.
func (a *asking) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.timeout+2*a.wait, fmt.Errorf("gave up after %v", a.timeout))
}

// tell asks the instances of some queues, or all. Without an answer of the broker to that, such as in
// an alarm, refused says why, and queues can still be looked at.
func (a *asking) tell(ctx context.Context, queues []string) (round *pulse.Round, refused, err error) {
	round, refused = a.ask(ctx, queues)
	if refused == nil {
		return round, nil, nil
	}
	if a.json || ctx.Err() != nil {
		return nil, nil, refused
	}
	return &pulse.Round{}, refused, nil
}

// errNotAsked ends a command that has printed why.
var errNotAsked = errors.New("no instance could be asked")

// noteRefused prints why no instance could be asked.
func noteRefused(w io.Writer, refused error) {
	fmt.Fprintf(w, "? %s: %s\n", errNotAsked, visible.Line(refused.Error()))
}

// ask asks the instances of some queues, or all.
func (a *asking) ask(ctx context.Context, queues []string) (*pulse.Round, error) {
	to := pulse.Target{}
	if len(queues) == 1 {
		to.Queue = queues[0]
	}
	round, err := a.client.Ask(ctx, to)
	if err != nil {
		return nil, err
	}
	if round.Unreadable > 0 {
		fmt.Fprintf(a.std.err, "harebus: %d answers could not be read\n", round.Unreadable)
	}
	if len(queues) > 0 {
		for i := range round.Answers {
			mine := &round.Answers[i].Queues
			*mine = slices.DeleteFunc(*mine, func(q pulse.Queue) bool { return !slices.Contains(queues, q.Name) })
		}
		round.Answers = slices.DeleteFunc(round.Answers, func(a pulse.Answer) bool { return len(a.Queues) == 0 })
	}
	return round, nil
}

// silent are the queues of which no instance has answered.
func silent(queues []string, round *pulse.Round) []string {
	return slices.DeleteFunc(slices.Clone(queues), func(name string) bool {
		return slices.ContainsFunc(round.Answers, func(a pulse.Answer) bool {
			return slices.ContainsFunc(a.Queues, func(q pulse.Queue) bool { return q.Name == name })
		})
	})
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
	defer a.client.Close()
	if err := a.status(ctx, flags.Args(), *types); err != nil {
		return std.fail(fmt.Errorf("harebus: status: %w", err))
	}
	return exitOK
}

func (a *asking) status(ctx context.Context, queues []string, types bool) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	round, refused, err := a.tell(ctx, queues)
	if err != nil {
		return err
	}
	consumers := consuming(round.Answers)
	waiting, err := a.client.Waiting(ctx, append(slices.Collect(maps.Keys(consumers)), silent(queues, round)...))
	if err != nil {
		return err
	}
	if a.json {
		noteConsumers(a.std.err, consumers, waiting)
		for _, answer := range round.Answers {
			if err := queue.WriteJSON(a.std.out, answer); err != nil {
				return err
			}
		}
		return nil
	}
	var text strings.Builder
	if len(round.Answers) > 0 {
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0) //nolint:mnd // columns two apart
		fmt.Fprintln(w, "INSTANCE\tSERVICE\tVERSION\tUP\tQUEUE\tSTATE\tLIMIT\tIN HAND\tOLDEST\tHANDLED\tFAILED\tRETRIED\tPARKED\tTIME\tCRITICAL")
		for i := range round.Answers {
			statusLines(w, &round.Answers[i], types)
		}
		_ = w.Flush() // a Builder takes everything
	}
	noteConsumers(&text, consumers, waiting)
	remarks(&text, round.Answers)
	if refused != nil {
		noteRefused(&text, refused)
	}
	noteSilent(&text, silent(queues, round), waiting)
	if text.Len() == 0 {
		text.WriteString("no instance has answered; services answer if they use package pulse\n")
	}
	if _, err = io.WriteString(a.std.out, text.String()); err == nil && refused != nil {
		return errNotAsked
	}
	return err
}

// consuming is how many consumers the instances have that have answered, by queue. Several services
// may share a queue.
func consuming(answers []pulse.Answer) map[string]int {
	consumers := map[string]int{}
	for i := range answers {
		for _, q := range answers[i].Queues {
			n := q.Consumers
			if q.Paused {
				n = 0
			}
			consumers[q.Name] += n
		}
	}
	return consumers
}

// noteConsumers prints which queues have consumers that have not answered.
func noteConsumers(w io.Writer, consumers map[string]int, waiting map[string]pulse.Waiting) {
	for _, name := range slices.Sorted(maps.Keys(consumers)) {
		if more := waiting[name].Consumers - consumers[name]; more > 0 {
			fmt.Fprintf(w, "? %s has %d consumers more than the instances that have answered\n", visible.Word(name), more)
		}
	}
}

// noteSilent prints what is known of queues of which no instance has answered.
func noteSilent(w io.Writer, queues []string, waiting map[string]pulse.Waiting) {
	for _, name := range slices.Sorted(slices.Values(queues)) {
		fmt.Fprintf(w, "? %s: no answer; %s\n", visible.Word(name), waits(waiting[name]))
	}
}

// waits says what is known of a queue without an instance that answers.
func waits(w pulse.Waiting) string {
	switch {
	case w.Unknown != "":
		return visible.Line(w.Unknown)
	case !w.Exists:
		return "there is no such queue"
	}
	return fmt.Sprintf("%d messages are ready, and it has %d consumers", w.Ready, w.Consumers)
}

// statusLines prints an instance.
func statusLines(w io.Writer, a *pulse.Answer, types bool) {
	for i := range a.Queues {
		q := &a.Queues[i]
		state := "consumes"
		switch {
		case q.Paused:
			state = "paused"
		case a.NotReady != "":
			state = "not ready"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", visible.Word(a.Instance), visible.Word(a.Service), visible.Word(cmp.Or(a.Version, "-")), short(a.Clock.Sub(a.Started)),
			visible.Word(q.Name), state, limits(q), q.InHand, short(q.Oldest), counts(&q.All))
		for _, name := range slices.Sorted(maps.Keys(q.Types)) {
			if of := q.Types[name]; types {
				fmt.Fprintf(w, "\t\t\t\t  %s\t\t\t\t\t%s\n", visible.Word(name), counts(&of))
			}
		}
	}
}

// limits are how many messages are handled at once, and a second.
func limits(q *pulse.Queue) string {
	text := strconv.Itoa(q.Concurrency)
	if q.Consumers > 1 {
		text = fmt.Sprintf("%d×%d", q.Consumers, q.Concurrency)
	}
	if q.Rate > 0 {
		text += fmt.Sprintf(", %.4g/s", q.Rate)
	}
	return text
}

func counts(m *harebus.MessageStats) string {
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%s\t%s", m.Handled, m.Failed, m.Retried, m.Parked, quantiles(m.HandlingTime), quantiles(m.CriticalTime))
}

// quantiles are the bounds of half and of 99 of 100.
func quantiles(h harebus.Histogram) string {
	if h.Count() == 0 {
		return "-"
	}
	return short(h.Quantile(0.5)) + "/" + short(h.Quantile(0.99)) //nolint:mnd // as the help says
}

// short is a duration in few characters.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d == math.MaxInt64:
		return ">24h"
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Minute:
		d = d.Round(time.Second)
	case d >= time.Second:
		d = d.Round(100 * time.Millisecond) //nolint:mnd // one digit
	case d >= time.Millisecond:
		d = d.Round(100 * time.Microsecond) //nolint:mnd // one digit
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// tolerance is how far a clock may be wrong without a remark.
const tolerance = 2 * time.Second

// remarks prints what is unusual about instances.
func remarks(w io.Writer, answers []pulse.Answer) {
	for i := range answers {
		a := &answers[i]
		if a.NotReady != "" {
			fmt.Fprintf(w, "▲ %s is not ready: %s\n", visible.Word(a.Instance), visible.Line(a.NotReady))
		}
		if a.Ahead.Abs() > tolerance {
			fmt.Fprintf(w, "▲ %s: its clock is %s %s that of this machine\n", visible.Word(a.Instance), short(a.Ahead.Abs()), map[bool]string{true: "ahead of", false: "behind"}[a.Ahead > 0])
		}
		if !a.LogUntil.IsZero() {
			fmt.Fprintf(w, "▲ %s: its log is written at level %s until %s\n", visible.Word(a.Instance), visible.Word(a.LogLevel), a.LogUntil.UTC().Format("15:04:05Z"))
		}
		if a.Cut {
			fmt.Fprintf(w, "▲ %s has too many types or queues to name all\n", visible.Word(a.Instance))
		}
	}
}
