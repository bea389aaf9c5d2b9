package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/replay"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

const replayExplanation = `Publishes events of a stream, such as that of topology.EventLog, to a queue: for a
new service that needs what came before it, or one that has to handle something
again. The stream stays as it is. Events that come meanwhile are not replayed.

	harebus replay -stream events -from 2h -to 1h -topic 'order.*' -queue billing

-from and -to are a time (2026-11-29T12:00:00Z), a duration before now (2h), or for
-from an offset (@4711). The broker knows the time of pieces of the stream, so a few
events that came shortly before -from can be among them.

Each event is marked with the headers Replayed (the run) and StreamOffset, and gets an
id of its own, because whoever keeps the ids of what it has handled would pass over
the old one, which is in the header OriginalMessageId. -keep-ids leaves the id as it
is; sealed and signed messages (package seal) need that, because they are bound to it.

Everything that is counted as replayed is confirmed. After an interruption the last
line says how to go on: with the same -run, what is published twice has the same id.
The first line says how to begin again after a crash, in which there is no last one.

Exit codes: 0 everything was replayed, 1 not everything, 2 the command line is wrong.`

// runReplay is the command replay.
func runReplay(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("replay -stream STREAM -queue QUEUE [flags]", replayExplanation)
	var o replay.Options
	var topics topicsFlag
	connect := connectionFlags(flags)
	flags.StringVar(&o.Stream, "stream", "", "`stream` to read")
	flags.StringVar(&o.Queue, "queue", "", "`queue` that gets the events")
	flags.Var(&topics, "topic", "replay only events of this `topic`, with * for a word and # for any number of words; may be repeated")
	from := flags.String("from", "", "begin at this `time`, so long ago, or at @OFFSET (default: at the oldest event)")
	to := flags.String("to", "", "end before this `time`, or so long ago (default: at the newest event)")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only count")
	flags.BoolVar(&o.KeepIDs, "keep-ids", false, "leave message ids as they are")
	flags.StringVar(&o.Run, "run", "", "`name` of the run, which ids are derived from (default: a new one)")
	flags.StringVar(&o.HeaderPrefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from it")
	if code, done := parse(flags, args, std); done {
		return code
	}
	o.Topics = topics
	var err error
	if flags.NArg() > 0 {
		return std.misuse(flags, fmt.Sprintf("unexpected argument %q", flags.Arg(0)))
	}
	now := time.Now()
	if err = prepareReplay(&o, *from, *to, now); err != nil {
		return std.misuse(flags, err.Error())
	}
	if o.Broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	if !o.DryRun {
		fmt.Fprintln(std.err, "harebus: replay: if this ends without another line, begin again with:"+again(o, *from, *to, now))
	}
	report, err := replay.Run(ctx, o)
	return std.replayed(o, report, err)
}

// again are the arguments that make the same replay later: what was published has the same id, and times do not move.
func again(o replay.Options, from, to string, now time.Time) string {
	var text strings.Builder
	text.WriteString(" -run " + o.Run)
	for _, one := range [][2]string{{" -from ", from}, {" -to ", to}} {
		if at, err := moment("", one[1], now); err == nil {
			text.WriteString(one[0] + at.UTC().Format(time.RFC3339Nano))
		} else if one[1] != "" {
			text.WriteString(one[0] + one[1])
		}
	}
	return text.String()
}

// replayed says what was done, and how to go on.
func (s stdio) replayed(o replay.Options, report replay.Report, err error) int {
	verb := "replayed"
	if o.DryRun {
		verb = "would replay"
	}
	_, printed := fmt.Fprintf(s.out, "%s %d, passed over %d of other topics, run %s\n", verb, report.Replayed, report.Passed, o.Run)
	if err = errors.Join(err, printed); err == nil {
		return exitOK
	}
	text := fmt.Sprintf("harebus: replay: %v", err)
	switch {
	case report.Past > 0:
		text += fmt.Sprintf("\nharebus: everything else before offset %d is done; go on behind that with: -from @%d -run %s", report.Past, report.Past, o.Run)
	case report.Next >= 0:
		text += fmt.Sprintf("\nharebus: everything before offset %d is done; go on with: -from @%d -run %s", report.Next, report.Next, o.Run)
	}
	return s.fail(errors.New(text))
}

// prepareReplay checks the options and reads the places.
func prepareReplay(o *replay.Options, from, to string, now time.Time) error {
	if o.Run == "" {
		o.Run = messageid.New()
	}
	faults := []error{topology.ValidName("queue", o.Stream), topology.ValidName("queue", o.Queue)}
	if o.Stream == o.Queue {
		faults = append(faults, errors.New("-stream and -queue are the same"))
	}
	for _, topic := range o.Topics {
		faults = append(faults, topology.ValidTopic(topic))
	}
	if len(o.Run) > 100 || o.Timeout <= 0 {
		faults = append(faults, errors.New("-run has more than 100 bytes, or -timeout is not positive"))
	}
	var begin time.Time
	var err error
	switch offset, isOffset := strings.CutPrefix(from, "@"); {
	case isOffset:
		n, err := strconv.ParseInt(offset, 10, 64)
		if err != nil || n < 0 {
			err = fmt.Errorf("-from %s is no offset", from)
		}
		o.From = stream.FromOffset(n)
		faults = append(faults, err)
	case from != "":
		begin, err = moment("-from", from, now)
		o.From = stream.FromTime(begin)
		faults = append(faults, err)
	}
	if to != "" {
		o.Until, err = moment("-to", to, now)
		faults = append(faults, err)
	}
	if !begin.IsZero() && !o.Until.IsZero() && !begin.Before(o.Until) {
		faults = append(faults, errors.New("-from is not before -to"))
	}
	return errors.Join(faults...)
}

// moment reads a time, or how long ago it was.
func moment(name, text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Before(time.Unix(0, 0)) {
		return time.Time{}, fmt.Errorf("%s %q is neither a time such as 2026-11-29T12:00:00Z nor a duration such as 2h", name, text)
	}
	return at, nil
}
