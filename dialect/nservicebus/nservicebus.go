// Package nservicebus reads and writes messages as NServiceBus for .NET does on RabbitMQ: the body is the serialized message
// alone, and everything else is in headers and properties.
//
// docs/nservicebus.md says what to configure on both sides.
package nservicebus

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
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
	// Types are wire names and names of the .NET types, with or without the assembly: {"PlaceOrder": "Acme.Orders.PlaceOrder, Acme.Orders"}.
	// The base types and interfaces of an event, to which peers may have subscribed, follow after semicolons.
	Types dialect.Types
	// Direct is for peers that use the direct routing topology: events go through amq.topic. Default: the conventional one, with an
	// exchange for each type.
	Direct bool
}

// Dialect is that of NServiceBus. Make it with [New].
type Dialect struct {
	types   map[string][]string // full names by wire name, those of base types after the first
	written dialect.Types       // the header EnclosedMessageTypes
	own     map[string]string
	direct  bool
	machine string

	mu  sync.Mutex // guards err, which Topology adds to
	err error
}

// New returns the dialect. harebus.New reports what is wrong with the configuration.
func New(cfg Config) *Dialect {
	d := &Dialect{types: map[string][]string{}, written: cfg.Types, direct: cfg.Direct}
	full := dialect.Types{}
	for name, foreign := range cfg.Types {
		for one := range strings.SplitSeq(foreign, ";") {
			d.types[name] = append(d.types[name], fullName(one))
		}
		full[name] = d.types[name][0]
	}
	d.own, d.err = full.Own()
	d.machine, _ = os.Hostname() // peers show it, and do without
	return d
}

// Name is nservicebus.
func (*Dialect) Name() string { return "nservicebus" }

// Validate says what is wrong with the Config.
func (d *Dialect) Validate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// The headers of NServiceBus. All of them are text.
const (
	messageID      = "NServiceBus.MessageId"
	intent         = "NServiceBus.MessageIntent"
	conversationID = "NServiceBus.ConversationId"
	correlationID  = "NServiceBus.CorrelationId"
	relatedTo      = "NServiceBus.RelatedTo"
	replyToAddress = "NServiceBus.ReplyToAddress"
	machine        = "NServiceBus.OriginatingMachine"
	endpoint       = "NServiceBus.OriginatingEndpoint"
	contentType    = "NServiceBus.ContentType"
	enclosedTypes  = "NServiceBus.EnclosedMessageTypes"
	timeSent       = "NServiceBus.TimeSent"
	controlMessage = "NServiceBus.ControlMessage"
	callbackQueue  = "NServiceBus.RabbitMQ.CallbackQueue"
	prefix         = "NServiceBus."

	// The saga that has sent a request, and the same in the answer, by which it is found.
	originatingSagaID, originatingSagaType = prefix + "OriginatingSagaId", prefix + "OriginatingSagaType"
	sagaID, sagaType                       = prefix + "SagaId", prefix + "SagaType"
)

// Read reads a message that has one of the headers that NServiceBus, or who imitates it, always writes; or none of them, but the full name of
// one of Config.Types in the property type, which is all that an endpoint of NServiceBus needs.
func (d *Dialect) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	if !marked(w.Headers) && !d.minimal(w) {
		return nil, false, nil
	} else if wrapped.Labelled(w.Properties.ContentType) {
		return nil, false, errWrapped
	}
	p := &w.Properties
	e := &dialect.Envelope{
		ID: either(p.MessageID, w, messageID), CorrelationID: either(p.CorrelationID, w, correlationID), CausationID: text(w, relatedTo),
		ConversationID: text(w, conversationID), From: text(w, endpoint), TimeSent: readTime(text(w, timeSent)),
		ContentType: cmp.Or(either(p.ContentType, w, contentType), "application/json"), ContentEncoding: p.ContentEncoding, Body: bytes.TrimPrefix(w.Body, mark),
	}
	e.Type, e.Types = d.typeOf(cmp.Or(text(w, enclosedTypes), p.Type))
	switch text(w, intent) {
	case "Send":
		e.Intent = "command"
	case "Publish":
		e.Intent = "event"
	case "Reply":
		e.RequestID = e.CorrelationID
	}
	if ms, err := strconv.ParseInt(p.Expiration, 10, 64); err == nil && ms > 0 && !e.TimeSent.IsZero() {
		const longest = 1<<32 - 1
		e.Expires = e.TimeSent.Add(time.Duration(min(ms, longest)) * time.Millisecond)
	}
	// Up to version 5 a caller that waits for the answer names a queue of its own beside that of its endpoint.
	if address := cmp.Or(text(w, callbackQueue), either(p.ReplyTo, w, replyToAddress)); address != "" && e.RequestID == "" {
		e.ReplyTo, e.NoReply = parseAddress(address)
	}
	switch {
	case strings.EqualFold(text(w, controlMessage), "true"):
		return e, true, fmt.Errorf("it is a control message of NServiceBus (%.40q), and no handler's", text(w, intent))
	case e.Type == "":
		return e, true, errors.New("it has no type: neither " + enclosedTypes + " nor the property type")
	case len(e.Body) == 0 || jsontext.Nothing(e.Body) && media.IsJSON(media.Type(e.ContentType)):
		return e, true, errors.New("its body is empty")
	}
	return e, true, nil
}

