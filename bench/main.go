package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus/integration_test/outbox/database"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == nullArgument {
		exit(runNull())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options are the flags.
type options struct {
	short, json, markdown    bool
	shape                    string
	workloads, kinds, impls  string
	out, svg, from, profile  string
	rounds, repeats, message int
	duration, budget, wait   time.Duration
	noise                    float64
	port                     int
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&o.short, "short", false, "only the decisive rows, in under 50 seconds")
	f.BoolVar(&o.json, "json", false, "print JSON lines instead of a table")
	f.BoolVar(&o.markdown, "markdown", false, "print a Markdown table, for the documentation")
	f.StringVar(&o.shape, "shape", "", "measure how figures grow instead: all, or comma separated goroutines,queues,size,window,consumers,concurrency,prefetch,backlog,soak; takes -short, -json, -out, -svg, -from")
	f.StringVar(&o.workloads, "workloads", "", "only these, comma separated: publish,transaction,consume,transform,end-to-end,saturated,retry,request,ways,ways-1ms, and with a database store,store-10,deliver,drain,handle (with -short these have to be named)")
	f.StringVar(&o.kinds, "kinds", "", "only these kinds of queue: classic,quorum,null")
	f.StringVar(&o.impls, "impls", "", "only these libraries: harebus,harebus-sealed,raw,raw-coalesced,raw-multiple,watermill,watermill-x10,go-rabbitmq,bare,commit-publish,harebus-join, and harebus-plain,harebus-ordered,harebus-divided,harebus-fair,harebus-batch,harebus-stream in ways and ways-1ms")
	f.StringVar(&o.out, "out", "", "write JSON lines to this file too")
	f.StringVar(&o.svg, "svg", "", "write a plot to this file")
	f.StringVar(&o.from, "from", "", "measure nothing: read JSON lines from this file")
	f.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of all rounds to this file")
	f.IntVar(&o.rounds, "rounds", 0, "rounds for each library (default 3 with -short, else 5)")
	f.IntVar(&o.repeats, "repeats", 0, "most repeats of noisy rounds (default 1 with -short, else 3)")
	f.IntVar(&o.message, "messages", 0, "messages of a round that consumes (default 2500 with -short, else 15000)")
	f.DurationVar(&o.duration, "time", 0, "length of a round that publishes (default 130ms with -short, else 1s)")
	f.DurationVar(&o.budget, "budget", 0, "when this is used up, what is left gets one round each (default 29s with -short, else 30m)")
	f.DurationVar(&o.wait, "wait", 0, "how long to wait, in all, for the rest of the machine to become quiet (default 10m, none with -short)")
	f.Float64Var(&o.noise, "noise", 0.1, "rounds during which others use more than this share of the machine are noisy")
	f.IntVar(&o.port, "port", 24400, "first port to try for the private node")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("bench: what does %q mean?", f.Arg(0))
	}
	o.fill()
	return o, nil
}

