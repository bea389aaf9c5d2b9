package cloudevents

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
)

// Read reads an event: in structured form by its content type, or if the body is a JSON object with the four attributes that every event
// has; in binary form by the header specversion, in any of its spellings.
func (d *Dialect) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	var ev event
	body, unread := content(w)
	headers, encoded := attributesIn(w.Headers)
	switch declared, spelling := isStructured(w.Properties.ContentType), spellingOf(headers); {
	case declared:
		ev.passAll(headers, encoded)
		if err := cmp.Or(unread, ev.fromDocument(body, w.Properties.ContentType, w.Properties.ContentEncoding)); err != nil {
			return nil, true, err
		}
	case spelling >= 0:
		if err := cmp.Or(unread, ev.fromHeaders(w.Properties.ContentType, headers, spelling, encoded), ev.take(body)); err != nil {
			return nil, true, err
		}
	case bytes.Contains(body, []byte(`"specversion"`)):
		ev.passAll(headers, encoded)
		if err := ev.fromDocument(body, "", ""); err != nil || ev.missing() != nil {
			return nil, false, nil //nolint:nilerr // a document of another kind
		}
	case bare(headers):
		if err := cmp.Or(unread, ev.fromHeaders(w.Properties.ContentType, headers, len(prefixes), encoded), ev.take(body)); err != nil {
			return nil, true, err
		}
	default:
		return nil, false, nil
	}
	e, err := d.envelope(&ev, w)
	return e, true, err
}

// oldest is the version before the first.
const oldest = "0.3"

// event is what an event says of itself, in whatever form.
type event struct {
	version, id, source, kind, time, contentType, encoding string

	correlationID, causationID string
	// headers are the attributes that have no place in an envelope.
	headers map[string]any
	body    []byte
}

// isStructured says whether a content type is one of those of events.
func isStructured(contentType string) bool {
	kind, ok := strings.CutPrefix(media.Type(contentType), structured)
	return ok && (kind == "" || kind[0] == '+' || kind[0] == '-')
}

// spellingOf is the index of the prefix that the attributes have in headers; -1 if they have none.
func spellingOf(headers map[string]any) int {
	for i, name := range [...]string{"cloudEvents_specversion", "cloudEvents:specversion", "ce-specversion", "ce_specversion"} {
		if _, ok := headers[name]; ok {
			return i
		}
	}
	return -1
}

// bare says whether headers are attributes without a prefix, which is what Knative writes.
func bare(headers map[string]any) bool {
	for _, name := range [...]string{specVersion, id, source, kind} {
		if field.Said(headers[name]) == "" {
			return false
		}
	}
	return true
}

// envelope is what harebus makes of an event.
func (d *Dialect) envelope(ev *event, w *dialect.Wire) (*dialect.Envelope, error) {
	p := &w.Properties
	e := &dialect.Envelope{
		ID: ev.id, CorrelationID: cmp.Or(p.CorrelationID, ev.correlationID), CausationID: ev.causationID, Type: cmp.Or(d.own[ev.kind], ev.kind),
		From: queueOf(ev.source), ContentType: cmp.Or(ev.contentType, jsonType), Headers: ev.headers, Body: ev.body,
	}
	e.TimeSent, _ = time.Parse(time.RFC3339, ev.time) // the time of a message that has none is that of its arrival
	if p.ReplyTo != "" {
		e.ReplyTo, e.NoReply = dialect.ParseReplyTo(p.ReplyTo)
	}
	if d.SourceInID && ev.id != "" {
		e.ID = ev.source + " " + ev.id
	}
	if !isStructured(p.ContentType) {
		e.ContentEncoding = p.ContentEncoding
	}
	if err := ev.missing(); err != nil {
		return e, err
	}
	switch {
	case !strings.HasPrefix(ev.version, "1.") && ev.version != oldest:
		return e, fmt.Errorf("its specversion is %.40q, and only versions 1 and "+oldest+" are read", ev.version)
	case len(ev.body) == 0 || jsontext.Nothing(ev.body) && isJSON(ev.contentType):
		return e, errors.New("the event has no data, and a handler needs a message")
	}
	return e, nil
}

