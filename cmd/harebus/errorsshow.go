package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/visible"
)

// groups is the task groups.
func (t *errorsTask) groups(ctx context.Context) error {
	return t.with(ctx, func(q *errorqueue.Queue) error {
		x, err := t.look(ctx, q)
		if err != nil {
			return err
		}
		return t.overview(x)
	})
}

// watch is the task watch.
func (t *errorsTask) watch(ctx context.Context) error {
	return t.with(ctx, func(q *errorqueue.Queue) error { return q.Watch(ctx, t.every, t.filter, t.overview) })
}

// overview prints the groups of a look.
func (t *errorsTask) overview(x *errorqueue.Index) error {
	if t.json {
		for _, g := range x.Groups() {
			if err := t.object(groupObject{g.ID, g.Count, g.Type, g.Queue, g.Kind, g.Error, g.First.UTC(), g.Last.UTC()}); err != nil {
				return err
			}
		}
		return nil
	}
	fmt.Fprintf(t.std.out, "%d failed messages in %s, as of %s\n", x.Seen, visible.Word(t.cfg.Name), x.At.Format(time.TimeOnly))
	return t.printGroups(x.Groups())
}

type groupObject struct {
	ID    string    `json:"group"`
	Count int       `json:"count"`
	Type  string    `json:"type"`
	Queue string    `json:"queue"`
	Kind  string    `json:"kind"`
	Error string    `json:"error"`
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

func (t *errorsTask) object(value any) error {
	return queue.WriteJSON(t.std.out, value)
}

// printGroups prints groups as a table.
func (t *errorsTask) printGroups(groups []*errorqueue.Group) error {
	const most = 20
	if len(groups) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(t.std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tCOUNT\tTYPE\tQUEUE\tPARKED\tERROR")
	hidden, inThem := 0, 0
	for i, g := range groups {
		if i >= most && !t.all {
			hidden++
			inThem += g.Count
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", g.ID, g.Count, visible.Word(g.Type), visible.Word(g.Queue), span(g.First, g.Last), visible.Line(g.Error))
	}
	if hidden > 0 {
		fmt.Fprintf(w, "… %d more groups with %d messages (-all)\n", hidden, inThem)
	}
	return w.Flush()
}

// span is a time of parking for a person.
func span(first, last time.Time) string {
	if first.IsZero() {
		return "unknown"
	}
	from, to := ago(first), ago(last)
	if from == to {
		return from
	}
	return from + " – " + to
}

func ago(at time.Time) string {
	const day = 24 * time.Hour
	switch d := time.Since(at); {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	default:
		return fmt.Sprintf("%d d ago", d/day)
	}
}

// list is the task list.
func (t *errorsTask) list(ctx context.Context) error {
	return t.with(ctx, func(q *errorqueue.Queue) error {
		if t.json {
			found := false
			seen, err := q.Each(ctx, t.filter, func(c *errorqueue.Content) error { found = true; return t.printJSON(c) })
			if err == nil && !found {
				err = t.noneOf(seen)
			}
			return err
		}
		w := tabwriter.NewWriter(t.std.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tGROUP\tTYPE\tQUEUE\tPARKED\tATTEMPTS\tBYTES\tDIALECT\tMESSAGE")
		found := false
		seen, err := q.Each(ctx, t.filter, func(c *errorqueue.Content) error {
			found = true
			bus, id, messageType := "", c.MessageID, c.Group.Type
			if f := foreignOf(messageOf(c), t.cfg.HeaderPrefix); f != nil {
				bus, id, messageType = f.Dialect, cmp.Or(id, f.ID), cmp.Or(messageType, f.Type)
			}
			_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", c.ID(), c.Group.ID, visible.Word(messageType), visible.Word(c.Group.Queue),
				span(c.Parked(), c.Parked()), c.Attempts, c.Size, bus, visible.Word(id))
			return err
		})
		if err == nil && !found {
			err = t.noneOf(seen)
		}
		if err != nil {
			return err
		}
		return w.Flush()
	})
}

// contentObject is a failed message in JSON.
type contentObject struct {
	ID       string    `json:"id"`
	Group    string    `json:"group"`
	Kind     string    `json:"kind,omitempty"`
	Source   string    `json:"source,omitempty"`
	Failure  string    `json:"failure,omitempty"`
	Parked   time.Time `json:"parked,omitzero"`
	Attempts int       `json:"attempts"`
	Replays  int       `json:"replays,omitempty"`
	Host     string    `json:"host,omitempty"`
	Version  string    `json:"version,omitempty"`

	object
}

// printJSON prints a message as a JSON object.
func (t *errorsTask) printJSON(c *errorqueue.Content) error {
	return t.object(contentObject{
		ID: c.ID(), Group: c.Group.ID, Kind: c.Group.Kind, Source: c.Group.Queue, Failure: c.Failure, Parked: c.Parked().UTC(),
		Attempts: c.Attempts, Replays: c.Replays, Host: c.Host, Version: c.Version,
		object: t.contentOf(c),
	})
}

// messageOf is what a failed message was sent as.
func messageOf(c *errorqueue.Content) *harebus.Message {
	return &harebus.Message{Exchange: c.Exchange, RoutingKey: c.RoutingKey, Headers: c.Headers, Body: c.Body, Properties: c.Properties}
}

func (t *errorsTask) contentOf(c *errorqueue.Content) object {
	o := newObject(messageOf(c))
	o.Peer = foreignOf(messageOf(c), t.cfg.HeaderPrefix)
	return o
}

// one calls fn with the message that has the id.
func (t *errorsTask) one(ctx context.Context, q *errorqueue.Queue, fn func(*errorqueue.Content) error) error {
	met := 0
	_, err := q.Each(ctx, t.filter, func(c *errorqueue.Content) error {
		if met++; met > 1 {
			return nil
		}
		return fn(c)
	})
	switch {
	case err != nil:
		return err
	case met == 0:
		return fmt.Errorf("no message has the id %q", t.args[0])
	case met > 1:
		fmt.Fprintf(t.std.err, "harebus: %d messages have the id; this is the first\n", met)
	}
	return nil
}

// show is the task show.
func (t *errorsTask) show(ctx context.Context) error {
	return t.with(ctx, func(q *errorqueue.Queue) error {
		return t.one(ctx, q, func(c *errorqueue.Content) error {
			if t.json {
				return t.printJSON(c)
			}
			return describeContent(t.std.out, c, foreignOf(messageOf(c), t.cfg.HeaderPrefix))
		})
	})
}

// describeContent prints a message for a person. Texts of the message are quoted where they
// are more than plain text: a terminal obeys nothing in them.
func describeContent(w io.Writer, c *errorqueue.Content, peer *foreign) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(out, "%s\t%s\n", name, text)
		}
	}
	if peer == nil {
		peer = &foreign{}
	}
	line("id", c.ID())
	line("dialect", peer.Dialect)
	line("message", visible.Word(cmp.Or(c.MessageID, peer.ID)))
	line("group", c.Group.ID)
	line("type", visible.Word(cmp.Or(c.Group.Type, peer.Type)))
	line("queue", visible.Word(c.Group.Queue))
	if at := c.Parked(); !at.IsZero() {
		line("parked", at.UTC().Format(time.RFC3339))
	}
	line("attempts", strconv.Itoa(c.Attempts))
	if c.Replays > 0 {
		line("replays", strconv.Itoa(c.Replays))
	}
	var times []string
	for _, at := range c.Failed {
		times = append(times, at.UTC().Format(time.RFC3339))
	}
	line("failed", strings.Join(times, " "))
	for _, known := range []struct{ name, text string }{{"host", c.Host}, {"version", c.Version}, {"kind", c.Group.Kind}} {
		if known.text != "" {
			line(known.name, visible.Word(known.text))
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "error")
	for text := range strings.Lines(c.Failure) {
		fmt.Fprintf(w, "    %s\n", visible.Line(strings.TrimSuffix(text, "\n")))
	}
	fmt.Fprintln(w, "headers")
	names := make([]string, 0, len(c.Headers))
	for name := range c.Headers {
		if !strings.HasSuffix(name, ".ErrorDetails") { // it is above
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		value, err := json.Marshal(jsonValue(c.Headers[name]))
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "    %s: %s\n", visible.Word(name), visible.Line(string(value)))
	}
	if peer.Unreadable != "" {
		fmt.Fprintf(w, "not readable as a message of %s\n    %s\n", peer.Dialect, visible.Line(peer.Unreadable))
	}
	if len(peer.Payload) > 0 {
		fmt.Fprintf(w, "payload\n    %s\n", visible.Line(printable(jsonLine(peer.Payload))))
	}
	_, err := fmt.Fprintf(w, "body (%d bytes)\n    %s\n", len(c.Body), visible.Line(printable(c.Body)))
	return err
}

// export is the task export.
func (t *errorsTask) export(ctx context.Context) error {
	return t.with(ctx, func(q *errorqueue.Queue) error {
		n, err := q.Export(ctx, t.filter, t.std.out)
		if err == nil && n == 0 && len(t.filter.IDs) > 0 {
			return fmt.Errorf("no message has %s", t.conditions())
		}
		if err == nil {
			_, err = fmt.Fprintf(t.std.err, "harebus: exported %d messages\n", n)
		}
		return err
	})
}

// test is the task test.
func (t *errorsTask) test(ctx context.Context) error {
	return t.with(ctx, func(q *errorqueue.Queue) error {
		return t.one(ctx, q, func(c *errorqueue.Content) error {
			source, err := q.GoTest(c, t.pkg, t.setup)
			if err == nil {
				_, err = t.std.out.Write(source)
			}
			return err
		})
	})
}
