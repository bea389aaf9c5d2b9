package spring_test

import (
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/dialecttest"
)

// TestContentTypes: JSON is read under all its names and spellings, and what no handler could take is refused, however it is written.
func TestContentTypes(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{
		"", "application/json ;charset=UTF-8", "application/json;charset=utf-8", "Application/JSON", " application/json", "text/json", "application/x-json", "application/vnd.acme+json; v=1", "application/json; x",
	} {
		w := peer().Sample()
		w.Properties.ContentType, w.Broker = contentType, &dialecttest.Broker
		if f, h, faults := dialecttest.Read(peer(), &w); f == nil || len(faults) > 0 || h.Type != "PlaceOrder" {
			t.Errorf("%q: %v", contentType, faults)
		}
		w.Body = []byte(strings.Repeat(" ", 64) + `{"id":7}`) // as somebody who pads
		if f, _, faults := dialecttest.Read(peer(), &w); f == nil || len(faults) > 0 {
			t.Errorf("%q, padded: %v", contentType, faults)
		}
		for _, body := range []string{"", strings.Repeat(" ", 64), strings.Repeat("\n", 1<<20), strings.Repeat(" ", 64) + "null", "null" + strings.Repeat("\t", 100), "\uFEFF null"} {
			w.Body = []byte(body)
			if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "is empty") {
				t.Errorf("%q, %d bytes: %v", contentType, len(body), faults)
			}
		}
	}
	for _, contentType := range []string{"application/x-java-serialized-object", "text/plain; charset=application/json", "application/jsonp", "json/application", "text/xml;+json"} {
		w := peer().Sample()
		w.Properties.ContentType = contentType
		if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "Jackson") {
			t.Errorf("%q: %v", contentType, faults)
		}
	}
}
