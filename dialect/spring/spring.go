// Package spring reads and writes messages as Spring AMQP for Java does with a Jackson converter: the body is JSON, and the header __TypeId__ names
// the class.
//
// docs/spring.md says what to configure on both sides. Objects that Java has serialized are not read.
package spring

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
	"github.com/harebus/harebus/internal/wrapped"
)

// Config says which types are exchanged with the peers.
type Config struct {
	// Types are wire names and the names of classes, or the ids that their setIdClassMapping gives them: {"PlaceOrder": "com.acme.orders.PlaceOrder"}.
	// Of a collection it is also the class of the elements, of a map that of the keys before it: "java.util.ArrayList<com.acme.Item>",
	// "java.util.HashMap<java.lang.String,com.acme.Item>".
	Types dialect.Types
}

// Dialect is that of Spring AMQP. Make it with [New].
type Dialect struct {
	types dialect.Types
	own   map[string]string
	err   error
}

// New returns the dialect. harebus.New reports what is wrong with the configuration.
func New(cfg Config) *Dialect {
	d := &Dialect{types: cfg.Types}
	d.own, d.err = cfg.Types.Own()
	return d
}

// Name is spring.
func (*Dialect) Name() string { return "spring" }

// Validate says what is wrong with the Config.
func (d *Dialect) Validate() error { return d.err }

// The headers of Spring's converters.
const (
	typeID    = "__TypeId__"
	contentID = "__ContentTypeId__"
	keyID     = "__KeyTypeId__"
	batch     = "springBatchFormat"
)

// stacked are the headers by which a caller of Spring AMQP 1.1, or one with a correlation key, finds its answer.
var stacked = [...]string{"spring_reply_correlation", "spring_reply_to"}

const jsonContent = "application/json"

// Read reads a message that has the header __TypeId__. It has no RequestID, because Spring knows no message for a failure: a caller
// whose request is given up waits until its own timeout.
func (d *Dialect) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	class, ok := w.Headers[typeID]
	p := &w.Properties
	switch {
	case !ok && text(w, batch) != "":
		return nil, false, errBatch
	case !ok:
		return nil, false, nil
	case wrapped.Labelled(p.ContentType):
		return nil, false, errWrapped
	}
	e := &dialect.Envelope{
		ID: p.MessageID, CorrelationID: p.CorrelationID, ContentType: cmp.Or(p.ContentType, jsonContent), ContentEncoding: p.ContentEncoding,
		TimeSent: p.Timestamp, Body: w.Body,
	}
	if e.Type = field.Said(class); e.Type == "" {
		return e, true, errors.New("its header " + typeID + " is empty, or no text")
	}
	if of := text(w, contentID); of != "" {
		if key := text(w, keyID); key != "" {
			of = key + "," + of
		}
		full := e.Type + "<" + of + ">"
		if _, known := d.own[e.Type]; !known || d.own[full] != "" {
			e.Type = full
		}
	}
	if name, ok := d.own[e.Type]; ok {
		e.Type = name
	}
	e.ReplyTo, e.NoReply = address(p.ReplyTo)
	if text(w, batch) != "" {
		return e, true, errBatch
	}
	return e, true, content(e)
}

// address is the queue that reply_to names. Spring also has exchange/key, which is not answered.
func address(replyTo string) (string, error) {
	if replyTo == "" {
		return "", nil
	}
	return dialect.ParseReplyTo(replyTo)
}

var (
	errBatch   = errors.New("it is a batch of messages (" + batch + "), and a message is one here: have the sender use a RabbitTemplate and no BatchingRabbitTemplate")
	errWrapped = errors.New("it is in the envelope of MassTransit or CloudEvents: add that dialect to Config.Payload.Dialects")
)

// text is a header; empty if it is not text.
func text(w *dialect.Wire, name string) string {
	return field.Said(w.Headers[name])
}

// content undoes GZipPostProcessor, and refuses what is not JSON.
func content(e *dialect.Envelope) (err error) {
	if media.Type(e.ContentType) == "application/octet-stream" && json.Valid(e.Body) {
		e.ContentType = jsonContent // Spring's converters take their own type for the one that clients of Java leave in place
	}
	if !media.IsJSON(media.Type(e.ContentType)) {
		return fmt.Errorf("its content type is %.80q, and harebus reads JSON only: use a Jackson converter", e.ContentType)
	}
	by, rest, _ := strings.Cut(strings.ReplaceAll(e.ContentEncoding, ":", ","), ",")
	switch strings.ToLower(strings.TrimSpace(by)) {
	case "gzip":
		e.ContentEncoding = strings.TrimSpace(rest)
		if e.Body, err = inflated(e.Body); err != nil {
			return err
		}
	case "zip", "deflate":
		return fmt.Errorf("it is compressed as %.80q, and harebus reads gzip only", e.ContentEncoding)
	}
	if jsontext.Nothing(e.Body) {
		return errors.New("its body is empty")
	}
	return nil
}

// inflated is a body that was compressed. It may become as long as bodies of harebus may be by default.
func inflated(body []byte) ([]byte, error) {
	const largest = 16 << 20
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(r, largest+1))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("it cannot be decompressed: %w", err)
	case len(body) > largest:
		return nil, fmt.Errorf("it has more than %d bytes when it is decompressed", largest)
	}
	return body, nil
}

// Write makes a message that a listener with a Jackson converter handles.
func (d *Dialect) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	maps.Copy(w.Headers, e.Headers)
	if e.Fault != nil {
		return w, errors.New("a peer with Spring AMQP has no message that says that a request was given up")
	}
	if !media.IsJSON(media.Type(e.ContentType)) {
		return w, fmt.Errorf("the content type is %.80q, and the peer reads JSON only", e.ContentType)
	}
	class, err := d.types.Foreign(e.Type)
	p := &w.Properties
	p.ContentType, p.ContentEncoding, p.MessageID, p.CorrelationID, p.Timestamp, w.Body = jsonContent, "UTF-8", e.ID, e.CorrelationID, e.TimeSent, e.Body
	switch {
	case to.Kind == dialect.Request:
		p.CorrelationID, p.ReplyTo = e.RequestID, e.ReplyTo
	case to.Kind == dialect.Reply && to.Answers != nil:
		p.CorrelationID = cmp.Or(to.Answers.CorrelationID, to.Answers.ID)
		for _, name := range stacked {
			if asked := field.Said(to.Answers.Headers[name]); asked != "" {
				w.Headers[name] = asked
			}
		}
	case to.Kind == dialect.Publish:
		w.Mandatory = false
	}
	class, of, collection := strings.Cut(class, "<")
	w.Headers[typeID] = class
	if collection {
		of = strings.TrimSuffix(of, ">")
		if key, value, ok := strings.Cut(of, ","); ok {
			w.Headers[keyID], of = key, value
		}
		w.Headers[contentID] = of
	}
	return w, err
}

// Sample is a message as Spring AMQP writes it.
func (*Dialect) Sample() dialect.Wire {
	return dialect.Wire{
		RoutingKey: "orders", Properties: dialect.Properties{ContentType: jsonContent, ContentEncoding: "UTF-8", DeliveryMode: 2},
		Headers: map[string]any{typeID: "com.acme.orders.PlaceOrder"}, Body: []byte(`{"id":7}`),
	}
}
