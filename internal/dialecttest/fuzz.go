package dialecttest

import (
	"maps"
	"slices"
	"testing"

	"github.com/harebus/harebus/dialect"
)

// Fuzz reads messages that nobody would write. Seeds are the goldens; fields are the headers that the dialect reads, one of which
// is changed at a time.
func Fuzz(f *testing.F, d dialect.Dialect, goldens, fields []string) {
	f.Helper()
	wires := make([]dialect.Wire, len(goldens))
	for i, name := range goldens {
		wires[i] = Load(f, name)
		p := wires[i].Properties
		f.Add(uint8(i), p.ContentType, p.Type, p.MessageID, p.ReplyTo, uint8(0), "", wires[i].Body)
	}
	m := Mutations{}
	f.Fuzz(func(t *testing.T, from uint8, contentType, messageType, id, replyTo string, field uint8, value string, body []byte) {
		w := wires[int(from)%len(wires)]
		w.Properties.ContentType, w.Properties.Type, w.Properties.MessageID, w.Properties.ReplyTo = contentType, messageType, id, replyTo
		w.Body = slices.Clone(body)
		headers := map[string]any{}
		maps.Copy(headers, w.Headers)
		if len(fields) > 0 && value != "" {
			headers[fields[int(field)%len(fields)]] = value
		}
		w.Headers = headers
		m.check(t, d, "fuzz", &w)
		if string(w.Body) != string(body) {
			t.Error("the body has been changed in place")
		}
	})
}
