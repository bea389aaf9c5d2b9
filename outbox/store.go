package outbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/harebus/harebus"
)

// row is a message in the table.
type row struct {
	id       int64
	envelope harebus.Envelope
	size     int
	stored   time.Time
	// damage says why the row is no message; then envelope is empty.
	damage error
}

// stored are the rows of one transaction.
type stored struct {
	outbox *Outbox
	lane   *lane
	rows   []row
	heads  [][]byte
}

// inboxKey is a message id, or the name of a queue, as the inbox keeps it. Databases refuse
// some texts that AMQP can carry.
func inboxKey(text string) string {
	if utf8.ValidString(text) && !strings.Contains(text, "\x00") {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// prepare makes rows of envelopes.
func (o *Outbox) prepare(envelopes []harebus.Envelope) (*stored, error) {
	o.mu.Lock()
	s := &stored{outbox: o, lane: o.own}
	o.mu.Unlock()
	if len(envelopes) == 0 {
		return s, nil
	}
	id, now := o.nextID(len(envelopes)), time.Now()
	for i, e := range envelopes {
		head, err := e.Head()
		if err != nil {
			return nil, fmt.Errorf("harebus: outbox: store: %w", err)
		}
		s.heads = append(s.heads, head)
		s.rows = append(s.rows, row{id: id + int64(i), envelope: e, size: len(head) + len(e.Body()), stored: now})
	}
	return s, nil
}

const (
	// chunkRows keeps the number of different statements small.
	chunkRows = 32
	// chunkBytes keeps a statement below what MySQL accepts in one packet.
	chunkBytes = 4 << 20
)

// insert writes the rows, as many as fit in one statement.
func (s *stored) insert(ctx context.Context, tx execer) error {
	for from := 0; from < len(s.rows); {
		to, bytes := from, 0
		for to < len(s.rows) && to-from < chunkRows && (to == from || bytes+s.rows[to].size <= chunkBytes) {
			bytes += s.rows[to].size
			to++
		}
		if err := s.insertChunk(ctx, tx, from, to); err != nil {
			return fmt.Errorf("harebus: outbox: store: %w", err)
		}
		from = to
	}
	return nil
}

func (s *stored) insertChunk(ctx context.Context, tx execer, from, to int) error {
	o := s.outbox
	values := "(?, ?, ?, ?, ?, ?, ?, ?, " + o.cfg.Dialect.now() + ", 0)"
	text := "insert into #outbox (lane, id, message_id, message_type, exchange, routing_key, head, body, stored_at, attempts) values " +
		values + strings.Repeat(", "+values, to-from-1)
	args := make([]any, 0, 8*(to-from)) //nolint:mnd // the number of parameters of a row
	for i := from; i < to; i++ {
		e := s.rows[i].envelope
		body := e.Body()
		if body == nil {
			body = []byte{} // nil is null
		}
		args = append(args, s.lane.number, s.rows[i].id, e.MessageID(), e.Type(), e.Exchange(), e.RoutingKey(), s.heads[i], body)
	}
	_, err := tx.exec(ctx, o.sql(text), args...)
	return err
}
