package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus/cmd/harebus/internal/draft"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/visible"
)

// retry is the task retry, and redirect.
func (t *errorsTask) retry(ctx context.Context) error {
	return t.act(ctx, "retry", t.target("the queues that they came from"), func(q *errorqueue.Queue, ms []errorqueue.Message) (errorqueue.Report, error) {
		return q.Retry(ctx, ms, t.options)
	})
}

// target is where messages go, for a person.
func (t *errorsTask) target(origin string) string {
	if t.options.To == "" {
		return origin
	}
	return "queue " + visible.Word(t.options.To)
}

// edit is the task edit.
func (t *errorsTask) edit(ctx context.Context) error {
	var body []byte
	var err error
	if t.body == "-" {
		body, err = io.ReadAll(t.std.in)
	} else {
		body, err = os.ReadFile(t.body)
	}
	if err != nil {
		return fmt.Errorf("read the new body: %w", err)
	}
	t.edited = body
	return t.act(ctx, "edit", t.target("the queue that it came from"), func(q *errorqueue.Queue, ms []errorqueue.Message) (errorqueue.Report, error) {
		return q.Edit(ctx, ms[0], body, t.options)
	})
}

// printChange prints what an edit changes, and refuses what would not be sent.
func (t *errorsTask) printChange(ctx context.Context, q *errorqueue.Queue, m *errorqueue.Message) error {
	_, err := q.Each(ctx, t.filter, func(c *errorqueue.Content) error {
		if !c.Same(m) {
			return nil
		}
		if err := q.Accepts(c, t.edited); err != nil {
			return fmt.Errorf("%w; nothing was done", err)
		}
		change := draft.Compare(c.Body, t.edited)
		for _, l := range change.Lines {
			fmt.Fprintf(t.std.out, "    %s %s\n", l.Sign, visible.Line(l.Text))
		}
		if change.More > 0 {
			fmt.Fprintf(t.std.out, "    … %d more lines that differ\n", change.More)
		}
		note := ""
		switch {
		case bytes.Equal(c.Body, t.edited):
			note = ": it is the same body"
		case !change.Visible():
			note = ", and nothing that can be seen: only white space, or the spelling of a character"
		}
		_, err := fmt.Fprintf(t.std.out, "%d bytes become %d%s\n", change.Before, change.After, note)
		return err
	})
	return err
}

