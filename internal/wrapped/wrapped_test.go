package wrapped_test

import (
	"testing"

	"github.com/harebus/harebus/internal/wrapped"
)

// TestIs: an envelope is found by its label, and without one by the names of its fields.
func TestIs(t *testing.T) {
	t.Parallel()
	const transit, event = `{"messageType":["urn:message:A:B"],"message":{}}`, `{"specversion":"1.0","source":"/o","data":{}}`
	for _, c := range []struct {
		contentType, body string
		want              bool
	}{
		{"application/vnd.masstransit+json", "", true}, {"Application/CloudEvents+JSON; charset=utf-8", "", true}, {"application/cloudevents-batch+json", "[]", true},
		{"application/json", transit, true}, {"", event, true}, {"text/plain", event, true}, {"application/xml", event, false},
		{"application/json", `{"text":"\"urn:message: and \"specversion\""}`, false}, {"application/json", `{"inner":` + event + `}`, false}, {"", `{"specversion"`, false}, {"", "", false},
	} {
		if got := wrapped.Is(c.contentType, []byte(c.body)); got != c.want {
			t.Errorf("%s %s: %v", c.contentType, c.body, got)
		}
	}
}
