package cloudevents

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/harebus/harebus/dialect"
)

// Write makes an event. A header whose name begins with cloudEvents_ becomes an attribute, such as cloudEvents_subject; traceparent
// and tracestate do too.
func (d *Dialect) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	attributes, err := d.attributes(e, w.Headers)
	p := &w.Properties
	p.MessageID, p.CorrelationID = e.ID, e.CorrelationID
	switch {
	case to.Kind == dialect.Request:
		p.ReplyTo, p.CorrelationID = e.ReplyTo, e.RequestID
	case to.Answers != nil:
		p.CorrelationID = cmp.Or(to.Answers.CorrelationID, to.Answers.ID)
	}
	if e.Fault != nil {
		err = errors.Join(err, errors.New("there is no event that says that a request was given up"))
	}
	if err != nil {
		return w, err
	}
	if d.Structured {
		p.ContentType = structured + "+json; charset=utf-8"
		w.Body, err = document(attributes, e)
		return w, err
	}
	p.ContentType, p.ContentEncoding, w.Body = e.ContentType, e.ContentEncoding, e.Body
	for name, value := range attributes {
		w.Headers[d.Prefix+name] = value
	}
	return w, nil
}

// attributes are those of the event. Headers that are none are copied to others.
func (d *Dialect) attributes(e *dialect.Envelope, others map[string]any) (map[string]any, error) {
	kindOf, err := d.Types.Foreign(e.Type)
	faults := []error{err}
	all := map[string]any{}
	for key, value := range e.Headers {
		name, is := attributeOf(key)
		if !is {
			if key != specVersion { // the mark of attributes without a prefix, which would be read for these
				others[key] = value
			}
			continue
		}
		value, err := valueOf(name, value)
		faults = append(faults, err)
		if value != "" {
			all[name] = value
		}
	}
	from := d.Source
	if from == "" && e.From != "" {
		from = "/" + url.PathEscape(e.From)
	}
	if from == "" {
		faults = append(faults, errors.New("an event needs a source, and there is no queue to be it: set Source of the dialect"))
	}
	delete(all, dataContentType)
	maps.Copy(all, map[string]any{specVersion: version, id: e.ID, source: from, kind: kindOf})
	for name, value := range map[string]string{correlationID: e.CorrelationID, causationID: e.CausationID, occurred: timeOf(e.TimeSent)} {
		if value != "" {
			all[name] = value
		}
	}
	return all, errors.Join(faults...)
}

// attributeOf is the attribute that a header stands for.
func attributeOf(key string) (string, bool) {
	for _, before := range prefixes {
		if name, ok := strings.CutPrefix(key, before); ok {
			return name, true
		}
	}
	return key, key == traceParent || key == traceState
}

// valueOf refuses what no attribute can be.
func valueOf(name string, value any) (any, error) {
	if name == "" || name == data || strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		return "", fmt.Errorf("%.80q is no name of an attribute: it has small letters and digits, and is not %s", name, data)
	}
	switch v := value.(type) {
	case string:
		if !utf8.ValidString(v) {
			return "", fmt.Errorf("the attribute %s is not UTF-8", name)
		}
		return v, nil
	case bool, int8, uint8, int16, int32, int64, int:
		return v, nil
	case time.Time:
		return timeOf(v), nil
	}
	return "", fmt.Errorf("the attribute %s is a %T: it can be a text, a boolean, a whole number or a time", name, value)
}

func timeOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// document is the event in structured form.
func document(attributes map[string]any, e *dialect.Envelope) ([]byte, error) {
	if e.ContentEncoding != "" && !strings.EqualFold(e.ContentEncoding, "utf-8") {
		return nil, fmt.Errorf("the content encoding %.80q cannot be said in a structured event", e.ContentEncoding)
	}
	attributes[dataContentType] = cmp.Or(e.ContentType, jsonType)
	switch {
	case isJSON(e.ContentType):
		attributes[data] = json.RawMessage(e.Body)
	case isText(e.ContentType) && utf8.Valid(e.Body):
		attributes[data] = string(e.Body)
	default:
		attributes[dataBase64] = e.Body
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(attributes); err != nil {
		return nil, fmt.Errorf("the data is no JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func isText(contentType string) bool {
	return strings.HasPrefix(contentType, "text/") || strings.HasPrefix(contentType, "application/xml") || strings.Contains(contentType, "+xml")
}