// fill sets what depends on other flags.
func (o *options) fill() {
	either := func(short, full int) int {
		if o.short {
			return short
		}
		return full
	}
	if o.shape != "" { // many settings, each for a short time
		fill(&o.rounds, either(1, 3))
		fill(&o.repeats, 1)
		fill(&o.duration, time.Duration(either(100, 700))*time.Millisecond)
	}
	fill(&o.rounds, either(3, 5))
	fill(&o.repeats, either(1, 3))
	fill(&o.message, either(2500, 15000))
	fill(&o.duration, time.Duration(either(130, 1000))*time.Millisecond)
	fill(&o.budget, time.Duration(either(29, 1800))*time.Second)
	if !o.short {
		fill(&o.wait, 10*time.Minute)
	}
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

func (o *options) pace(started time.Time) pace {
	return pace{
		rounds: o.rounds, repeats: o.repeats, duration: o.duration, messages: o.message, spare: 5 * prefetch, noise: o.noise,
		deadline: started.Add(o.budget), patience: &patience{o.wait},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.shape != "" {
		chosen, err := chosenShapes(o.shape)
		if err != nil {
			return err
		}
		r := shapeReport(o, chosen, stdout)
		return r.carryOut(func() error { return measureShapes(ctx, o, chosen, r, stderr) })
	}
	r := &report[row]{options: o, stdout: stdout, print: writeTable, draw: drawPlot}
	if o.markdown {
		r.print = writeMarkdown
	}
	return r.carryOut(func() error { return measure(ctx, o, r, stderr) })
}

func drawPlot(name string, rows []row) error {
	return os.WriteFile(name, plot(rows), 0o644) //nolint:gosec // a picture
}

// measure carries out the plan. What was measured before an error stays.
func measure(ctx context.Context, o *options, report *report[row], stderr io.Writer) (err error) {
	started := time.Now()
	plan := only(planOf(o), list(o.workloads), list(o.kinds), list(o.impls))
	if len(plan) == 0 {
		return errors.New("bench: nothing to measure")
	}
	servers := &servers{}
	defer func() { err = errors.Join(err, servers.close()) }()
	base := o.pace(started)
	stop, err := profile(o.profile)
	if err != nil {
		return err
	}
	defer stop()
	for _, s := range plan {
		where, err := servers.place(ctx, s, o.port)
		if errors.Is(err, database.ErrMissing) && o.workloads == "" {
			fmt.Fprintf(stderr, "%5.1fs %s is left out: %v\n", time.Since(started).Seconds(), s.workload, err)
			continue
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(stderr, "%5.1fs %s %s %d bytes, %d goroutines, %d queues\n", time.Since(started).Seconds(), s.workload, s.kind, s.size, s.goroutines, s.queues)
		c := &contest{spec: s, place: where, pace: paceOf(base, s)}
		tallies, err := c.run(ctx, named(s.libraries))
		if err != nil {
			return err
		}
		for _, t := range tallies {
			if err := report.add(newRow(s, c.place.version, t, o.noise)); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(stderr, "%5.1fs done\n", time.Since(started).Seconds())
	return nil
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func named(names []string) []*library {
	all := libraries()
	return slices.DeleteFunc(all, func(l *library) bool { return !slices.Contains(names, l.name) })
}

func profile(name string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	f, err := os.Create(name) //nolint:gosec // the user's choice
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// report is where rows go.
type report[R any] struct {
	options *options
	stdout  io.Writer
	print   func(w io.Writer, rows []R) error
	draw    func(name string, rows []R) error
	file    *os.File
	rows    []R
}

// carryOut measures, or reads what was measured.
func (r *report[R]) carryOut(measure func() error) error {
	if r.options.from != "" {
		return errors.Join(r.read(r.options.from), r.finish())
	}
	if err := r.create(r.options.out); err != nil {
		return err
	}
	return errors.Join(measure(), r.finish())
}

func (r *report[R]) create(name string) (err error) {
	if name != "" {
		r.file, err = os.Create(name) //nolint:gosec // the user's choice
	}
	return err
}

func (r *report[R]) read(name string) error {
	f, err := os.Open(name) //nolint:gosec // the user's choice
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	rows, err := readRows[R](f)
	for _, one := range rows {
		err = errors.Join(err, r.add(one))
	}
	return err
}

// add takes one row; JSON lines appear at once.
func (r *report[R]) add(one R) error {
	r.rows = append(r.rows, one)
	var err error
	if r.options.json {
		err = writeJSON(r.stdout, one)
	}
	if r.file != nil {
		err = errors.Join(err, writeJSON(r.file, one))
	}
	return err
}

// finish prints the table and draws the plot.
func (r *report[R]) finish() (err error) {
	if !r.options.json && len(r.rows) > 0 {
		err = r.print(r.stdout, r.rows)
	}
	if r.options.svg != "" && len(r.rows) > 0 {
		err = errors.Join(err, r.draw(r.options.svg, r.rows))
	}
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}
