// Package wolverine reads and writes messages as Wolverine for .NET does on RabbitMQ: the body is the
// JSON of the message alone, and everything else is in properties and headers.
//
// docs/wolverine.md says what to configure on both sides. Messages that Wolverine encrypts are not read.
package wolverine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
	"github.com/harebus/harebus/internal/wrapped"
)

// Config says which types are exchanged with the peers.
type Config struct {
	// Types are wire names and the full names of the .NET types, or the aliases that their MessageIdentity sets:
	// {"PlaceOrder": "Acme.Orders.PlaceOrder", "OrderMoved": "order-moved.V2"}.
	Types dialect.Types
}

// Dialect is that of Wolverine. Make it with [New].
type Dialect struct {
	types dialect.Types
	own   map[string]string

	mu  sync.Mutex // guards err, which Topology adds to
	err error
}

// New returns the dialect. harebus.New reports what is wrong with the configuration.
func New(cfg Config) *Dialect {
	d := &Dialect{types: cfg.Types}
	d.own, d.err = cfg.Types.Own()
	return d
}

// Name is wolverine.
func (*Dialect) Name() string { return "wolverine" }

// Validate says what is wrong with the Config.
func (d *Dialect) Validate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// The headers of Wolverine. All of them are text.
const (
	version        = "wolverine-protocol-version"
	conversationID = "conversation-id"
	causationID    = "causation-id"
	source         = "source"
	sentAt         = "sent-at"
	replyURI       = "reply-uri"
	replyRequested = "reply-requested"
	ackRequested   = "ack-requested"
	isResponse     = "is-response"
	accepted       = "accepted-content-types"
	parentID       = "parent-id"
	traceParent    = "traceparent"
	sagaID         = "saga-id"
	tenantID       = "tenant-id"
)

// What Wolverine answers a request with for itself.
const (
	failureType = "Wolverine.Runtime.RemoteInvocation.FailureAcknowledgement"
	ackType     = "Wolverine.Runtime.RemoteInvocation.Acknowledgement"
	binary      = "binary/wolverine"
	encrypted   = "application/wolverine-encrypted+json"
)

// Read reads a message that has the header wolverine-protocol-version and is not in the envelope of another bus; or a message without it that has the name of
// one of Config.Types in the property type, which is all that Wolverine needs.
func (d *Dialect) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	p := &w.Properties
	if _, ok := w.Headers[version]; !ok && !d.minimal(w) {
		return nil, false, nil
	} else if wrapped.Is(p.ContentType, w.Body) {
		if !ok {
			return nil, false, nil
		}
		return nil, false, errWrapped
	}
	e := &dialect.Envelope{
		ID: p.MessageID, CorrelationID: p.CorrelationID, ConversationID: text(w, conversationID), CausationID: text(w, causationID),
		Type: p.Type, From: text(w, source), ContentType: cmp.Or(p.ContentType, "application/json"), ContentEncoding: p.ContentEncoding,
		TimeSent: readTime(text(w, sentAt)), Body: w.Body,
	}
	if name, ok := d.own[p.Type]; ok {
		e.Type = name
	}
	if ms, err := strconv.ParseInt(p.Expiration, 10, 64); err == nil && ms > 0 && !e.TimeSent.IsZero() {
		e.Expires = e.TimeSent.Add(time.Duration(min(ms, maxExpiration)) * time.Millisecond)
	}
	if trace := text(w, parentID); trace != "" && text(w, traceParent) == "" {
		e.Headers = map[string]any{traceParent: trace}
	}
	answers := strings.EqualFold(text(w, isResponse), "true") || p.Type == failureType || p.Type == ackType
	switch asked := text(w, replyRequested); {
	case answers:
		e.RequestID = e.ConversationID // and nobody waits for an answer to it
	case asked != "":
		e.RequestID = cmp.Or(e.ConversationID, e.ID)
		e.Accepts = []string{cmp.Or(d.own[asked], asked)}
	case strings.EqualFold(text(w, ackRequested), "true"):
		e.RequestID = cmp.Or(e.ConversationID, e.ID)
		e.Accepts = []string{ackType}
	}
	if address := text(w, replyURI); address != "" && !answers {
		e.ReplyTo, e.NoReply = parseAddress(address)
	}
	return e, true, check(e, p)
}

