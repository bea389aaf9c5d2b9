package media_test

import (
	"testing"

	"github.com/harebus/harebus/internal/media"
)

// TestType: a content type is found in whatever way it is written, and JSON by all its names.
func TestType(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"application/json": "application/json", " Application/JSON ;charset=UTF-8": "application/json", "application/json;": "application/json", "application/json; systemjson": "application/json",
		"application/json\t; charset=\"utf-8\"; q": "application/json", "": "", ";": "", "text/plain,x": "text/plain,x",
	} {
		if got := media.Type(written); got != want {
			t.Errorf("%q is %q, want %q", written, got, want)
		}
	}
	for kind, want := range map[string]bool{"application/json": true, "text/json": true, "application/vnd.acme+json": true, "application/jsonp": false, "": false, "application/xml": false} {
		if media.IsJSON(kind) != want {
			t.Errorf("%q: %v", kind, !want)
		}
	}
}

// TestTypeCosts: nothing is allocated for what libraries write.
func TestTypeCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	if n := testing.AllocsPerRun(100, func() { media.Type("application/json; charset=utf-8") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