// discard is the task discard.
func (t *errorsTask) discard(ctx context.Context) error {
	if t.archiveQueue != "" {
		return t.act(ctx, "discard", "queue "+visible.Word(t.archiveQueue), func(q *errorqueue.Queue, ms []errorqueue.Message) (errorqueue.Report, error) {
			return q.Move(ctx, ms, t.archiveQueue, t.options)
		})
	}
	return t.act(ctx, "discard", "file "+t.archive, func(q *errorqueue.Queue, ms []errorqueue.Message) (report errorqueue.Report, err error) {
		file, err := os.OpenFile(t.archive, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return report, fmt.Errorf("open the archive: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		return q.Discard(ctx, ms, file, t.options)
	})
}

// restore is the task restore: the opposite of discard.
func (t *errorsTask) restore(ctx context.Context) error {
	if t.archiveQueue == "" {
		return t.importFile(ctx)
	}
	back := t.cfg.Name
	t.cfg.Name = t.archiveQueue
	return t.act(ctx, "restore", "queue "+visible.Word(back), func(q *errorqueue.Queue, ms []errorqueue.Message) (errorqueue.Report, error) {
		return q.Move(ctx, ms, back, t.options)
	})
}

// importFile is the task import.
func (t *errorsTask) importFile(ctx context.Context) (err error) {
	file, err := os.Open(t.args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	n, bad := errorqueue.Records(file)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the file twice; store a pipe in a file first: %w", err)
	}
	fmt.Fprintf(t.std.out, "%s: %d messages → queue %s\n", t.do, n, visible.Word(t.cfg.Name))
	if t.dry || n == 0 && t.yes < 0 {
		return bad
	}
	if err := t.agree(n); err != nil {
		return errors.Join(err, bad)
	}
	return t.with(ctx, func(q *errorqueue.Queue) error {
		done, there, err := q.Import(ctx, file, t.options)
		fmt.Fprintf(t.std.out, "put %d into the error queue, %d were there already\n", done, there)
		return err
	})
}

// act carries out an action on the selection, if the operator agrees.
func (t *errorsTask) act(ctx context.Context, verb, to string, action func(*errorqueue.Queue, []errorqueue.Message) (errorqueue.Report, error)) error {
	return t.with(ctx, func(q *errorqueue.Queue) error {
		x, err := t.look(ctx, q)
		if err != nil {
			return err
		}
		n := len(x.Messages)
		if err := t.printGroups(x.Groups()); err != nil {
			return err
		}
		fmt.Fprintf(t.std.out, "%s: %d of %d messages → %s\n", verb, n, x.Seen, to)
		if verb == "edit" && n > 1 {
			return fmt.Errorf("%d messages match; edit changes one", n)
		}
		if verb == "edit" && n == 1 {
			if err := t.printChange(ctx, q, &x.Messages[0]); err != nil {
				return err
			}
		}
		if t.dry || n == 0 && t.yes < 0 {
			return nil
		}
		if err := t.agree(n); err != nil || n == 0 {
			return err
		}
		made, err := t.openJournal()
		if err != nil {
			return err
		}
		p := actionProgress{t: t, began: time.Now()}
		t.options.Progress = p.show
		report, err := action(q, x.Messages)
		p.end()
		return t.report(report, err, made)
	})
}

// agree asks for the number of messages, unless -yes has it.
func (t *errorsTask) agree(n int) error {
	switch {
	case t.yes == n:
		return nil
	case t.yes >= 0:
		return fmt.Errorf("%d messages match, and -yes says %d; nothing was done", n, t.yes)
	case !readsTerminal(t.std.in):
		return fmt.Errorf("give -yes %d to do this; nothing was done", n)
	}
	fmt.Fprintf(t.std.err, "Type the number of messages to go on: ")
	line, err := bufio.NewReader(t.std.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != strconv.Itoa(n) {
		return errors.New("this is not the number; nothing was done")
	}
	return nil
}

func readsTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isTerminal(f)
}

// openJournal chooses the journal, and says whether that is one that can be removed again.
func (t *errorsTask) openJournal() (made bool, err error) {
	if t.options.Journal != "" {
		return false, nil
	}
	file, err := os.CreateTemp("", "harebus-errors-*.ndjson")
	if err != nil {
		return false, fmt.Errorf("make a journal: %w", err)
	}
	t.options.Journal = file.Name()
	fmt.Fprintf(t.std.err, "harebus: the journal of this run is %s\n", filepath.Clean(file.Name()))
	return true, file.Close()
}

// report says what an action has done.
func (t *errorsTask) report(r errorqueue.Report, err error, made bool) error {
	for _, left := range r.Left {
		fmt.Fprintf(t.std.out, "left %s: %s\n", left.ID, visible.Line(left.Reason))
	}
	for _, id := range r.Twice {
		fmt.Fprintf(t.std.out, "perhaps twice: %s\n", id)
	}
	fmt.Fprintf(t.std.out, "done %d, left %d, not there any more %d, not tried %d, perhaps twice %d\n", r.Done, len(r.Left), r.Gone, r.Remaining, len(r.Twice))
	switch {
	case r.Edited != "" && r.Done == 0:
		fmt.Fprintf(t.std.out, "perhaps sent with the message id %s\n", r.Edited)
	case r.Edited != "":
		fmt.Fprintf(t.std.out, "sent with the message id %s\n", r.Edited)
	}
	if err != nil {
		return err
	}
	if len(r.Left)+r.Gone+r.Remaining > 0 {
		return errUnfinished
	}
	if made {
		return os.Remove(t.options.Journal)
	}
	return nil
}

// unclear is the task journal.
func (t *errorsTask) unclear(context.Context) error {
	ids, err := errorqueue.Unclear(t.args[0])
	if err != nil {
		return err
	}
	for _, id := range ids {
		fmt.Fprintln(t.std.out, id)
	}
	return nil
}

// actionProgress is the line about an action under way.
type actionProgress struct {
	t     *errorsTask
	began time.Time
	shown time.Time
}

func (p *actionProgress) show(done, left, all int) {
	const pause = 200 * time.Millisecond
	if !p.t.std.terminal || time.Since(p.shown) < pause {
		return
	}
	p.shown = time.Now()
	rate := float64(done) / time.Since(p.began).Seconds()
	rest := time.Duration(float64(all-done-left)/max(rate, 1)) * time.Second
	fmt.Fprintf(p.t.std.err, "\r\x1b[K%d of %d, %.0f/s, left there %d, %v to go; Ctrl-C finishes what is in hand", done, all, rate, left, rest)
}

func (p *actionProgress) end() {
	if !p.shown.IsZero() {
		fmt.Fprintln(p.t.std.err)
	}
}