// minimal says whether a message that Wolverine has not written is one that it would handle. What NServiceBus writes is read by the dialect of that.
func (d *Dialect) minimal(w *dialect.Wire) bool {
	name := w.Properties.Type
	own, known := d.own[name]
	if !known && name != failureType && name != ackType || own == name {
		return false
	}
	for key := range w.Headers {
		if strings.HasPrefix(key, "NServiceBus.") {
			return false
		}
	}
	return true
}

var errWrapped = errors.New("it is from Wolverine, in the envelope of MassTransit or CloudEvents: add that dialect to Config.Payload.Dialects")

const maxExpiration = 1<<32 - 1

// check reads the body of a failure, and refuses what no handler could read.
func check(e *dialect.Envelope, p *dialect.Properties) error {
	switch {
	case p.Type == "":
		return errors.New("it has no type (the property type)")
	case media.Type(p.ContentType) == encrypted:
		return errors.New("it is encrypted (" + encrypted + "), and harebus does not read that: leave UseEncryption out for this endpoint")
	case p.Type == failureType:
		return failure(e, p.ContentType)
	case p.Type == ackType && media.Type(p.ContentType) == binary:
		return readAcknowledgement(e)
	case len(e.Body) == 0 || jsontext.Nothing(e.Body) && media.IsJSON(media.Type(e.ContentType)):
		return errors.New("its body is empty")
	}
	return nil
}

// failure reads a FailureAcknowledgement: 16 bytes of the request's id and a text, or JSON.
func failure(e *dialect.Envelope, contentType string) error {
	e.Fault = &dialect.Fault{Reason: "failed"}
	if media.Type(contentType) == binary {
		if len(e.Body) < guidBytes {
			return fmt.Errorf("a FailureAcknowledgement of %d bytes, fewer than the %d of an id", len(e.Body), guidBytes)
		}
		e.Fault.Text = strings.ToValidUTF8(string(e.Body[guidBytes:]), "\uFFFD")
		return nil
	}
	var said struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(e.Body, &said); err != nil {
		return fmt.Errorf("a FailureAcknowledgement: %w", err)
	}
	e.Fault.Text = said.Message
	return nil
}

// text is a header as the peer reads it; empty if there is none.
func text(w *dialect.Wire, name string) string {
	return field.Printed(w.Headers[name])
}

// readTime reads 2026-11-28 10:52:49:361793 Z, and ISO 8601; zero if it is something else.
func readTime(s string) time.Time {
	const seconds = len("2006-01-02 15:04:05")
	if len(s) <= seconds || s[seconds] != ':' {
		t, _ := time.Parse(time.RFC3339, s) // zero with an error
		return t
	}
	t, err := time.Parse("2006-01-02 15:04:05.999999 Z", s[:seconds]+"."+s[seconds+1:])
	if err != nil {
		return time.Time{}
	}
	return t
}

func writeTime(t time.Time) string {
	return strings.Replace(t.UTC().Format("2006-01-02 15:04:05.000000 Z"), ".", ":", 1)
}

// address starts those that can be answered.
const address = "rabbitmq://queue/"

// parseAddress is the queue of a reply-uri. Exchanges, and other transports, are refused.
func parseAddress(uri string) (string, error) {
	name, ok := strings.CutPrefix(uri, address)
	if !ok {
		return "", fmt.Errorf("the %s %.80q does not begin with %s", replyURI, uri, address)
	}
	queue, err := dialect.ParseQueue(name)
	if err == nil && strings.ContainsAny(name, "?#") {
		err = errors.New("the name of the queue ends at ? or #, which are to be percent-encoded")
	}
	if err != nil {
		return "", fmt.Errorf("the %s %.80q: %w", replyURI, uri, err)
	}
	return queue, nil
}
