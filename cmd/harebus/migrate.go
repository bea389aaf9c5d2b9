package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/harebus/harebus/internal/migrate"
	"github.com/harebus/harebus/topology"
)

const migrateExplanation = `Replaces QUEUE, which exists with another type or other arguments, by the queue that FILE
describes, while its services go on. New messages go into a holding queue meanwhile; they come
back at the end, behind those that are newer.

Consumers first get the time -drain to empty the queue. Then new messages are held, what is left
is moved, and when nothing has come for -settle the queue is deleted and declared anew. Give -settle
more than the time in which a consumer finishes all that it holds: a message that it gives back
to a deleted queue is lost. With -api the broker says what consumers hold, and -settle is 12 s.
If that takes longer than -hold, everything is put back.

Services declare their bindings again once or twice a minute. While messages are held such a
binding is removed within a second or so; what is published in between is there twice, with the same id. With
many instances there may be no quiet time of -settle: stop most of them.

A queue that dead-letters at-least-once needs -api, or -accept-dead-letters: the broker keeps dead
letters in it until they have arrived, and AMQP does not count them. A message that has an
expiration can expire in the holding queue; it is dead-lettered as in its own queue, and when it is moved
its time begins anew.

It refuses to go on, and puts everything back, if messages come to the queue by its name
(through the default exchange): RabbitMQ can confirm and lose one in the moment of the replacement.
-accept-by-name accepts that. Services of harebus send so for up to a minute after the queue, or the node
that has it, was away: run the same command again then.

Killed at any moment, it loses nothing, and at most one message is there twice, with the same id. Run
the same command again: it goes on. Until then new messages are held and not handled; when services
have declared their bindings again, they are also handled, and once more after the next run.

A service that runs with the old arguments goes on, and logs that its queue is different; deploy
the new version afterwards.

Exit codes: 0 the queue is as FILE wants it, 1 it is not, 2 the command line is wrong.`

// runMigrate is the command topology migrate.
func runMigrate(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("topology migrate [flags] FILE QUEUE", migrateExplanation)
	var o migrate.Options
	connect := connectionFlags(flags)
	api := flags.String("api", "", "`address` of the management plugin, http://host:15672, which tells all bindings and what consumers hold")
	only := flags.Bool("only-these", false, "without -api: the queue has no other bindings than those in FILE; others would be lost")
	flags.DurationVar(&o.Drain, "drain", 30*time.Second, "how long consumers may empty the queue first")
	flags.DurationVar(&o.Settle, "settle", 0, "how long nothing may come back from consumers before the queue is replaced; needed without -api")
	flags.DurationVar(&o.Hold, "hold", 10*time.Minute, "put everything back if new messages were held for that long and the queue is not replaced")
	flags.BoolVar(&o.DeadLetters, "accept-dead-letters", false, "without -api: replace a queue that dead-letters at-least-once; dead letters on their way are lost")
	flags.BoolVar(&o.ByName, "accept-by-name", false, "go on although messages come through the default exchange; one of them can be lost")
	timeout := flags.Duration("timeout", time.Hour, "give up `after` this long, and put everything back")
	if code, done := parse(flags, args, std); done {
		return code
	}
	if fault := migrateMisuse(flags, &o, *api, *only, *timeout); fault != "" {
		return std.misuse(flags, fault)
	}
	want, err := readTopology(flags.Arg(0), std.in)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	if !pick(&o, want, flags.Arg(1)) {
		return std.misuse(flags, fmt.Sprintf("%s has no queue %q", flags.Arg(0), flags.Arg(1)))
	}
	if o.Broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	if _, o.API, err = reach(o.Broker, *api); err != nil {
		return std.misuse(flags, err.Error())
	}
	o.Said = func(format string, args ...any) { fmt.Fprintf(std.err, format+"\n", args...) }
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("gave up after %v", *timeout))
	defer cancel()
	report, err := migrate.Run(ctx, o)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: topology migrate: %w", err))
	}
	if report.Same {
		fmt.Fprintf(std.out, "queue %q is as wanted\n", o.Queue.Name)
		return exitOK
	}
	fmt.Fprintf(std.out, "replaced queue %q; %d messages were moved out of it, and new ones were held for %v\n",
		o.Queue.Name, report.Moved, report.Pause.Round(time.Millisecond))
	return exitOK
}

// migrateMisuse says what is wrong with the command line, and sets the default of -settle.
func migrateMisuse(flags *flag.FlagSet, o *migrate.Options, api string, only bool, timeout time.Duration) string {
	const stale = 12 * time.Second // the management plugin's numbers of a quorum queue were 9 s old
	switch {
	case flags.NArg() != 2:
		return "want a file and a queue, got " + arguments(flags)
	case api == "" && !only:
		return "give -api, or -only-these if the queue has no other bindings than those in the file"
	case api == "" && o.Settle <= 0:
		return "-settle is needed without -api: more than the time in which a consumer finishes all that it holds"
	case timeout <= 0 || o.Hold <= 0 || o.Drain < 0 || o.Settle < 0:
		return "a time is out of range"
	case o.Settle == 0:
		o.Settle = stale
	}
	return ""
}

// pick takes a queue and its bindings from a topology.
func pick(o *migrate.Options, t topology.Topology, queue string) bool {
	for _, b := range t.Bindings {
		if b.Queue == queue {
			o.Bindings = append(o.Bindings, b)
		}
	}
	for _, q := range t.Queues {
		if q.Name == queue {
			o.Queue = q
			return true
		}
	}
	return false
}
