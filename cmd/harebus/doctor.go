package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/doctor"
	"github.com/harebus/harebus/internal/scheduled"
)

const doctorExplanation = `Looks for what is wrong with the broker for a service: missing or different queues and
exchanges, arguments that lose messages, delay queues, messages where none should be, permissions,
alarms, limits, the version, the clock, and recurring schedules that are not fired. FILE is the
service's topology as JSON (see harebus topology -h). Log in as the service does, so that its
permissions are checked.

It changes nothing. For a second it has two queues of its own, to ask for the broker's clock, and the
leader of recurring schedules gets a request. Each finding says why it matters and what mends it; ✗ is
a fault, ▲ a danger. What could not be checked comes at the end. With -api, the address of the
management plugin, bindings and policies are checked too.

Exit codes: 0 nothing was found, 1 the command has failed, 2 the command line is wrong,
3 something was found.`

// runDoctor is the command doctor.
func runDoctor(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("doctor [flags] FILE", doctorExplanation)
	var o doctor.Options
	connect := connectionFlags(flags)
	api := flags.String("api", "", "`address` of the management plugin, http://host:15672")
	flags.StringVar(&o.ErrorQueue, "error-queue", "error", "`queue` of failed messages, if no queue of the file names it")
	flags.StringVar(&o.Tokens, "tokens", "", "`queue` of the tokens of schedules, if its name does not end in "+scheduled.Suffix)
	asJSON := flags.Bool("json", false, "print a JSON object")
	timeout := flags.Duration("timeout", time.Minute, "give up `after` this long")
	if code, done := parse(flags, args, std); done {
		return code
	}
	switch {
	case flags.NArg() != 1:
		return std.misuse(flags, "want one file, got "+arguments(flags))
	case *timeout <= 0:
		return std.misuse(flags, "-timeout must be more than 0")
	}
	var err error
	if o.Want, err = readTopology(flags.Arg(0), std.in); err != nil {
		return std.misuse(flags, err.Error())
	}
	broker, err := connect.broker(std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	if o.VHost, o.API, err = reach(broker, *api); err != nil {
		return std.misuse(flags, err.Error())
	}
	o.File, o.Address, o.Now = flags.Arg(0), *api, time.Now
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("gave up after %v", *timeout))
	defer cancel()
	if o.Link, err = broker.Link("doctor"); err != nil {
		return std.fail(fmt.Errorf("harebus: doctor: %w", err))
	}
	defer o.Link.Close()
	setup, err := sender(broker, std)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: doctor: %w", err))
	}
	defer func() { _ = setup.Close() }() // it has only asked
	o.Bus = setup.Bus()
	report, err := doctor.Examine(ctx, o)
	if err == nil {
		err = printReport(std.out, report, *asJSON)
	}
	switch {
	case err != nil:
		return std.fail(fmt.Errorf("harebus: doctor: %w", err))
	case len(report.Findings) > 0:
		return exitDiffers
	}
	return exitOK
}

func printReport(w io.Writer, r *doctor.Report, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(w)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	var text strings.Builder
	for _, f := range r.Findings {
		sign := "▲"
		if f.Fault {
			sign = "✗"
		}
		fmt.Fprintf(&text, "%s %s\n    why: %s\n    fix: %s\n", sign, f.What, f.Why, f.Fix)
	}
	fmt.Fprintf(&text, "✓ %d checks passed, %d findings\n", r.Passed, len(r.Findings))
	for _, u := range r.Unchecked {
		fmt.Fprintf(&text, "– not checked: %s\n", u)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&text, "– other buses: %s\n", n)
	}
	_, err := io.WriteString(w, text.String())
	return err
}
