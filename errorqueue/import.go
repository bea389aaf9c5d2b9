package errorqueue

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// Import puts the messages of a file of [Queue.Discard] or [Queue.Export] into the error
// queue, as they were. Those that are there already are left out, so that an interrupted
// import can be repeated. What a killed import had sent may come after that was found out; so at
// the end, a second after the start or later, Import looks again and removes what is there twice
// with the same ErrorId and nothing that differs; not in a queue that was looked at so often that its messages are put
// into it anew meanwhile. A line that holds no message, and a message that the broker refuses, is
// left out and part of the error. It returns how many it has put there, and how many were there. Of
// the options, Rate and Progress count.
func (q *Queue) Import(ctx context.Context, from io.ReadSeeker, o Options) (done, there int, err error) {
	i := importer{q: q, known: map[key]int{}, single: map[key]bool{}, reader: q.reader()}
	if err = i.begin(ctx, from, o); err == nil {
		if err = i.run(ctx, from); len(i.single) > 0 && ctx.Err() == nil && q.conn.Session().Alive() {
			err = errors.Join(err, i.once(ctx))
		}
		if told := i.end(ctx); err == nil {
			err = told
		}
	}
	if err != nil {
		err = fmt.Errorf("errorqueue: import: %w", err)
	}
	return i.done, i.there, err
}

// Records counts the messages of a file for [Queue.Import]. The error says which lines hold none.
func Records(from io.Reader) (n int, err error) {
	var bad faults
	err = eachLine(context.Background(), from, func(number int, line []byte) error {
		if _, err := parseRecord(line); err != nil {
			bad.add(number, err)
			return nil
		}
		n++
		return nil
	})
	if err = errors.Join(err, bad.err()); err != nil {
		err = fmt.Errorf("errorqueue: read the file: %w", err)
	}
	return n, err
}

// importer is one import under way.
type importer struct {
	q           *Queue
	known       map[key]int  // how many of each the queue has that the file has not yet had
	single      map[key]bool // those of the file with an id of their parking
	reader      *reader
	log         action // for the audit trail
	done, there int
	bad         faults
	batch       []session.Publishing
	numbers     []int // the lines of the batch
}

// begin finds out what the file and the queue have, and writes that into the audit trail.
func (i *importer) begin(ctx context.Context, from io.ReadSeeker, o Options) error {
	n, _ := Records(from) // its faults are found again
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the file twice; a pipe has to be stored in a file first: %w", err)
	}
	if _, err := i.q.Each(ctx, Filter{}, func(c *Content) error { i.known[c.key]++; return nil }); err != nil {
		return err
	}
	o.Rate = cmp.Or(o.Rate, defaultRate)
	i.log = action{q: i.q, verb: "import", options: o, all: n}
	i.log.report.Run = messageid.New()
	return i.q.audit(ctx, i.log.audited("begin"))
}

func (i *importer) end(ctx context.Context) error {
	i.log.report.Done = i.done
	i.log.report.Remaining = max(0, i.log.all-i.done-i.there-len(i.log.report.Left))
	return i.q.audit(context.WithoutCancel(ctx), i.log.audited("end"))
}

// eachLine calls fn with each line that is not blank.
func eachLine(ctx context.Context, from io.Reader, fn func(number int, line []byte) error) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, longestLine)
	for number := 1; lines.Scan() && ctx.Err() == nil; number++ {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			if err := fn(number, line); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	return context.Cause(ctx)
}

func (i *importer) run(ctx context.Context, from io.Reader) error {
	err := eachLine(ctx, from, func(number int, line []byte) error { return i.line(ctx, number, line) })
	if err == nil {
		err = i.store(ctx)
	}
	return errors.Join(err, i.bad.err())
}

// line puts the message of a line into the batch, and stores that if it is full.
func (i *importer) line(ctx context.Context, number int, line []byte) error {
	out, err := i.message(line)
	switch {
	case err != nil:
		i.bad.add(number, err)
		return nil
	case out == nil:
		i.there++
		return nil
	}
	i.batch, i.numbers = append(i.batch, *out), append(i.numbers, number)
	if len(i.batch) < i.log.together() {
		return nil
	}
	return i.store(ctx)
}

// faults are lines that hold no message, for example because the disk was full when they were
// written, or that the broker refuses. The first ten are named.
type faults struct {
	first []error
	more  int
}

func (f *faults) add(line int, err error) {
	const most = 10
	if len(f.first) == most {
		f.more++
		return
	}
	f.first = append(f.first, fmt.Errorf("line %d: %w", line, err))
}

func (f *faults) err() error {
	err := errors.Join(f.first...)
	if f.more > 0 {
		err = errors.Join(err, fmt.Errorf("and %d more lines", f.more))
	}
	return err
}

// message is the message of a line, or nil if the queue has it.
func (i *importer) message(line []byte) (*session.Publishing, error) {
	m, err := parseRecord(line)
	if err != nil {
		return nil, err
	}
	c := i.reader.read(m, 0)
	single := c.id != uuid.Nil // others may look alike
	if single {
		i.single[c.key] = true
	}
	if i.known[c.key] > 0 {
		if !single {
			i.known[c.key]--
		}
		return nil, nil //nolint:nilnil // it is there
	}
	if single {
		i.known[c.key]++
	}
	out := m.Renewed(i.q.conn.User())
	out.Key = i.q.cfg.Name
	return &out, nil
}

// store puts the batch into the queue. A message that the broker refuses is a fault of its line.
func (i *importer) store(ctx context.Context) error {
	if len(i.batch) == 0 {
		return nil
	}
	before := i.done
	var failed error
	for at, err := range i.q.conn.Store(i.batch) {
		switch {
		case err == nil:
			i.done++
		case left(err):
			i.bad.add(i.numbers[at], err)
			i.log.report.Left = append(i.log.report.Left, Left{Reason: err.Error()})
		case failed == nil:
			failed = err
		}
	}
	i.batch, i.numbers = nil, nil
	if failed != nil {
		return failed
	}
	if i.log.options.Progress != nil {
		i.log.options.Progress(i.done, len(i.log.report.Left), i.log.all)
	}
	i.log.pause(ctx, i.done-before)
	return nil
}

// late is how long a message may be on its way from a connection that has ended. On 3.10.8 and 4.0.5, kept busy, one of
// 32 came up to 67 ms after the exclusive queue of its connection was gone.
const late = time.Second

// once removes what is in the queue twice: the broker has taken what a killed import had sent after this one had found
// out what is there.
func (i *importer) once(ctx context.Context) error {
	wait.Sleep(ctx, time.Until(i.q.opened.Add(late)))
	met := map[key]bool{} // with all that is in them
	p := pass{q: i.q, most: window}
	p.each = func(m *queue.Message, position int) (*step, bool, error) {
		c := i.reader.read(m, position)
		if !i.single[c.key] || c.id == uuid.Nil {
			return nil, false, nil
		}
		c.id = uuid.Nil // so that its key has the headers, too
		whole := keyOf(c, m)
		if !met[whole] || p.renew { // what was put into the queue anew must not pass for a second one
			met[whole] = true
			return nil, false, nil
		}
		return nil, true, i.q.conn.Remove(m)
	}
	err := p.run(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("look for messages that are there twice: %w", err)
	}
	return nil
}
