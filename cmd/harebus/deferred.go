package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/topology"
)

const deferredExplanation = `Shows the messages that wait in the delay queues: deferred ones and retries.

	(nothing)  count them, by when they are due at the latest; no message is touched
	list       look at them and print a line for each: when it is due, its ticket, type
	           and destination. -sum prints a line for each destination and type
	cancel     cancel deferred messages by their tickets, which Defer gives to the
	           program and list prints
	restore    take a cancellation back. A message that was due since is sent to its
	           destination; that is possible for seven days. With -lost it sends on what
	           met a deleted queue and is due

list holds one queue after the other for as long as it takes to read -limit messages. It
changes neither their order nor their due times, but what becomes due meanwhile is late
by that.

cancel is certain a second before the message is due. Retries have no ticket: a message
that fails to the end is parked in the error queue. Neither has what was deferred by a
program without tickets.

Exit codes: 0 done, 1 not done, or not for certain (stderr says why), 2 the command line
is wrong.`

// deferral is one run of the command deferred.
type deferral struct {
	std     stdio
	options deferred.Options
	do      string
	to, typ string
	within  time.Duration
	limit   int
	json    bool
	sum     bool
	lost    bool
}

// runDeferred is the command deferred.
func runDeferred(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("deferred [flags]\n       harebus deferred list [flags]\n       harebus deferred cancel|restore [flags] TICKET...\n       harebus deferred restore -lost [flags]", deferredExplanation)
	d := &deferral{std: std}
	connect := connectionFlags(flags)
	flags.StringVar(&d.to, "to", "", "list only messages for this `queue`, or routing key")
	flags.StringVar(&d.typ, "type", "", "list only messages of this `type`")
	flags.DurationVar(&d.within, "within", 0, "list only messages that are due within this `time`; 0 is all")
	flags.IntVar(&d.limit, "limit", 1000, "look at `N` messages at most")
	flags.BoolVar(&d.json, "json", false, "print JSON objects")
	flags.BoolVar(&d.sum, "sum", false, "list a line for each destination and type instead of each message")
	flags.BoolVar(&d.lost, "lost", false, "restore what met a deleted queue and is due, each message to its destination")
	flags.StringVar(&d.options.HeaderPrefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&d.options.Timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from it")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		d.do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	tickets, err := d.check(flags.Args())
	if err == nil {
		d.options.Broker, err = connect.broker(std)
	}
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	switch d.do {
	case "":
		err = d.count(ctx)
	case "list":
		err = d.list(ctx)
	case "cancel":
		err = d.cancel(ctx, tickets)
	default:
		err = d.restore(ctx, tickets)
		if d.lost {
			err = d.restoreLost(ctx)
		}
	}
	if err != nil {
		return std.fail(err)
	}
	return exitOK
}

// check reads the arguments.
func (d *deferral) check(args []string) (tickets []topology.Ticket, err error) {
	switch {
	case !slices.Contains([]string{"", "list", "cancel", "restore"}, d.do):
		return nil, fmt.Errorf("deferred %q: it is list, cancel or restore", d.do)
	case d.limit <= 0 || d.within < 0 || d.options.Timeout <= 0:
		return nil, errors.New("a number is out of range")
	case (d.do == "" || d.do == "list") && len(args) > 0:
		return nil, fmt.Errorf("unexpected argument %q", args[0])
	case d.lost && (d.do != "restore" || len(args) > 0):
		return nil, errors.New("-lost is for restore, and takes no tickets")
	case d.do != "" && d.do != "list" && !d.lost && len(args) == 0:
		return nil, fmt.Errorf("%s needs tickets; harebus deferred list prints them", d.do)
	}
	for _, arg := range args {
		ticket, err := topology.ParseTicket(arg)
		if err != nil {
			return nil, err
		}
		tickets = append(tickets, ticket)
	}
	return tickets, nil
}

// count prints how many messages wait.
func (d *deferral) count(ctx context.Context) error {
	c, err := d.options.Count(ctx)
	if err != nil {
		return fmt.Errorf("harebus: %w", err)
	}
	if d.json {
		object := map[string]any{"total": c.Total, "cancelled": c.Cancelled, "lost": c.Lost}
		for _, class := range c.Classes {
			object["within "+class.Name] = class.Messages
		}
		return d.object(object)
	}
	return d.table(func(w io.Writer) {
		fmt.Fprintln(w, "DUE WITHIN\tMESSAGES")
		for _, class := range c.Classes {
			fmt.Fprintf(w, "%s\t%d\n", class.Name, class.Messages)
		}
		fmt.Fprintf(w, "all\t%d\n", c.Total)
		fmt.Fprintf(w, "cancelled, kept\t%d\n", c.Cancelled)
		fmt.Fprintf(w, "lost\t%d\n", c.Lost)
	})
}

// object prints a JSON object in a line.
func (d *deferral) object(object map[string]any) error {
	if err := queue.WriteJSON(d.std.out, object); err != nil {
		return fmt.Errorf("harebus: print deferred messages: %w", err)
	}
	return nil
}

// table prints columns.
func (d *deferral) table(write func(w io.Writer)) error {
	w := tabwriter.NewWriter(d.std.out, 0, 0, 2, ' ', 0) //nolint:mnd // columns two apart
	write(w)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("harebus: print deferred messages: %w", err)
	}
	return nil
}

