package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/pulse"
)

const controlExplanation = `Changes how the instances of a service consume from the listener queue QUEUE:

	pause        consume nothing until resume; messages stay in the queue. Handlers that
	             run finish their message
	resume       end a pause
	concurrency  handle N messages at once, for each consumer of each instance
	rate         begin N messages a second, in each instance; 0 ends the limit
	log          write the log of the whole process at LEVEL (debug, info, warn or error)
	             for the time of -for, where the program allows it (pulse.Config.LogLevel)

It acts on the instances that take orders (pulse.Config.Control) and run now, or on the one
of -instance. It lasts until another order or the end of the process: an instance that is
started later does not know of it. The log of each instance says who gave the order. A remark
says when the queue had more consumers than the instances that have answered: the others do
not use package pulse, or were slower than -quiet, and may not have answered to the order.

Exit codes: 0 done by all that have answered, 1 not done (stderr says why), 2 the command
line is wrong.`

// control is one run of the command control.
type control struct {
	asking

	instance string
	order    pulse.Order
}

// runControl is the command control.
func runControl(ctx context.Context, args []string, std stdio) int {
	c := &control{asking: asking{std: std}}
	flags := newFlags("control pause|resume [flags] QUEUE\n       harebus control concurrency|rate [flags] QUEUE N\n       harebus control log [flags] QUEUE LEVEL", controlExplanation)
	connect := connectionFlags(flags)
	c.flags(flags)
	flags.StringVar(&c.instance, "instance", "", "only the instance of this `name`, as harebus status shows it")
	flags.IntVar(&c.order.Prefetch, "prefetch", 0, "with concurrency: `how` many messages each consumer may hold (default: 5 × N)")
	flags.DurationVar(&c.order.Within, "for", 0, "with log: for this `time`, at most a day (default: 10 minutes)")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		c.order.Do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	err := c.read(flags.Args(), arguments(flags))
	if err == nil {
		broker, wrong := connect.broker(std)
		if err = wrong; err == nil {
			err = c.open(broker)
		}
	}
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	defer c.Close()
	if err := c.run(ctx); err != nil {
		return std.fail(fmt.Errorf("harebus: control %s: %w", c.order.Do, err))
	}
	return exitOK
}

// read reads the arguments.
func (c *control) read(args []string, got string) (err error) {
	want := map[string]int{pulse.Pause: 1, pulse.Resume: 1, pulse.Concurrency: 2, pulse.Rate: 2, pulse.Log: 2}[c.order.Do]
	switch {
	case want == 0:
		return fmt.Errorf("want pause, resume, concurrency, rate or log, got %q", c.order.Do)
	case len(args) != want:
		return fmt.Errorf("%s needs %d arguments, got %s", c.order.Do, want, got)
	case c.order.Prefetch != 0 && c.order.Do != pulse.Concurrency:
		return fmt.Errorf("-prefetch is not for %s", c.order.Do)
	case c.order.Within != 0 && c.order.Do != pulse.Log:
		return fmt.Errorf("-for is not for %s", c.order.Do)
	case c.order.Within < 0:
		return errors.New("-for must be more than 0")
	}
	c.order.Queue = args[0]
	switch c.order.Do {
	case pulse.Concurrency:
		c.order.Concurrency, err = strconv.Atoi(args[1])
	case pulse.Rate:
		c.order.Rate, err = strconv.ParseFloat(args[1], 64)
	case pulse.Log:
		c.order.Level = args[1]
	}
	if err != nil {
		return fmt.Errorf("%q is not a number", args[1])
	}
	return nil
}

// run asks who is there, gives the order, and says what has become of it.
func (c *control) run(ctx context.Context) error {
	ctx, cancel := c.Bounded(ctx)
	defer cancel()
	there, err := c.Find(ctx, c.order.Queue, c.instance)
	if err != nil {
		return err
	}
	c.noteUnreadable(there)
	done, err := c.Order(ctx, there, c.instance, c.order)
	if err != nil {
		return err
	}
	if err := c.print(done); err != nil {
		return err
	}
	notes := c.std.out
	if c.json {
		notes = c.std.err
	}
	printNotes(notes, there.MoreConsumers())
	return done.Err()
}

func (c *control) print(done *services.Outcome) error {
	if c.json {
		for i := range done.Done.Answers {
			if err := queue.WriteJSON(c.std.out, done.Done.Answers[i]); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(c.std.out, 0, 0, 2, ' ', 0) //nolint:mnd // columns two apart
	for _, r := range done.Results() {
		fmt.Fprintf(w, "%s\t%s\n", visible.Word(r.Instance), strings.Join(r.Words, "\t"))
	}
	return w.Flush()
}