// missing says which of the attributes that every event has are not there.
func (ev *event) missing() error {
	var faults []error
	for _, one := range [...]struct{ name, value string }{{specVersion, ev.version}, {id, ev.id}, {source, ev.source}, {kind, ev.kind}} {
		if one.value == "" {
			faults = append(faults, fmt.Errorf("the event has no %s", one.name))
		}
	}
	return errors.Join(faults...)
}

// queueOf is the queue of a source such as /orders; empty for one that is no queue's, which is among the headers.
func queueOf(source string) string {
	name := strings.TrimPrefix(source, "/")
	if strings.ContainsAny(name, ":?#") {
		return ""
	}
	queue, _ := dialect.ParseQueue(name)
	return queue
}

// required are the attributes that must be text if they are there.
func (ev *event) required(name string) *string {
	switch name {
	case specVersion:
		return &ev.version
	case id:
		return &ev.id
	case source:
		return &ev.source
	case kind:
		return &ev.kind
	case dataContentType:
		return &ev.contentType
	case dataEncoding:
		return &ev.encoding
	}
	return nil
}

// optional are those that are left out if they are not text.
func (ev *event) optional(name string) *string {
	switch name {
	case occurred:
		return &ev.time
	case correlationID:
		return &ev.correlationID
	case causationID:
		return &ev.causationID
	}
	return nil
}

// add adds an attribute to the headers that the handler gets.
func (ev *event) add(name string, value any) {
	if name != traceParent && name != traceState {
		name = prefix + name
	}
	ev.pass(name, value)
}

// fromHeaders reads binary form; spelling is the index of a prefix, or that of none. encoded says that the handler does not get these headers from the message.
func (ev *event) fromHeaders(contentType string, headers map[string]any, spelling int, encoded bool) error {
	before := ""
	if spelling < len(prefixes) {
		before = prefixes[spelling]
	}
	for key, value := range headers {
		name, ok := strings.CutPrefix(key, before)
		if value == nil {
			continue
		}
		if encoded && (!ok || before == "") {
			ev.pass(key, value)
		}
		if !ok {
			continue
		}
		if at, ok := value.(time.Time); ok {
			value = at.UTC().Format(time.RFC3339Nano)
		}
		text := field.Said(value)
		if to := ev.required(name); to != nil {
			if text == "" && value != "" {
				return fmt.Errorf("the attribute %s is not text", name)
			}
			*to = text
		} else if to := ev.optional(name); to != nil {
			*to = text
		} else if before != "" && (before != prefix || encoded || name == traceParent || name == traceState) {
			ev.add(name, value)
		}
	}
	ev.contentType = cmp.Or(contentType, ev.contentType)
	if ev.contentType == "" {
		ev.contentType = field.Said(headers["content-type"]) // Knative, and who puts the headers of HTTP into those of AMQP
	}
	return nil
}

// take takes the body of binary form.
func (ev *event) take(body []byte) (err error) {
	ev.body, err = ev.decoded(body)
	return err
}

// pass adds what is no attribute to the headers that the handler gets.
func (ev *event) pass(key string, value any) {
	if ev.headers == nil {
		ev.headers = map[string]any{}
	}
	ev.headers[key] = value
}

// passAll does that with all headers of a document, if the handler does not get them from the message.
func (ev *event) passAll(headers map[string]any, encoded bool) {
	for key, value := range headers {
		if encoded && value != nil {
			ev.pass(key, value)
		}
	}
}

// fromDocument reads structured form.
func (ev *event) fromDocument(body []byte, contentType, contentEncoding string) error {
	if base := media.Type(contentType); base != "" && base != structured+"+json" && base != structured {
		if strings.Contains(base, "batch") {
			return errors.New("it is a batch (" + base + "), and a message has one event here: have the sender send them one by one")
		}
		return fmt.Errorf("events in the format %.80q are not read, only "+structured+"+json", base)
	}
	var inJSON, inBase64 jsontext.Value
	err := jsontext.Object(bytes.TrimPrefix(body, []byte("\uFEFF")), func(key []byte, v jsontext.Value) error {
		switch string(key) {
		case data:
			return once(&inJSON, v, data)
		case dataBase64:
			return once(&inBase64, v, dataBase64)
		}
		return ev.member(key, v)
	})
	if err != nil {
		return cmp.Or(jsontext.Encoded(body, contentEncoding), err)
	}
	if ev.encoding != "" && ev.version != oldest {
		ev.add(dataEncoding, ev.encoding) // an extension like others
		ev.encoding = ""
	}
	ev.body, err = ev.data(inJSON, inBase64)
	return err
}