var errWrapped = errors.New("it is in the envelope of MassTransit or CloudEvents: add that dialect to Config.Payload.Dialects")

// mark is the byte order mark, which old serializers write.
var mark = []byte("\uFEFF")

// minimal says whether a message that NServiceBus has not written is one that it would handle. What Wolverine writes is read by the dialect of that.
func (d *Dialect) minimal(w *dialect.Wire) bool {
	if w.Properties.Type == "" {
		return false
	}
	full := fullName(w.Properties.Type)
	own, known := d.own[full]
	_, wolverine := w.Headers["wolverine-protocol-version"]
	return known && own != full && !wolverine && !wrapped.Is(w.Properties.ContentType, w.Body)
}

func marked(headers map[string]any) bool {
	for _, name := range [...]string{enclosedTypes, intent, timeSent, conversationID, messageID} {
		if _, ok := headers[name]; ok {
			return true
		}
	}
	return false
}

// typeOf is the first type of a list that is known, and all others. Without a known one it is the first.
func (d *Dialect) typeOf(list string) (name string, others []string) {
	found := false
	for one := range strings.SplitSeq(list, ";") {
		full := fullName(one)
		own, known := d.own[full]
		switch {
		case full == "":
		case known && !found:
			if name != "" {
				others = append(others, name)
			}
			name, found = own, true
		case name == "":
			name = full
		default:
			others = append(others, full)
		}
	}
	return name, others
}

// fullName is a name of a .NET type without its assembly. The arguments of a generic type have assemblies of their own, in brackets.
func fullName(name string) string {
	depth := 0
	for i := range len(name) {
		switch name[i] {
		case '[':
			depth++
		case ']':
			depth--
		case ',':
			if depth == 0 {
				return strings.TrimSpace(name[:i])
			}
		}
	}
	return strings.TrimSpace(name)
}

// either is a property or, without that, a header.
func either(property string, w *dialect.Wire, name string) string {
	if property != "" {
		return property
	}
	return text(w, name)
}

// text is a header as the peer reads it; empty if there is none.
func text(w *dialect.Wire, name string) string {
	return field.Printed(w.Headers[name])
}

// parseAddress is a queue to answer to.
func parseAddress(address string) (string, error) {
	queue, err := dialect.ParseReplyTo(address)
	if err != nil {
		return "", fmt.Errorf("%s: %w", replyToAddress, err)
	}
	return queue, nil
}

// readTime reads 2026-11-28 10:52:49:361793 Z, and ISO 8601; zero if it is something else. MassTransit writes hours up to 12 and does not say which half of the
// day it is, so such a time can be wrong by 12 hours.
func readTime(s string) time.Time {
	const seconds = len("2006-01-02 15:04:05")
	if s == "" {
		return time.Time{}
	}
	if len(s) > seconds && s[seconds] == ':' {
		b := append(make([]byte, 0, 40), s...) // on the stack
		b[seconds] = '.'
		if t, err := time.Parse("2006-01-02 15:04:05.999999999 Z", string(b)); err == nil {
			return t
		}
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

func writeTime(t time.Time) string {
	return strings.Replace(t.UTC().Format("2006-01-02 15:04:05.000000 Z"), ".", ":", 1)
}
