package celery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/dialecttest"
)

func typed(kind, value string) string {
	return `{"__type__": "` + kind + `", "__value__": ` + value + `}`
}

// TestTypedValues: what Celery since 5.3 writes for values that JSON has no form for reaches a handler as the text that a Go type decodes. Nothing of it reaches a
// handler as an object that the Go type would take for an empty one.
func TestTypedValues(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		typed("datetime", `"2026-11-28T07:25:56.589670+00:00"`):                       `"2026-11-28T07:25:56.589670+00:00"`,
		typed("datetime", `"2026-11-28T07:25:56"`):                                    `"2026-11-28T07:25:56Z"`,
		typed("date", `"2026-11-28"`):                                                 `"2026-11-28"`,
		typed("time", `"07:25:56"`):                                                   `"07:25:56"`,
		typed("decimal", `"12.50"`):                                                   `"12.50"`,
		typed("uuid", `{"hex": "8f2c3a34000040008000000000000004", "version": 4}`):    `"8f2c3a34-0000-4000-8000-000000000004"`,
		typed("bytes", `"\u00fc"`):                                                    `"w7w="`,
		typed("base64", `"/w=="`):                                                     `"/w=="`,
		`{"__value__": "2026-11-28", "__type__" : "date"}`:                            `"2026-11-28"`,
		`[1, ` + typed("date", `"2026-11-28"`) + `, ` + typed("decimal", `"1"`) + `]`: `[1, "2026-11-28", "1"]`,
		`{"__type__": "date"}`:                                                        `{"__type__": "date"}`,
		`{"__type__": "date", "__value__": "x", "more": 1}`:                           `{"__type__": "date", "__value__": "x", "more": 1}`,
		`["__type__", "__value__"]`:                                                   `["__type__", "__value__"]`,
		`{"a": "\"__type__\": {}"}`:                                                   `{"a": "\"__type__\": {}"}`,
		typed("datetime", `"tomorrow"`):                                               "no time",
		typed("datetime", `null`):                                                     "is not text",
		typed("money", `"12"`):                                                        `"money": harebus does not know it`,
		typed("uuid", `{"hex": "../../../../../../../../../../../"}`):                 "no 32 digits",
		typed("uuid", `"8f2c3a34-0000-4000-8000-000000000004"`):                       "no 32 digits",
		typed("decimal", typed("decimal", `"1"`)):                                     "another one inside",
		`{"__type__": 7, "__value__": "x"}`:                                           "does not know",
		strings.Repeat(`{"__type__": "date", "__value__": `, 9000) + `1` + strings.Repeat("}", 9000): "is not text",
	} {
		w := peer(false).Sample()
		w.Body = []byte(`[[{"value": ` + value + `}], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`)
		e, is, err := peer(false).Read(&w)
		switch {
		case !is:
			t.Errorf("%.80s: it is not read", value)
		case err != nil:
			says(t, err, want)
		case string(e.Body) != `{"value": `+want+`}`:
			t.Errorf("%.80s is %s, want %s", value, e.Body, want)
		}
	}
	w := peer(false).Sample()
	w.Headers["task"] = "orders.clean"
	w.Body = []byte(`[[], ` + typed("date", `"2026-11-28"`) + `, null]`)
	if e, _, err := peer(false).Read(&w); err == nil {
		t.Errorf("keyword arguments that are a date are %s", e.Body)
	}
	result := dialect.Wire{Properties: dialect.Properties{ContentType: "application/json", CorrelationID: "7"}, Body: []byte(`{"task_id": "7", "status": "SUCCESS", "result": ` + typed("decimal", `"12.50"`) + `}`)}
	if e, _, err := peer(true).Read(&result); err != nil || string(e.Body) != `"12.50"` {
		t.Errorf("a result is %s, %v", e.Body, err)
	}
	for name, change := range map[string]func(*dialect.Wire){
		"Spring":      func(w *dialect.Wire) { w.Headers = map[string]any{"__TypeId__": "com.acme.Done"} },
		"CloudEvents": func(w *dialect.Wire) { w.Headers = map[string]any{"ce-specversion": "1.0"} },
		"a type":      func(w *dialect.Wire) { w.Properties.Type = "Acme.Done" },
	} {
		other := result
		change(&other)
		if e, is, err := peer(true).Read(&other); is || err != nil {
			t.Errorf("a message of %s is read as the result %s, %v", name, e.Body, err)
		}
	}
}

// TestTypedValuesAreLinear: values of a stranger that are nested deeply, or that are many, take no longer than others of their size.
func TestTypedValuesAreLinear(t *testing.T) {
	t.Parallel()
	const depth, many = 9_000, 50_000
	for name, value := range map[string]string{
		"deep": strings.Repeat(`{"__type__":`, depth) + `"` + strings.Repeat("x", 1<<20) + `"` + strings.Repeat("}", depth),
		"many": `[` + strings.Repeat(typed("decimal", `"1"`)+`,`, many) + `1]`,
	} {
		w := peer(false).Sample()
		w.Body = []byte(`[[` + value + `], {}, null]`)
		began := time.Now()
		if _, _, err := peer(false).Read(&w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: %v", name, took)
		}
	}
}

// TestOtherSerializers: what other serializers or compressions of kombu wrote is parked with the reason, in either protocol.
func TestOtherSerializers(t *testing.T) {
	t.Parallel()
	for _, golden := range []string{"celery-protocol-1", "celery-task"} {
		for want, change := range map[string]func(*dialect.Wire){
			"task_serializer": func(w *dialect.Wire) {
				w.Properties.ContentType, w.Properties.ContentEncoding = "application/x-python-serialize", "binary"
			},
			"application/zstd": func(w *dialect.Wire) { w.Headers["compression"] = "application/zstd" },
			"x-lzma":           func(w *dialect.Wire) { w.Headers["compression"] = []byte("application/x-lzma") },
		} {
			w := dialecttest.Load(t, golden)
			change(&w)
			w.Body = []byte("\x80\x04\x95")
			if _, _, faults := dialecttest.Read(byName(), &w); len(faults) != 1 || faults[0].Reason != "bad-envelope" || !strings.Contains(faults[0].Err.Error(), want) {
				t.Errorf("%s, %s: %v", golden, want, faults)
			}
		}
	}
	w := dialecttest.Load(t, "celery-task")
	w.Properties.ContentEncoding, w.Body = "gzip", []byte("\x1f\x8b\b")
	_, _, err := byName().Read(&w)
	says(t, err, `content encoding is "gzip"`)
}
