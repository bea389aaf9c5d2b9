package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/pulse"
)

const topExplanation = `Shows the services that answer, a line for each queue of each service, and again every -every.
When the output is no terminal, it prints one table and ends; -rounds says how many.
With names of queues only these are shown, also when no instance answers.

INST is how many instances have answered, READY how many messages wait in the queue, and the
rates and CRITICAL (from the sending of a message until it was handled: below which half and 99
of 100 lie) are those since the table before. RETRIED and PARKED count since the instances
started. Of a queue with the tokens of recurring schedules a line says how many there are,
which is due next, and what is overdue. Below are the number of messages in the error queue
(-error-queue) and how fast it grows, and the number of deferred messages, which is asked for
every 20 seconds.

Exit codes: 0 done or interrupted, 1 the command has failed, 2 the command line is wrong.`

// top is one run of the command top.
type top struct {
	asking

	queues     []string
	errorQueue string
	every      time.Duration
	rounds     int
	live       bool // the table is drawn in place

	leaders schedules
	delays  delays
	watch   services.Watch
	failed  int       // messages in the error queue before; -1 is unknown
	at      time.Time // of that
}

// runTop is the command top.
func runTop(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("top [flags] [QUEUE...]", topExplanation)
	t := &top{asking: asking{std: std}, failed: -1}
	connect := connectionFlags(flags)
	t.flags(flags)
	flags.DurationVar(&t.every, "every", 2*time.Second, "ask again after this `time`")
	flags.IntVar(&t.rounds, "rounds", 0, "end after `N` tables; 0 is 1, and without an end on a terminal")
	flags.StringVar(&t.errorQueue, "error-queue", "error", "`queue` of failed messages")
	if code, done := parse(flags, args, std); done {
		return code
	}
	if t.every <= 0 || t.rounds < 0 {
		return std.misuse(flags, "-every must be more than 0, and -rounds not less")
	}
	broker, err := connect.broker(std)
	if err == nil {
		err = t.open(broker)
	}
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	defer t.Close()
	t.delays = delays{options: deferred.Options{Broker: broker, HeaderPrefix: "PikaBus.", Timeout: t.timeout}}
	t.leaders = schedules{broker: broker, std: std}
	defer t.leaders.close()
	file, _ := std.out.(*os.File)
	t.queues, t.live = flags.Args(), file != nil && isTerminal(file) && !t.json
	if t.rounds == 0 && !t.live {
		t.rounds = 1
	}
	if err := t.run(ctx); err != nil && ctx.Err() == nil {
		return std.fail(fmt.Errorf("harebus: top: %w", err))
	}
	return exitOK
}

// run asks once for the counts that the rates are reckoned from, and then for each table.
func (t *top) run(ctx context.Context) error {
	for n := 0; t.rounds == 0 || n <= t.rounds; n++ {
		began := time.Now()
		v, err := t.look(ctx)
		if err != nil {
			if !t.live || n == 0 || ctx.Err() != nil {
				return err
			}
			v = &view{state: &services.State{Round: &pulse.Round{}, Refused: err}} // the next look may succeed
		}
		if n > 0 || t.live {
			if err := t.show(v); err != nil {
				return err
			}
		}
		if n == t.rounds && t.rounds > 0 {
			if v.state.Refused != nil {
				return errNotAsked
			}
			return nil
		}
		rest := time.NewTimer(t.every - time.Since(began))
		select {
		case <-ctx.Done():
			rest.Stop()
			return nil
		case <-rest.C:
		}
	}
	return nil
}

// view is one table.
type view struct {
	state   *services.State
	lines   []line
	growth  string // of the error queue
	delayed string // what is said about deferred messages
}

// line is a queue of a service.
type line struct {
	services.Line

	// Schedules are those of a queue of tokens, or ScheduleError says why they are not known.
	Schedules     *scheduled.Summary `json:"schedules,omitempty"`
	ScheduleError string             `json:"schedule_error,omitempty"`
}

