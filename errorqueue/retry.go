package errorqueue

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Retry moves messages back to the queue that each came from, or to Options.To, where they are
// handled as if for the first time: what the bus and the broker wrote about the failure is
// gone, and the header Replays counts. One that was read from a stream goes only to Options.To: in the stream every reader would get it. Body, ids and everything else stay as they are, but for an
// expiration and the user id of somebody else.
func (q *Queue) Retry(ctx context.Context, messages []Message, o Options) (Report, error) {
	if err := q.target(o.To); err != nil {
		return Report{}, fmt.Errorf("errorqueue: retry: %w", err)
	}
	return q.run(ctx, messages, &action{verb: "retry", options: o, prepare: func(c *Content) (session.Publishing, error) {
		return q.replay(c, o.To)
	}})
}

// target refuses a queue to which no message can be moved.
func (q *Queue) target(to string) error {
	if to == "" {
		return nil
	}
	if to == q.cfg.Name {
		return errors.New("the target is the error queue itself")
	}
	return topology.ValidName("queue", to)
}

// replay makes the message that is handled again.
func (q *Queue) replay(c *Content, to string) (session.Publishing, error) {
	source, err := c.raw.Back(q.cfg.HeaderPrefix, q.cfg.Name)
	if to != "" && !c.raw.Broken {
		source, err = to, nil
	}
	if err != nil {
		return session.Publishing{}, err
	}
	out := c.raw.Cleaned(q.cfg.HeaderPrefix, q.conn.User())
	out.Key = source
	if out.Table == nil { // one that nobody can read has no counter
		if out.Message.Headers == nil {
			out.Message.Headers = amqp.Table{}
		}
		out.Message.Headers[q.cfg.HeaderPrefix+header.Replays] = field.SmallestInt(c.Replays + 1)
	}
	return out, nil
}

// Move moves messages to another queue as they are, with all headers. The queue must exist.
func (q *Queue) Move(ctx context.Context, messages []Message, to string, o Options) (Report, error) {
	if to == "" {
		return Report{}, errors.New("errorqueue: move: no queue is named")
	}
	if err := q.target(to); err != nil {
		return Report{}, fmt.Errorf("errorqueue: move: %w", err)
	}
	o.To = to
	return q.run(ctx, messages, &action{verb: "move", options: o, prepare: q.asItIs(to)})
}

// asItIs makes the copy of a message for another queue.
func (q *Queue) asItIs(to string) func(c *Content) (session.Publishing, error) {
	return func(c *Content) (session.Publishing, error) {
		if c.raw.Broken {
			return session.Publishing{}, errors.New("its properties are not AMQP, so nobody can read it or send it again")
		}
		out := c.raw.Renewed(q.conn.User())
		out.Key = to
		return out, nil
	}
}

// Edit sends a message with another body to the queue that it came from, or to Options.To, and
// removes the original. The new message has an id of its own, which is made of the old one and
// the body, so that repeating the edit does not make a second message; its header EditedFrom
// has the old one, and [Report.Edited] is the new one. What [Queue.Accepts] refuses stays.
func (q *Queue) Edit(ctx context.Context, m Message, body []byte, o Options) (Report, error) {
	if err := q.target(o.To); err != nil {
		return Report{}, fmt.Errorf("errorqueue: edit: %w", err)
	}
	edited := ""
	report, err := q.run(ctx, []Message{m}, &action{verb: "edit", options: o, body: hashOf(body), prepare: func(c *Content) (session.Publishing, error) {
		if err := q.Accepts(c, body); err != nil {
			return session.Publishing{}, err
		}
		out, err := q.replay(c, o.To)
		if err != nil {
			return out, err
		}
		from := cmp.Or(c.MessageID, c.ID())
		edited = messageid.Derive(from, string(body))
		out.Message.Body, out.Message.MessageId = body, edited
		name := q.cfg.HeaderPrefix + harebus.HeaderMessageID
		if _, ours := out.Message.Headers[name]; ours { // with our id, one of another bus would be taken for ours
			out.Message.Headers[name] = edited
		}
		out.Message.Headers[q.cfg.HeaderPrefix+header.EditedFrom] = from
		return out, nil
	}})
	if report.Done+len(report.Twice) > 0 {
		report.Edited = edited
	}
	return report, err
}

// hashOf is a hash of a body.
func hashOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// Editable says why a message cannot be edited, whatever the new body is: it is compressed, encrypted, signed, or its
// body is stored elsewhere, or it has headers that the client cannot read. It is nil for one that can.
func (q *Queue) Editable(c *Content) error {
	if c.Unreadable {
		return errors.New("it has headers that the AMQP client cannot read, so it cannot be edited")
	}
	if _, signed := c.Headers[q.cfg.HeaderPrefix+harebus.HeaderSignature]; signed {
		return errors.New("it is signed, so it cannot be edited: nobody would accept it")
	}
	encoding := c.raw.Text(q.cfg.HeaderPrefix+harebus.HeaderContentEncoding, c.Properties.ContentEncoding)
	if encoding != "" && !strings.EqualFold(encoding, "utf-8") {
		return fmt.Errorf("its body is encoded (%q), so it cannot be edited", encoding)
	}
	switch kind := q.mediaType(c); kind {
	case sealed:
		return errors.New("it is encrypted, so it cannot be edited: nobody could open it")
	case claimed:
		return errors.New("its body is in a store of package claim, and the message only says where, so it cannot be edited; send a new one")
	}
	return nil
}

// The content types of package seal and package claim.
const (
	sealed  = "application/vnd.harebus.sealed"
	claimed = "application/vnd.harebus.claim"
)

func (q *Queue) mediaType(c *Content) string {
	kind := c.raw.Text(q.cfg.HeaderPrefix+harebus.HeaderContentType, c.Properties.ContentType)
	kind, _, _ = mime.ParseMediaType(kind) // one that cannot be parsed is none that we know
	return kind
}

// Accepts says why a body cannot take the place of that of a message: it is not [Queue.Editable], or JSON would not stay
// JSON. It is nil for one that can. Edit asks this, too.
func (q *Queue) Accepts(c *Content, body []byte) error {
	if err := q.Editable(c); err != nil {
		return err
	}
	kind := q.mediaType(c)
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return notJSON(body, "as its content type says")
	case kind == "" && json.Valid(c.Body):
		return notJSON(body, "as the old one is")
	}
	return nil
}

// notJSON says where a body is not JSON.
func notJSON(body []byte, why string) error {
	var value json.RawMessage
	err := json.Unmarshal(body, &value)
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return fmt.Errorf("the new body is not JSON, %s: %w", why, err)
	}
	before := body[:min(max(int(syntax.Offset)-1, 0), len(body))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("the new body is not JSON, %s: %w at line %d, character %d", why, err, line, column)
}
