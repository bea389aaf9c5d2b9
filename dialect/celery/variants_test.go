package celery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestFirstProtocol: a task of protocol 1 is read like one of protocol 2, and what could not be run as it was meant is parked.
func TestFirstProtocol(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "celery-protocol-1")
	with := func(pairs ...string) *dialect.Wire {
		one := w
		one.Body = []byte(strings.NewReplacer(pairs...).Replace(string(w.Body)))
		return &one
	}
	for want, one := range map[string]*dialect.Wire{
		`it has "chord"`:      with(`"chord": null`, `"chord": {"task": "orders.sum"}`),
		`it has "callbacks"`:  with(`"callbacks": null`, `"callbacks": [{"task": "orders.pack"}]`),
		"field eta is":        with(`"eta": null`, `"eta": "tomorrow"`),
		"set enable_utc":      with(`"utc": true`, `"utc": false`, `"eta": null`, `"eta": "2026-11-28T07:25:56"`),
		"field expires is":    with(`"expires": null`, `"expires": 60`),
		"task or id is empty": with(`"id": "8f2c3a34-0000-4000-8000-000000000004"`, `"id": 7`),
		"0 arguments":         with(`[{"id": 7}]`, `[]`),
		"are not [those":      with(`"kwargs": {}`, `"kwargs": null`),
	} {
		_, is, err := peer(false).Read(one)
		if !is {
			t.Errorf("%s: it is not read: %s", want, one.Body)
		}
		says(t, err, want)
	}
	if e, is, err := peer(false).Read(with(`"utc": true`, `"utc": false`, `"orders.place"`, `"orders.strange"`)); err != nil || !is || string(e.Body) != `[[{"id": 7}], {}]` {
		t.Errorf("a task without times: %+v, %v", e, err)
	}
	e, _, err := peer(true).Read(with(`"eta": null`, `"eta": "2026-11-28T07:25:56.589670+00:00"`))
	if err != nil || !e.NotBefore.Equal(time.Date(2026, 11, 28, 7, 25, 56, 589_670_000, time.UTC)) || e.ReplyTo != client || e.RequestID != uuid(4) {
		t.Errorf("its result would go to %+v, %v", e, err)
	}
	for body, want := range map[string]string{
		`{"task": "orders.place", "id": "7", "args": [{"id": 7}]}`: `{"id": 7}`, `{"task": "orders.place", "id": "7", "kwargs": {"order": {"id": 7}}}`: `{"id": 7}`, `{"task": "orders.clean", "id": "7", "args": []}`: `{}`,
	} {
		one := w
		one.Body = []byte(body)
		if e, is, err := peer(false).Read(&one); !is || err != nil || string(e.Body) != want {
			t.Errorf("%s is %+v, %v", body, e, err)
		}
	}
	for _, body := range []string{`{"task": "orders.strange", "id": "7", "args": []}`, `{"task": "orders.place", "id": "7"}`, `{"task": 7, "id": "7", "args": []}`, `{"kwargs": {}}`, `["kwargs"]`, `"kwargs"`, `{"kwargs"`, `{"a": {"task": "x", "id": "7", "args": [], "kwargs": {}}}`} {
		one := w
		one.Body = []byte(body)
		if _, is, err := peer(false).Read(&one); is || err != nil {
			t.Errorf("%s is read: %v", body, err)
		}
	}
	one := w
	one.Properties.ContentType = "application/x-python-serialize"
	if _, is, _ := peer(false).Read(&one); is {
		t.Error("a body that is no JSON is read")
	}
}

// TestVersions: what the versions of Celery, and of other libraries with its protocol, write differently does not matter to a handler.
func TestVersions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *dialect.Wire){
		"nothing follows": func(w *dialect.Wire) { w.Body = []byte(`[[{"id": 7}], {}, null]`) },
		"an empty object": func(w *dialect.Wire) { w.Body = []byte(`[[{"id": 7}], {}, {}]`) },
		"compact": func(w *dialect.Wire) {
			w.Body = []byte(`[[{"id":7}],{},{"callbacks":null,"errbacks":[],"chain":null,"chord":null}]`)
		},
		"5.3, stamps": func(w *dialect.Wire) {
			w.Headers["stamped_headers"], w.Headers["stamps"] = []any{"a"}, map[string]any{"a": "b"}
		},
		"5.4, nesting":     func(w *dialect.Wire) { w.Headers["replaced_task_nesting"] = int32(0) },
		"a group":          func(w *dialect.Wire) { w.Headers["group"], w.Headers["group_index"] = uuid(8), int32(1) },
		"a retry":          func(w *dialect.Wire) { w.Headers["retries"], w.Headers["parent_id"] = int32(2), uuid(9) },
		"an hour ahead":    func(w *dialect.Wire) { w.Headers["eta"] = "2026-11-28T08:25:56+01:00" },
		"without a zone":   func(w *dialect.Wire) { w.Headers["eta"] = "2026-11-28T07:25:56.589670" },
		"as bytes":         func(w *dialect.Wire) { w.Headers["task"], w.Headers["id"] = []byte("orders.place"), []byte(uuid(1)) },
		"a time of AMQP":   func(w *dialect.Wire) { w.Headers["eta"] = time.Date(2026, 11, 28, 7, 25, 56, 0, time.UTC) },
		"no charset":       func(w *dialect.Wire) { w.Properties.ContentEncoding = "" },
		"no content type":  func(w *dialect.Wire) { w.Properties.ContentType = "" },
		"another spelling": func(w *dialect.Wire) { w.Properties.ContentType = "application/JSON ;charset=utf-8" },
		"minimal":          func(w *dialect.Wire) { w.Headers = map[string]any{"task": "orders.place", "id": uuid(1)} },
	} {
		w := peer(false).Sample()
		w.Headers["task"], w.Headers["id"] = "orders.place", uuid(1)
		change(&w)
		f, h, faults := dialecttest.Read(peer(false), &w)
		if f == nil || len(faults) > 0 || h.ID != uuid(1) || h.Type != "PlaceOrder" || !strings.Contains(strings.ReplaceAll(string(f.Body), " ", ""), `{"id":7}`) {
			t.Errorf("%s: %+v, %v", name, h, faults)
		}
		if at := h.DeferredUntil; !at.IsZero() && at.UTC().Truncate(time.Minute) != time.Date(2026, 11, 28, 7, 25, 0, 0, time.UTC) {
			t.Errorf("%s: it is due at %v", name, at)
		}
	}
}
