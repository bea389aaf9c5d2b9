package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/redrive"
	"github.com/harebus/harebus/topology"
)

const redriveExplanation = `Moves messages from the error queue back to the queue each came from (its
SourceQueue header), so that they are handled again as if for the first time:
ErrorRetries, ErrorDetails, SourceQueue, DeferredTime and the broker's x-death
headers are removed. Body, ids and everything else stay as they are.

Each message is removed from the error queue only after the broker has confirmed
it in the other one: an interruption can leave a message in both, never in
neither. What is not moved stays in the error queue, in the same order; once a
message of a quorum queue has been looked at as often as half its delivery limit (ten
times if that is unknown), it and those behind it are put into the queue anew, because
the broker may drop what is delivered too often. A queue with consumers is refused, and
so is a second operator.
Messages that come while redrive runs are left alone. An expiration is not kept, nor
a user id other than the one that redrive logs in with.

Sealed and signed messages (package seal) move as they are, and no key is needed. With -reseal
they are opened with the keys of -keys and protected again with the current one, as of now: so
that an old key can be taken out of use, and for messages that are too old for their service. A
message that these keys do not open stays, and so does a command that was sent to another queue
than the one it goes to, unless -to says so. What is neither sealed nor signed moves as it is.

	harebus redrive -reseal -keys /etc/orders/keys -bound tenant

A message that the broker itself has parked, because it was delivered too often,
goes back to the queue that the broker names.

Some headers cannot be read by the AMQP client for Go: nested deeper than 32, or more
than 8,192 in one table or list. They are moved as the bytes that they are; the output
says so and gives the message's number in the queue.

stdout says what was done, a line for each message and one at the end. With -json it
is a JSON object for each message: action, position, to, reason, failure, source,
resealed (true with -reseal), unreadable (true if the client cannot read all of the headers; only those that it can
read are shown), and all that harebus listen prints, the body included. So this shows
what lies in the error queue and leaves it there:

	harebus redrive -dry-run -json

Exit codes: 0 everything that was asked for was moved, 1 something was left for
another reason than -match and -count, 2 the command line is wrong.`

// runRedrive is the command redrive.
func runRedrive(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("redrive [flags]", redriveExplanation)
	var o redrive.Options
	connect := connectionFlags(flags)
	flags.IntVar(&o.Count, "count", 0, "move at most `N` messages; 0 is all")
	flags.StringVar(&o.Match, "match", "", "move only messages of this `type`")
	flags.StringVar(&o.To, "to", "", "move them to this `queue` instead of where they came from")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	flags.BoolVar(&o.NoLock, "no-lock", false, "do not keep other operators out; for users who may not declare queues named harebus.operator.*")
	p := itemPrinter{std: std}
	flags.BoolVar(&p.body, "body", false, "show the bodies too")
	flags.BoolVar(&p.json, "json", false, "print each message as a JSON object a line, and the sum on stderr")
	flags.StringVar(&o.Queue, "error-queue", "error", "`queue` to move messages from")
	flags.StringVar(&o.HeaderPrefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from it")
	reseal := flags.Bool("reseal", false, "open sealed messages, verify signed ones, and protect both again with the current key")
	var sealed sealedFlags
	flags.StringVar(&sealed.keys, "keys", "", "with -reseal: the `file` with the keys")
	flags.Var(&sealed.headers, "bound", "with -reseal: this `header` is bound to messages, as the senders' policies say; may be repeated")
	if code, done := parse(flags, args, std); done {
		return code
	}
	switch {
	case flags.NArg() > 0:
		return std.misuse(flags, fmt.Sprintf("unexpected argument %q", flags.Arg(0)))
	case *reseal != (sealed.keys != "") || !*reseal && len(sealed.headers) > 0:
		return std.misuse(flags, "-reseal needs -keys, and -keys and -bound need -reseal")
	case o.Count < 0 || o.Timeout <= 0:
		return std.misuse(flags, "a number is out of range")
	case o.To == o.Queue:
		return std.misuse(flags, "-to is the error queue itself")
	}
	if o.To != "" {
		if err := topology.ValidName("queue", o.To); err != nil {
			return std.misuse(flags, err.Error())
		}
	}
	var err error
	if *reseal {
		if o.Reseal, err = sealed.reseal(o.To != ""); err != nil {
			return std.misuse(flags, err.Error())
		}
	}
	if o.Broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	report, err := redrive.Run(ctx, o, p.print)
	p.sum(o.DryRun, report)
	if err = errors.Join(err, p.err); err != nil {
		return std.fail(fmt.Errorf("harebus: %w", err))
	}
	if report.Left > 0 {
		return exitFailed
	}
	return exitOK
}

// itemPrinter prints what redrive does with each message.
type itemPrinter struct {
	std        stdio
	body, json bool
	err        error // the first that printing has met
}

// sum says how many messages were moved and left.
func (p *itemPrinter) sum(dry bool, report redrive.Report) {
	verb, w := "moved", p.std.out
	if dry {
		verb = "would move"
	}
	if p.json {
		w = p.std.err
	}
	_, err := fmt.Fprintf(w, "%s %d, left %d, not matched %d\n", verb, report.Moved, report.Left, report.Unmatched)
	p.err = errors.Join(p.err, err)
}

func (p *itemPrinter) print(item redrive.Item) {
	line := []byte(describe(item))
	if p.json {
		var err error
		if line, err = parkedObject(item).line(); err != nil {
			p.err = errors.Join(p.err, fmt.Errorf("print message %q: %w", item.ID, err))
			return
		}
	} else if p.body {
		line = fmt.Appendf(line, "    %s\n", printable(item.Delivery.Body))
	}
	if _, err := p.std.out.Write(line); err != nil && p.err == nil {
		p.err = fmt.Errorf("print message %q: %w", item.ID, err)
	}
}

// describe describes a message in one line for a person. Texts from the message are
// quoted, because they may contain line breaks and control characters.
func describe(item redrive.Item) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q", item.Action, item.ID)
	if item.Type != "" {
		fmt.Fprintf(&b, " of type %q", item.Type)
	}
	if item.To != "" {
		fmt.Fprintf(&b, " to %q", item.To)
	}
	about := []string{fmt.Sprintf("%d bytes", len(item.Delivery.Body))}
	if item.Unreadable {
		about = append(about, fmt.Sprintf("number %d in the queue, with headers that the AMQP client cannot read", item.Position))
	}
	if !item.Sent.IsZero() {
		about = append(about, fmt.Sprintf("sent %v ago", time.Since(item.Sent).Round(time.Second)))
	}
	if item.Source != "" && item.Source != item.To {
		about = append(about, fmt.Sprintf("from %q", item.Source))
	}
	if item.Resealed {
		about = append(about, "sealed again")
	}
	if item.Failure != "" {
		about = append(about, fmt.Sprintf("failed with %q", item.Failure))
	}
	fmt.Fprintf(&b, " (%s)", strings.Join(about, ", "))
	if item.Reason != "" {
		fmt.Fprintf(&b, ": %s", item.Reason)
	}
	return b.String() + "\n"
}

// printable is a body as it is if that is JSON, and quoted otherwise.
func printable(body []byte) string {
	if isJSON(body) {
		return string(jsonLine(body))
	}
	return strconv.Quote(string(body))
}
