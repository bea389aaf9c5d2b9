// Package masstransit reads and writes messages as MassTransit for .NET does on RabbitMQ: in a JSON envelope. It also reads what MassTransit writes with
// its raw JSON serializer.
//
// docs/masstransit.md says what to configure on both sides.
package masstransit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
)

// Config says which types are exchanged with the peers, and what they call the broker.
type Config struct {
	// Types are wire names and the names of the .NET types with their namespaces, as in the urn of a message:
	// {"PlaceOrder": "Acme.Orders:PlaceOrder"}.
	Types dialect.Types
	// Interfaces are what messages that are written also are, by their wire names: {"OrderPlaced": {"Acme.Orders:IOrderEvent"}}.
	// Consumers of these get them too.
	Interfaces map[string][]string
	// Hosts are names by which peers know the broker, beside those in Config.URL: "rabbitmq". An answer is sent to addresses on these only.
	Hosts []string
}

// Dialect is that of MassTransit. Make it with [New].
type Dialect struct {
	cfg Config
	own map[string]names // by the urn
	low map[string]names // by the urn in small letters

	mu  sync.Mutex // guards err, which Topology adds to
	err error
}

// New returns the dialect. harebus.New reports what is wrong with the configuration.
func New(cfg Config) *Dialect {
	d := &Dialect{cfg: cfg, own: map[string]names{}, low: map[string]names{}}
	own, err := cfg.Types.Own()
	d.err = err
	for foreign, name := range own {
		if strings.HasPrefix(foreign, urn) {
			d.fault(fmt.Errorf("Types[%.80q] is %.80q: leave %s out", name, foreign, urn))
		}
		d.own[urn+foreign] = names{name, foreign}
		low := strings.ToLower(urn + foreign)
		if _, twice := d.low[low]; twice {
			d.low[low] = names{} // it may be either
		} else {
			d.low[low] = names{name, foreign}
		}
	}
	for name := range cfg.Interfaces {
		if _, ok := cfg.Types[name]; !ok {
			d.fault(fmt.Errorf("the type %.80q has Interfaces and is not in Types", name))
		}
	}
	return d
}

// names are the wire name of a type, and that of the peer.
type names struct{ own, foreign string }

func (d *Dialect) fault(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = errors.Join(d.err, err)
}

// Name is masstransit.
func (*Dialect) Name() string { return "masstransit" }

// Validate says what is wrong with the Config.
func (d *Dialect) Validate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

const (
	vendor      = "application/vnd.masstransit"
	contentType = vendor + "+json"
	urn         = "urn:message:"
	faults      = "MassTransit:Fault"
	traceParent = "traceparent"
	activity    = "MT-Activity-Id"
	baggage     = "MT-Activity-Correlation-Context"
	acceptType  = "MT-Request-AcceptType"
	rawType     = "MT-MessageType"
)

// Read reads an envelope, whatever its content type says, and raw JSON with the header MT-MessageType.
func (d *Dialect) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	switch kind := media.Type(w.Properties.ContentType); {
	case kind == contentType:
		e, err := d.envelope(w)
		return e, true, err
	case strings.HasPrefix(kind, vendor): // BSON, XML, encrypted
		return nil, true, fmt.Errorf("its content type is %.80q, and only %s is read: have the peer use its JSON serializer for this endpoint", kind, contentType)
	}
	if bytes.Contains(w.Body, []byte(urn)) && isEnvelope(w.Body) { // also with the header, or a handler would get an empty message
		e, err := d.envelope(w)
		return e, true, err
	}
	if urns, ok := w.Headers[rawType]; ok {
		e, err := d.raw(w, field.Said(urns))
		return e, true, err
	}
	return nil, false, nil
}

// isEnvelope says whether a body is an envelope that is labelled as something else.
func isEnvelope(body []byte) bool {
	types, message := false, false
	err := jsontext.Object(body, func(key []byte, _ jsontext.Value) error {
		types, message = types || bytes.EqualFold(key, []byte("messageType")), message || bytes.EqualFold(key, []byte("message"))
		return nil
	})
	return err == nil && types && message
}

// fields are those of an envelope that are looked at.
type fields struct {
	messageID, requestID, correlationID, conversationID, initiatorID,
	source, response, fault, types, message, expiration, sent, headers jsontext.Value
}

// find has the place of a field; nil is one that is not looked at. MassTransit reads names in any case, too.
func (f *fields) find(name []byte) *jsontext.Value {
	switch string(name) {
	case "messageId":
		return &f.messageID
	case "requestId":
		return &f.requestID
	case "correlationId":
		return &f.correlationID
	case "conversationId":
		return &f.conversationID
	case "initiatorId":
		return &f.initiatorID
	case "sourceAddress":
		return &f.source
	case "responseAddress":
		return &f.response
	case "faultAddress":
		return &f.fault
	case "messageType":
		return &f.types
	case "message":
		return &f.message
	case "expirationTime":
		return &f.expiration
	case "sentTime":
		return &f.sent
	case "headers":
		return &f.headers
	}
	return nil
}

// known are the names of the fields that are looked at, for other spellings.
var known = []string{
	"messageId", "requestId", "correlationId", "conversationId", "initiatorId", "sourceAddress", "responseAddress", "faultAddress",
	"messageType", "message", "expirationTime", "sentTime", "headers",
}