// once refuses data that is there twice, because readers disagree about which counts.
func once(to *jsontext.Value, v jsontext.Value, name string) error {
	if *to != nil {
		return errTwice(name)
	}
	*to = v
	return nil
}

func errTwice(name string) error { return fmt.Errorf("the event has %s twice", name) }

// member reads an attribute. One that is null is absent.
func (ev *event) member(key []byte, v jsontext.Value) (err error) {
	if v.Null() {
		return nil
	}
	name := string(key)
	text, err := v.Text()
	if to := ev.required(name); to != nil {
		if err != nil {
			return fmt.Errorf("the attribute %s: %w", name, err)
		}
		if *to != "" {
			return errTwice(name)
		}
		*to = text
		if name == source {
			ev.add(name, text)
		}
		return nil
	}
	if to := ev.optional(name); to != nil {
		*to = text
		return nil
	}
	switch number, notWhole := strconv.ParseInt(string(v), 10, 64); {
	case err == nil:
		ev.add(name, text)
	case notWhole == nil:
		ev.add(name, number)
	case string(v) == "true" || string(v) == "false":
		ev.add(name, string(v) == "true")
	default:
		ev.add(name, string(v)) // what no attribute should be
	}
	return nil
}

// data is the payload of a document.
func (ev *event) data(inJSON, inBase64 jsontext.Value) ([]byte, error) {
	switch {
	case inJSON.Null() && inBase64.Null():
		return nil, nil // also null is no data, whatever the type of that would be
	case !inJSON.Null() && !inBase64.Null():
		return nil, errors.New("the event has data and data_base64")
	case !inBase64.Null():
		text, err := inBase64.Text()
		if err != nil {
			return nil, fmt.Errorf("data_base64: %w", err)
		}
		body, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("data_base64: %w", err)
		}
		return body, nil
	case ev.encoding == "" && isJSON(ev.contentType):
		ev.contentType = inUTF8(ev.contentType)
		return inJSON, nil
	}
	text, err := inJSON.Text()
	if err != nil {
		return nil, fmt.Errorf("the data of the type %.80q: %w", ev.contentType, err)
	}
	if ev.encoding == "" {
		ev.contentType = inUTF8(ev.contentType)
	}
	return ev.decoded([]byte(text))
}

// inUTF8 is a content type without another charset: what stands in a document as text is encoded as that is.
func inUTF8(contentType string) string {
	if !strings.Contains(strings.ToLower(contentType), "charset") {
		return contentType
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || strings.EqualFold(params["charset"], "utf-8") {
		return contentType
	}
	delete(params, "charset")
	return mime.FormatMediaType(kind, params)
}

// decoded undoes the encoding that version 0.3 has an attribute for.
func (ev *event) decoded(data []byte) ([]byte, error) {
	switch {
	case ev.encoding == "" || ev.version != oldest:
		return data, nil
	case !strings.EqualFold(ev.encoding, "base64"):
		return nil, fmt.Errorf("its datacontentencoding is %.40q, and version "+oldest+" has base64 only", ev.encoding)
	}
	decoded := make([]byte, base64.StdEncoding.DecodedLen(len(data)))
	n, err := base64.StdEncoding.Decode(decoded, data)
	if err != nil {
		return nil, fmt.Errorf("its data is not in base64, as its datacontentencoding says: %w", err)
	}
	return decoded[:n], nil
}

// isJSON says whether data of a content type is a JSON value. Data without one is.
func isJSON(contentType string) bool {
	return contentType == "" || media.IsJSON(media.Type(contentType))
}
