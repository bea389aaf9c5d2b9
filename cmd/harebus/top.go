package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus"
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
started. FAILED is the error queue of -error-queue. Of a queue with the tokens of recurring
schedules a line says how many there are, which is due next, and what is overdue.
The last line counts deferred messages; it is asked for every 20 seconds.

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
	before  map[string]pulse.Answer // by instance
	gone    map[string]time.Time    // instances that have not answered any more, since when
	failed  int                     // messages in the error queue before; -1 is unknown
	at      time.Time               // of that
}

// runTop is the command top.
func runTop(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("top [flags] [QUEUE...]", topExplanation)
	t := &top{asking: asking{std: std}, gone: map[string]time.Time{}, failed: -1}
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
	defer t.client.Close()
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
			v = &view{round: &pulse.Round{}, refused: err} // the next look may succeed
		}
		if n > 0 || t.live {
			if err := t.show(v); err != nil {
				return err
			}
		}
		if n == t.rounds && t.rounds > 0 {
			if v.refused != nil {
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
	round   *pulse.Round
	refused error // why no instance could be asked
	lines   []line
	waiting map[string]pulse.Waiting
	growth  string // of the error queue
	delayed string // what is said about deferred messages
}

// line is a queue of a service.
type line struct {
	Service   string   `json:"service"`
	Queue     string   `json:"queue"`
	Instances int      `json:"instances"`
	Paused    int      `json:"paused"`
	Ready     *int     `json:"ready"` // nil is unknown
	InHand    int64    `json:"in_hand"`
	Handled   float64  `json:"handled_per_second"`
	Failed    float64  `json:"failed_per_second"`
	Retried   uint64   `json:"retried"`
	Parked    uint64   `json:"parked"`
	Half      string   `json:"critical_half"`
	Most      string   `json:"critical_99"`
	Versions  []string `json:"versions"`
	// Schedules are those of a queue of tokens, or ScheduleError says why they are not known.
	Schedules     *scheduled.Summary `json:"schedules,omitempty"`
	ScheduleError string             `json:"schedule_error,omitempty"`

	critical harebus.Histogram
}

// look asks and reckons.
func (t *top) look(ctx context.Context) (*view, error) {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	round, refused, err := t.tell(ctx, t.queues)
	if err != nil {
		return nil, err
	}
	v := &view{round: round, refused: refused}
	v.lines = t.gather(round)
	names := append(slices.Clone(t.queues), t.errorQueue)
	for _, l := range v.lines {
		names = append(names, l.Queue)
	}
	slices.Sort(names)
	if v.waiting, err = t.client.Waiting(ctx, slices.Compact(names)); err != nil {
		return nil, err
	}
	for i := range v.lines {
		if w := v.waiting[v.lines[i].Queue]; w.Known() {
			v.lines[i].Ready = &w.Ready
		}
	}
	t.schedules(ctx, v)
	if !t.json {
		v.delayed = t.delays.look(ctx)
	}
	if refused == nil {
		t.remember(round)
	}
	v.growth = t.grown(v.waiting[t.errorQueue])
	return v, nil
}

// gather makes the lines, by service and queue.
func (t *top) gather(round *pulse.Round) []line {
	type place struct{ service, queue string }
	lines := map[place]*line{}
	for i := range round.Answers {
		a := &round.Answers[i]
		for j := range a.Queues {
			q := &a.Queues[j]
			at := place{a.Service, q.Name}
			if lines[at] == nil {
				lines[at] = &line{Service: a.Service, Queue: q.Name}
			}
			lines[at].add(a, q, t.before[a.Instance])
		}
	}
	sorted := make([]line, 0, len(lines))
	for _, l := range lines {
		l.Half, l.Most = "-", "-"
		if l.critical.Count() > 0 {
			l.Half, l.Most = short(l.critical.Quantile(0.5)), short(l.critical.Quantile(0.99)) //nolint:mnd // as the help says
		}
		sorted = append(sorted, *l)
	}
	slices.SortFunc(sorted, func(a, b line) int {
		return strings.Compare(a.Service+"\x00"+a.Queue, b.Service+"\x00"+b.Queue)
	})
	return sorted
}

// add adds what an instance says. before is what it said before; its counts begin anew when it was started anew.
func (l *line) add(a *pulse.Answer, q *pulse.Queue, before pulse.Answer) {
	l.Instances++
	l.InHand += q.InHand
	l.Retried += q.All.Retried
	l.Parked += q.All.Parked
	if q.Paused {
		l.Paused++
	}
	if !slices.Contains(l.Versions, a.Version) {
		l.Versions = append(l.Versions, a.Version)
	}
	i := slices.IndexFunc(before.Queues, func(one pulse.Queue) bool { return one.Name == q.Name })
	seconds := a.Clock.Sub(before.Clock).Seconds()
	if i < 0 || seconds <= 0 {
		return
	}
	was := &before.Queues[i].All
	l.Handled += rate(was.Handled, q.All.Handled, seconds)
	l.Failed += rate(was.Failed, q.All.Failed, seconds)
	l.since(was.CriticalTime, q.All.CriticalTime)
}

// rate is how many a second were counted. A count that has fallen was not made by the same instance.
func rate(before, now uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) / seconds
}

// since adds what a histogram has counted since it was another one.
func (l *line) since(before, now harebus.Histogram) {
	if l.critical.Counts == nil && len(now.Counts) > 0 {
		l.critical.Counts = make([]uint64, len(now.Counts))
	}
	for i, n := range now.Counts {
		if i < len(before.Counts) {
			n -= min(before.Counts[i], n)
		}
		l.critical.Counts[i] += n
	}
}

// remember keeps what was said, and notes who has not answered any more.
func (t *top) remember(round *pulse.Round) {
	const most = time.Minute
	now := map[string]pulse.Answer{}
	for _, a := range round.Answers {
		now[a.Instance] = a
		delete(t.gone, a.Instance)
	}
	for name := range t.before {
		if _, ok := now[name]; !ok {
			t.gone[name] = time.Now()
		}
	}
	maps.DeleteFunc(t.gone, func(_ string, since time.Time) bool { return time.Since(since) > most })
	t.before = now
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
	case v.refused != nil:
		noteRefused(&text, v.refused)
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
	consumers := consuming(v.round.Answers)
	noteConsumers(text, consumers, v.waiting)
	noteSilent(text, silent(t.queues, v.round), v.waiting)
	for _, name := range slices.Sorted(maps.Keys(consumers)) {
		if why := v.waiting[name].Unknown; why != "" {
			fmt.Fprintf(text, "? %s: %s\n", visible.Word(name), visible.Line(why))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.gone)) {
		fmt.Fprintf(text, "? %s has not answered since %s\n", visible.Word(name), t.gone[name].Format(time.TimeOnly))
	}
	remarks(text, v.round.Answers)
	noteSchedules(text, v.lines)
	switch w := v.waiting[t.errorQueue]; {
	case w.Unknown != "":
		fmt.Fprintf(text, "%s -: %s\n", visible.Word(t.errorQueue), visible.Line(w.Unknown))
	case w.Exists:
		fmt.Fprintf(text, "%s %d%s\n", visible.Word(t.errorQueue), w.Ready, v.growth)
	}
	if v.delayed != "" {
		fmt.Fprintln(text, v.delayed)
	}
}