// look asks and reckons.
func (t *top) look(ctx context.Context) (*view, error) {
	ctx, cancel := t.Bounded(ctx)
	defer cancel()
	state, err := t.asking.look(ctx, t.queues, append(slices.Clone(t.queues), t.errorQueue)...)
	if err != nil {
		return nil, err
	}
	v := &view{state: state}
	for _, l := range t.watch.Lines(state) {
		v.lines = append(v.lines, line{Line: l})
	}
	t.schedules(ctx, v)
	if !t.json {
		v.delayed = t.delays.look(ctx)
	}
	if state.Refused == nil {
		t.watch.Remember(state)
	}
	v.growth = t.grown(state.Waiting[t.errorQueue])
	return v, nil
}

// grown says how fast the error queue grows.
func (t *top) grown(w pulse.Waiting) string {
	before, since := t.failed, t.at
	if t.failed, t.at = w.Ready, time.Now(); !w.Known() {
		t.failed = -1
	}
	if before < 0 || t.failed < 0 || before == t.failed {
		return ""
	}
	return fmt.Sprintf(" (%+.0f/min)", float64(t.failed-before)/t.at.Sub(since).Minutes())
}

// show prints a table.
func (t *top) show(v *view) error {
	if t.json {
		for i := range v.lines {
			if err := queue.WriteJSON(t.std.out, v.lines[i]); err != nil {
				return err
			}
		}
		return nil
	}
	var text strings.Builder
	if t.live {
		text.WriteString("\x1b[H\x1b[2J")
	}
	switch {
	case v.state.Refused != nil:
		noteRefused(&text, v.state.Refused)
	case len(v.lines) == 0:
		text.WriteString("no instance has answered; services answer if they use package pulse\n")
	default:
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0) //nolint:mnd // columns two apart
		fmt.Fprintln(w, "SERVICE\tQUEUE\tINST\tREADY\tIN HAND\tHANDLED/s\tFAILED/s\tRETRIED\tPARKED\tCRITICAL\tVERSION")
		for i := range v.lines {
			v.lines[i].print(w)
		}
		_ = w.Flush() // a Builder takes everything
	}
	t.note(&text, v)
	_, err := io.WriteString(t.std.out, text.String())
	return err
}

func (l *line) print(w io.Writer) {
	versions := make([]string, len(l.Versions))
	for i, version := range l.Versions {
		versions[i] = visible.Word(version)
	}
	inst := strconv.Itoa(l.Instances)
	if l.Paused > 0 {
		inst += fmt.Sprintf(", %d paused", l.Paused)
	}
	critical, ready := "-", "-"
	if l.Ready != nil {
		ready = strconv.Itoa(*l.Ready)
	}
	if l.Half != "-" {
		critical = l.Half + "/" + l.Most
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%.1f\t%.1f\t%d\t%d\t%s\t%s\n", visible.Word(l.Service), visible.Word(l.Queue), inst, ready, l.InHand, l.Handled, l.Failed, l.Retried, l.Parked,
		critical, strings.Join(versions, ", "))
}

// note prints what is unusual, and the error queue.
func (t *top) note(text io.Writer, v *view) {
	printNotes(text, v.state.MoreConsumers(), v.state.Unanswered(), v.state.Untold(), t.watch.Missed(), v.state.Remarks())
	noteSchedules(text, v.lines)
	switch w := v.state.Waiting[t.errorQueue]; {
	case w.Unknown != "":
		fmt.Fprintf(text, "%s -: %s\n", visible.Word(t.errorQueue), visible.Line(w.Unknown))
	case w.Exists:
		fmt.Fprintf(text, "%s %d%s\n", visible.Word(t.errorQueue), w.Ready, v.growth)
	}
	if v.delayed != "" {
		fmt.Fprintln(text, v.delayed)
	}
}
