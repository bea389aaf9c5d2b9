package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/ordered"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

const parkedExplanation = `Shows the keys of an ordered queue (Consume.Order) whose messages are parked, and decides about those that are held.

	list     print a line for each key: whether it is held, when its first message is handled
	         again, how many wait, how often the first one has failed, and why
	retry    have the message that holds a key handled again, with all its retries
	discard  drop the message that holds a key, for good; those behind it follow

retry and discard are for one KEY, or with -all for every key that is held. The instance of the service that has
the queue, or the partition of the key, does it, and says for how many messages. If none runs, the next one does it.

Exit codes: 0 done, 1 not done, or nothing was held (stderr says why), 2 the command line is wrong.`

// operator is one run of the command parked.
type operator struct {
	std     stdio
	options ordered.Options
	do, key string
	all     bool
	json    bool
}

// runParked is the command parked.
func runParked(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("parked list [flags] QUEUE\n       harebus parked retry|discard [flags] QUEUE KEY", parkedExplanation)
	o := &operator{std: std}
	connect := connectionFlags(flags)
	flags.BoolVar(&o.all, "all", false, "retry or discard the messages of all keys that are held")
	flags.BoolVar(&o.json, "json", false, "print JSON objects")
	flags.StringVar(&o.options.HeaderPrefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&o.options.Timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from the service")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	err := o.check(flags.Args())
	if err == nil {
		o.options.Broker, err = connect.broker(std)
	}
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	if o.do == "list" {
		err = o.list(ctx)
	} else {
		err = o.say(ctx)
	}
	if err != nil {
		return std.fail(fmt.Errorf("harebus: parked %s: %w", o.do, err))
	}
	return exitOK
}

// check reads the arguments.
func (o *operator) check(args []string) error {
	switch {
	case o.do != "list" && o.do != lanes.Retry && o.do != lanes.Discard:
		return fmt.Errorf("parked %q: it is list, retry or discard", o.do)
	case len(args) == 0 || args[0] == "":
		return errors.New("the queue is missing")
	case o.options.Timeout <= 0:
		return errors.New("-timeout is out of range")
	case o.do == "list" && (len(args) > 1 || o.all):
		return errors.New("list takes a queue and nothing else")
	case o.do != "list" && !o.all && (len(args) != 2 || args[1] == ""):
		return fmt.Errorf("%s needs one key, or -all; harebus parked list prints them", o.do)
	case o.all && len(args) > 1:
		return errors.New("-all is for every key: leave the key out")
	}
	if err := cmp.Or(topology.ValidName("queue", args[0]), topology.ValidName("queue", order.MembersQueue(args[0]))); err != nil { // the client ends the connection at one that is too long
		return err
	}
	o.options.Queue, o.key = args[0], lanes.All
	if len(args) == 2 {
		o.key = args[1]
	}
	return nil
}

// say says the word.
func (o *operator) say(ctx context.Context) error {
	n, err := o.options.Say(ctx, o.do, o.key)
	if n > 0 { // also if a later partition could not be reached
		fmt.Fprintf(o.std.out, "%s: %d messages\n", o.do, n)
	}
	switch {
	case errors.Is(err, ordered.ErrNobody):
		fmt.Fprintf(o.std.err, "harebus: %v\n", err)
		return nil
	case err != nil:
		return err
	case n == 0 && o.all:
		return errors.New("no key is held")
	case n == 0:
		return fmt.Errorf("no message holds the key %q; harebus parked list shows what is held", o.key)
	}
	return nil
}

// list prints the keys.
func (o *operator) list(ctx context.Context) error {
	keys, err := o.options.List(ctx)
	if err != nil && len(keys) == 0 {
		return err
	}
	return errors.Join(o.print(keys), err)
}

func (o *operator) print(keys []order.Parked) error {
	if o.json {
		for _, key := range keys {
			if err := queue.WriteJSON(o.std.out, key); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(o.std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATE\tWAITING\tFAILURES\tID\tTYPE\tERROR")
	for _, key := range keys {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", visible.Word(key.Key), stateOf(&key), key.Waiting, key.Failures,
			visible.Word(key.ID), cmp.Or(visible.Word(key.Type), "-"), visible.Line(key.Error))
	}
	return w.Flush()
}

// stateOf says what the first message of a key waits for.
func stateOf(p *order.Parked) string {
	switch {
	case p.Held:
		return "held"
	case time.Until(p.Due) > 0:
		return "due in " + time.Until(p.Due).Round(time.Second).String()
	}
	return "due"
}