// list prints the messages that wait.
func (d *deferral) list(ctx context.Context) error {
	var items []deferred.Item
	seen := 0
	unseen, err := d.options.List(ctx, d.limit, func(i deferred.Item) {
		if seen++; d.wanted(&i) {
			items = append(items, i)
		}
	})
	if err != nil {
		return fmt.Errorf("harebus: %w", err)
	}
	slices.SortStableFunc(items, func(a, b deferred.Item) int { return a.Due.Compare(b.Due) })
	if d.sum {
		err = d.sums(items)
	} else {
		err = d.items(items)
	}
	if err == nil && unseen > 0 {
		fmt.Fprintf(d.std.err, "harebus: %d messages more were there and did not come: they are due since, or the broker is slow\n", unseen)
	}
	if err == nil && seen == d.limit {
		fmt.Fprintf(d.std.err, "harebus: stopped after %d messages; -limit takes more\n", seen)
	}
	return err
}

// wanted says whether a message is one to print.
func (d *deferral) wanted(i *deferred.Item) bool {
	return (d.to == "" || i.Key == d.to) && (d.typ == "" || i.Type == d.typ) &&
		(d.within == 0 || !i.Due.IsZero() && time.Until(i.Due) <= d.within)
}

// items prints a line for each message.
func (d *deferral) items(items []deferred.Item) error {
	if d.json {
		for _, i := range items {
			object := map[string]any{"id": i.ID, "type": i.Type, "exchange": i.Exchange, "key": i.Key, "retry": i.Retry}
			if !i.Due.IsZero() {
				object["due"] = i.Due
			}
			if i.Ticket != "" {
				object["ticket"] = i.Ticket
			}
			if err := d.object(object); err != nil {
				return err
			}
		}
		return nil
	}
	return d.table(func(w io.Writer) {
		fmt.Fprintln(w, "DUE\tTYPE\tTO\tKIND\tTICKET")
		for _, i := range items {
			ticket := "-"
			if i.Ticket != "" {
				ticket = visible.Word(i.Ticket)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", due(i.Due), visible.Word(i.Type), where(&i), kind(&i), ticket)
		}
	})
}

// sums prints a line for each destination and type.
func (d *deferral) sums(items []deferred.Item) error {
	type group struct{ to, typ, kind string }
	type sum struct {
		n           int
		first, last time.Time
	}
	sums := map[group]*sum{}
	var order []group
	for _, i := range items {
		g := group{where(&i), visible.Word(i.Type), kind(&i)}
		if sums[g] == nil {
			sums[g] = &sum{first: i.Due}
			order = append(order, g)
		}
		sums[g].n++
		sums[g].last = i.Due
	}
	slices.SortStableFunc(order, func(a, b group) int { return sums[b].n - sums[a].n })
	if d.json {
		for _, g := range order {
			err := d.object(map[string]any{"to": g.to, "type": g.typ, "kind": g.kind, "messages": sums[g].n, "first": sums[g].first, "last": sums[g].last})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return d.table(func(w io.Writer) {
		fmt.Fprintln(w, "MESSAGES\tTO\tTYPE\tKIND\tFIRST DUE\tLAST DUE")
		for _, g := range order {
			s := sums[g]
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", s.n, g.to, g.typ, g.kind, due(s.first), due(s.last))
		}
	})
}

// due is a time for people.
func due(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// where is the destination of a message.
func where(i *deferred.Item) string {
	switch {
	case i.Exchange == "" && i.Key == "":
		return "-"
	case i.Exchange == "":
		return visible.Word(i.Key)
	default:
		return visible.Word(i.Exchange + " " + i.Key)
	}
}

func kind(i *deferred.Item) string {
	if i.Retry {
		return "retry"
	}
	return "deferred"
}

// cancel cancels messages.
func (d *deferral) cancel(ctx context.Context, tickets []topology.Ticket) error {
	cfg := harebus.Config{Logger: d.options.Broker.Log}
	d.options.Broker.Apply(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		return fmt.Errorf("harebus: cancel: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.options.Timeout, fmt.Errorf("gave up after %v", d.options.Timeout))
	defer cancel()
	var faults []error
	for _, ticket := range tickets {
		if err := setup.Bus().Cancel(ctx, ticket); err != nil {
			faults = append(faults, err)
			continue
		}
		_, err := fmt.Fprintf(d.std.out, "cancelled for certain, due in %v; until then harebus deferred restore %s takes it back\n", time.Until(ticket.Due).Round(time.Second), visible.Word(ticket.String()))
		faults = append(faults, err)
	}
	return errors.Join(append(faults, setup.Close())...)
}

// restore takes cancellations back.
func (d *deferral) restore(ctx context.Context, tickets []topology.Ticket) error {
	var faults []error
	for _, ticket := range tickets {
		result, err := d.options.Restore(ctx, ticket)
		if err != nil {
			faults = append(faults, fmt.Errorf("harebus: %w", err))
			continue
		}
		_, err = fmt.Fprintf(d.std.out, "%s: %s\n", visible.Word(ticket.ID), result)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// restoreLost sends on what met a deleted queue.
func (d *deferral) restoreLost(ctx context.Context) error {
	all, err := d.options.RestoreLost(ctx)
	_, printed := fmt.Fprintf(d.std.out, "%d lost messages were sent to their destinations\n", all.Sent)
	var faults []error
	if all.Early > 0 {
		faults = append(faults, fmt.Errorf("harebus: restore: %d are not due yet, the first at %s, and stay: run the command again then", all.Early, due(all.Due)))
	}
	if all.Unclear > 0 {
		faults = append(faults, fmt.Errorf("harebus: restore: %d do not say where they were to go, and stay", all.Unclear))
	}
	if err != nil {
		faults = append(faults, fmt.Errorf("harebus: %w", err))
	}
	return errors.Join(append(faults, printed)...)
}
