package errorqueue

import (
	"bytes"
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

	amqp "github.com/rabbitmq/amqp091-go"

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
	if journal, err := os.Stat(o.Journal); err == nil {
		if archive, err := to.Stat(); err != nil || os.SameFile(journal, archive) {
			return Report{}, errors.Join(errors.New("errorqueue: discard: the journal is the archive"), err)
		}
	}
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

// longestLine is more than a message of the largest size that RabbitMQ takes needs.
const longestLine = 1 << 30

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
