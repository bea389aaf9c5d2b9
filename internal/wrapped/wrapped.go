// Package wrapped recognises messages in the envelope of MassTransit or CloudEvents. Other dialects must not take an envelope for a payload: a handler would get
// a message without content.
package wrapped

import (
	"bytes"
	"strings"

	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
)

// Labelled says whether a content type is that of an envelope.
func Labelled(contentType string) bool {
	kind := media.Type(contentType)
	return strings.HasPrefix(kind, "application/vnd.masstransit") || strings.HasPrefix(kind, "application/cloudevents")
}

// Is says the same of a message: JSON may be an envelope that is labelled as something else.
func Is(contentType string, body []byte) bool {
	if Labelled(contentType) {
		return true
	}
	if kind := media.Type(contentType); kind != "" && !media.IsJSON(kind) && strings.HasPrefix(kind, "application/") {
		return false
	}
	if !bytes.Contains(body, []byte(`"specversion"`)) && !bytes.Contains(body, []byte(`"urn:message:`)) {
		return false
	}
	found := map[string]bool{}
	_ = jsontext.Object(body, func(key []byte, _ jsontext.Value) error { // what is no JSON is no envelope
		found[string(key)] = true
		return nil
	})
	return found["specversion"] && found["source"] || found["messageType"] && found["message"]
}