func (f *fields) take(name []byte, value jsontext.Value) error {
	to := f.find(name)
	if to == nil {
		for _, one := range known {
			if len(name) == len(one) && strings.EqualFold(string(name), one) {
				to = f.find([]byte(one))
			}
		}
	}
	switch {
	case to == nil:
		return nil
	case *to != nil:
		return fmt.Errorf("the envelope has the field %s twice", name)
	}
	*to = value
	return nil
}

// envelope reads an envelope.
func (d *Dialect) envelope(w *dialect.Wire) (*dialect.Envelope, error) {
	var f fields
	if err := jsontext.Object(w.Body, f.take); err != nil {
		return nil, cmp.Or(jsontext.Encoded(w.Body, w.Properties.ContentEncoding), fmt.Errorf("the envelope: %w", err))
	}
	e := &dialect.Envelope{ContentType: "application/json"}
	for _, one := range []struct {
		name string
		from jsontext.Value
		to   *string
	}{
		{"messageId", f.messageID, &e.ID}, {"requestId", f.requestID, &e.RequestID}, {"correlationId", f.correlationID, &e.CorrelationID},
		{"conversationId", f.conversationID, &e.ConversationID}, {"initiatorId", f.initiatorID, &e.CausationID},
	} {
		if one.from.Null() {
			continue
		}
		var err error
		if *one.to, err = one.from.Text(); err != nil {
			return e, fmt.Errorf("the field %s of the envelope: %w", one.name, err)
		}
	}
	e.From = shown(text(f.source))
	e.TimeSent, e.Expires = readTime(f.sent), readTime(f.expiration)
	d.answerTo(e, w, text(f.response), text(f.fault))
	if err := d.types(e, f.types); err != nil {
		return e, err
	}
	if !f.message.IsObject() {
		return e, fmt.Errorf("the field message of the envelope is no object but %.40q", f.message)
	}
	e.Body = f.message
	return e, cmp.Or(readFault(e), d.headers(e, w, f.headers))
}

// text is a string; empty if it is something else. What is said by it is refused elsewhere.
func text(v jsontext.Value) string {
	if v.Null() {
		return ""
	}
	s, err := v.Text()
	if err != nil {
		return string(v)
	}
	return s
}

func readTime(v jsontext.Value) time.Time {
	s := text(v)
	t, err := time.Parse(time.RFC3339, s)
	if err != nil { // .NET writes a time of no kind without a zone; of anything else there is none: it is lenient as the rest of harebus is
		t, _ = time.Parse("2006-01-02T15:04:05", s)
	}
	return t
}

// types takes over what the message is. Type is the first one that is known here.
func (d *Dialect) types(e *dialect.Envelope, list jsontext.Value) error {
	err := jsontext.Array(list, func(v jsontext.Value) error {
		if found, ok := d.own[string(v.Inner())]; ok {
			e.Type = cmp.Or(e.Type, found.own)
			e.Types = append(e.Types, found.foreign)
			return nil
		}
		name, err := v.Text()
		if err != nil {
			return err
		}
		d.add(e, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the field messageType of the envelope: %w", err)
	}
	if e.Type = cmp.Or(e.Type, first(e.Types)); e.Type == "" {
		return fmt.Errorf("the field messageType of the envelope names no type that begins with %q", urn)
	}
	return nil
}

// add adds one type. MassTransit compares urns without regard to case.
func (d *Dialect) add(e *dialect.Envelope, name string) {
	if len(name) <= len(urn) || !strings.EqualFold(name[:len(urn)], urn) {
		return
	}
	found := d.own[name]
	if found.own == "" {
		found = d.low[strings.ToLower(name)]
	}
	e.Type = cmp.Or(e.Type, found.own)
	e.Types = append(e.Types, cmp.Or(found.foreign, name[len(urn):]))
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// raw reads a message of the raw JSON serializer: everything but the body is in headers.
func (d *Dialect) raw(w *dialect.Wire, urns string) (*dialect.Envelope, error) {
	of := func(name string) string {
		return field.Said(w.Headers[name])
	}
	p := &w.Properties
	e := &dialect.Envelope{
		ID: cmp.Or(of("MessageId"), p.MessageID), RequestID: of("RequestId"), CorrelationID: cmp.Or(of("CorrelationId"), p.CorrelationID),
		ConversationID: of("ConversationId"), CausationID: of("InitiatorId"), ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, Body: w.Body,
	}
	e.From = shown(of("MT-Source-Address"))
	d.answerTo(e, w, of("MT-Response-Address"), of("MT-Fault-Address"))
	for name := range strings.SplitSeq(urns, ";") {
		d.add(e, strings.TrimSpace(name))
	}
	switch e.Type = cmp.Or(e.Type, first(e.Types)); {
	case e.Type == "":
		return e, fmt.Errorf("the header %s names no type that begins with %s", rawType, urn)
	case p.ContentType == "":
		return e, errors.New("it has no content type")
	case len(e.Body) == 0 || jsontext.Nothing(e.Body) && media.IsJSON(media.Type(e.ContentType)):
		return e, errors.New("its body is empty")
	}
	return e, cmp.Or(readFault(e), d.headers(e, w, nil))
}

// answerTo says where an answer goes. An address that cannot be answered makes all of them useless.
func (d *Dialect) answerTo(e *dialect.Envelope, w *dialect.Wire, response, fault string) {
	var faulty [2]error
	if response != "" {
		e.ReplyTo, faulty[0] = d.parse(w, response)
	}
	if fault != "" {
		e.FaultTo, faulty[1] = d.parse(w, fault)
	}
	if e.NoReply = errors.Join(faulty[0], faulty[1]); e.NoReply != nil {
		e.ReplyTo, e.FaultTo = "", ""
	}
}
