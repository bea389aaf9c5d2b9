package errorqueue

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

// Record is a message in a file of [Queue.Export] and [Queue.Discard]: a line of JSON. All
// but Properties, Table, Body and BodyBase64 is for readers; [Queue.Import] does not use it.
type Record struct {
	ID          string    `json:"id"`
	Group       string    `json:"group"`
	Type        string    `json:"type,omitempty"`
	Queue       string    `json:"queue,omitempty"`
	Kind        string    `json:"kind,omitempty"`
	Failure     string    `json:"failure,omitempty"`
	Parked      time.Time `json:"parked,omitzero"`
	Attempts    int       `json:"attempts,omitempty"`
	Replays     int       `json:"replays,omitempty"`
	MessageID   string    `json:"message_id,omitempty"`
	ContentType string    `json:"content_type,omitempty"`
	// Body is text, or base64 if BodyBase64 is set.
	Body       string `json:"body"`
	BodyBase64 bool   `json:"body_base64,omitempty"`
	// Properties are those of AMQP with the headers, as they stand in a frame. Table takes
	// the place of headers that the client cannot read.
	Properties []byte `json:"properties"`
	Table      []byte `json:"table,omitempty"`
}

// Record returns a message as a record. A message whose properties are not AMQP has none.
func (c *Content) Record() (Record, error) {
	if c.raw.Broken {
		return Record{}, errors.New("its properties are not AMQP, so it cannot be written")
	}
	out := c.raw.Without("", wire.OfOneDelivery)
	r := Record{
		ID: c.ID(), Group: c.Group.ID, Type: c.Group.Type, Queue: c.Group.Queue, Kind: c.Group.Kind, Failure: c.Failure, Parked: c.Parked().UTC(),
		Attempts: c.Attempts, Replays: c.Replays, MessageID: c.MessageID, ContentType: c.Properties.ContentType,
		Body: string(c.Body), Table: out.Table,
	}
	if c.parked == 0 {
		r.Parked = time.Time{}
	}
	if !utf8.Valid(c.Body) {
		r.Body, r.BodyBase64 = base64.StdEncoding.EncodeToString(c.Body), true
	}
	if out.Table != nil {
		out.Message.Headers = nil
	}
	var err error
	r.Properties, err = wire.AppendProperties(nil, &out.Message)
	return r, err
}

// message is the message of a record.
func (r *Record) message() (*queue.Message, error) {
	var d amqp.Delivery
	if err := wire.ReadProperties(r.Properties, &d); err != nil {
		return nil, err
	}
	d.Body = []byte(r.Body)
	if r.BodyBase64 {
		var err error
		if d.Body, err = base64.StdEncoding.DecodeString(r.Body); err != nil {
			return nil, fmt.Errorf("the body is not base64: %w", err)
		}
	}
	m := &queue.Message{Delivery: &d, Table: r.Table}
	if r.Table != nil {
		var whole bool
		if d.Headers, whole = m.Table.Readable(); !whole {
			return nil, errors.New("the table of headers is not AMQP")
		}
	}
	return m, nil
}

// Discard moves messages out of the error queue to the end of a file, which it syncs before it
// removes them. [Queue.Import] puts them back. Open the file with os.O_RDWR, os.O_CREATE and
// os.O_APPEND, so that it keeps what an earlier run has archived. A last line that a killed run has
// not written to its end is cut off: its message is still in the error queue. To archive messages in
// a queue instead, use [Queue.Move].
func (q *Queue) Discard(ctx context.Context, messages []Message, to *os.File, o Options) (Report, error) {
	if err := endLastLine(to); err != nil {
		return Report{}, fmt.Errorf("errorqueue: discard: open the archive: %w", err)
	}
	return q.run(ctx, messages, &action{
		verb: "discard", options: o,
		prepare: func(c *Content) (session.Publishing, error) {
			_, err := c.Record()
			return session.Publishing{}, err
		},
		keep: func(contents []*Content) error {
			var buf bytes.Buffer
			for _, c := range contents {
				if err := c.write(&buf); err != nil {
					return err
				}
			}
			if _, err := to.Write(buf.Bytes()); err != nil {
				return fmt.Errorf("write the archive: %w", err)
			}
			if err := to.Sync(); err != nil {
				return fmt.Errorf("sync the archive: %w", err)
			}
			return nil
		},
	})
}

// endLastLine sees to it that what is added to an archive begins with a line of its own. A record that is cut off is
// removed, any other text is kept.
func endLastLine(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	last, err := lastLine(file, info.Size())
	if err != nil || len(last) == 0 {
		return err
	}
	if _, err := parseRecord(last); err != nil && recordBegins(last) {
		return file.Truncate(info.Size() - int64(len(last)))
	}
	_, err = file.WriteString("\n")
	return err
}

// lastLine is what stands behind the last end of a line.
func lastLine(file *os.File, size int64) ([]byte, error) {
	const step = 64 << 10
	var line []byte
	for size > 0 && len(line) < longestLine {
		piece := make([]byte, min(size, step))
		size -= int64(len(piece))
		if _, err := file.ReadAt(piece, size); err != nil {
			return nil, err
		}
		if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
			return append(piece[end+1:], line...), nil
		}
		line = slices.Concat(piece, line)
	}
	return line, nil
}

// recordBegins says whether a text is the beginning of a record, of which a few bytes can be all.
func recordBegins(line []byte) bool {
	const begin = `{"id":`
	return strings.HasPrefix(begin, string(line)) || bytes.HasPrefix(line, []byte(begin))
}

// write writes the message as a line of JSON.
func (c *Content) write(w io.Writer) error {
	r, err := c.Record()
	if err != nil {
		return err
	}
	return queue.WriteJSON(w, r)
}

// Export writes the messages that a filter lets through, a line of JSON each, and leaves them
// in the queue. It returns how many it has written.
func (q *Queue) Export(ctx context.Context, f Filter, w io.Writer) (n int, err error) {
	_, err = q.Each(ctx, f, func(c *Content) error {
		if err := c.write(w); err != nil {
			return fmt.Errorf("export message %q: %w", c.ID(), err)
		}
		n++
		return nil
	})
	return n, err
}

// Import puts the messages of a file of [Queue.Discard] or [Queue.Export] into the error
// queue, as they were. Those that are there already are left out, so that an interrupted
// import can be repeated. A line that holds no message, and a message that the broker refuses, is
// left out and part of the error. It returns how many it has put there, and how many were there. Of
// the options, Rate and Progress count.
func (q *Queue) Import(ctx context.Context, from io.ReadSeeker, o Options) (done, there int, err error) {
	i := importer{q: q, known: map[key]int{}, reader: q.reader()}
	if err = i.begin(ctx, from, o); err == nil {
		err = i.run(ctx, from)
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
	known       map[key]int // how many of each the queue has that the file has not yet had
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

// longestLine is more than a message of the largest size that RabbitMQ takes needs.
const longestLine = 1 << 30

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

// parseRecord reads the message of a line.
func parseRecord(line []byte) (*queue.Message, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("it is no message: %w", err)
	}
	if len(r.Properties) == 0 {
		return nil, errors.New("it has no properties, so it is no message of an export")
	}
	return r.message()
}

// message is the message of a line, or nil if the queue has it.
func (i *importer) message(line []byte) (*session.Publishing, error) {
	m, err := parseRecord(line)
	if err != nil {
		return nil, err
	}
	c := i.reader.read(m, 0)
	single := c.id != uuid.Nil // others may look alike
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
