package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/topology"
)

const scheduleExplanation = `Shows and changes the recurring schedules of the service whose listener queue is
QUEUE. The instance of the service that leads carries out what is asked:

	ls      list the schedules: when each was fired last and is due next, and what is
	        unusual: paused, running (without overlaps), not defined by the leader, in
	        the future (a clock was wrong)
	run     run a schedule now, once; its due times stay as they are
	pause   fire no due times, until resume; those that pass are left out
	resume  end a pause
	rm      remove the token of a schedule. One that the service still defines begins
	        anew, as a new one; so this mends a token from the future

When no instance runs, ls shows the tokens as they lie in the queue. The others need
an instance.

Exit codes: 0 done, 1 not done (stderr says why), 2 the command line is wrong.`

// scheduler is one run of the command schedule.
type scheduler struct {
	std      stdio
	queue    string // of the tokens
	do, name string
}

// runSchedule is the command schedule.
func runSchedule(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("schedule ls [flags] QUEUE\n       harebus schedule run|pause|resume|rm [flags] QUEUE NAME", scheduleExplanation)
	s := &scheduler{std: std}
	connect := connectionFlags(flags)
	flags.StringVar(&s.queue, "tokens", "", "`queue` of the tokens (default: QUEUE with .schedules)")
	timeout := flags.Duration("timeout", 30*time.Second, "give up `after` this long without an answer")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		s.do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	want := 2
	if s.do == "ls" {
		want = 1
	}
	switch {
	case !slices.Contains([]string{"ls", "run", "pause", "resume", "rm"}, s.do):
		return std.misuse(flags, fmt.Sprintf("want ls, run, pause, resume or rm, got %q", s.do))
	case flags.NArg() != want:
		return std.misuse(flags, fmt.Sprintf("%s needs %d arguments, got %s", s.do, want, arguments(flags)))
	case *timeout <= 0:
		return std.misuse(flags, "-timeout must be more than 0")
	}
	if s.name = flags.Arg(1); s.queue == "" {
		s.queue = flags.Arg(0) + scheduled.Suffix
	}
	if err := topology.ValidName("queue", s.queue); err != nil { // the client ends the connection at one that is too long, again and again
		return std.misuse(flags, err.Error())
	}
	broker, err := connect.broker(std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := s.run(ctx, broker); err != nil {
		return std.fail(fmt.Errorf("harebus: schedule %s: %w", s.do, err))
	}
	return exitOK
}

func (s *scheduler) run(ctx context.Context, broker access.Broker) error {
	link, err := broker.Link("schedule")
	if err != nil {
		return err
	}
	defer link.Close()
	setup, err := sender(broker, s.std)
	if err != nil {
		return err
	}
	defer func() { _ = setup.Close() }() // every outcome is known by then
	client := scheduled.Client{Link: link, Bus: setup.Bus(), Queue: s.queue}
	if s.do != "ls" {
		return client.Do(ctx, s.do, s.name)
	}
	found, err := client.Look(ctx)
	if err != nil {
		return err
	}
	return s.print(found)
}

// print prints a table.
func (s *scheduler) print(found *scheduled.State) error {
	w := tabwriter.NewWriter(s.std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tCRON\tZONE\tLAST\tNEXT\tREMARKS") //nolint:errcheck // Flush reports it
	for _, t := range found.Tokens {
		last := "never"
		if !t.Fresh {
			last = t.Last.UTC().Format(time.RFC3339)
		}
		next := "-"
		if t.Next != nil {
			next = t.Next.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%q\t%q\t%q\t%s\t%s\t%s\n", t.Name, t.Cron, t.Zone, last, next, //nolint:errcheck // likewise
			strings.Join(found.Remarks(&t, time.Now()), ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	head := "no instance runs; these are the tokens in the queue"
	if found.Leader != "" {
		head = "led by " + found.Leader
	}
	fmt.Fprintf(s.std.err, "%s\n", printable([]byte(head)))
	return nil
}
