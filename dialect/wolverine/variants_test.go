package wolverine_test

import (
	"maps"
	"testing"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestVersions: what the versions of Wolverine, and who imitates them, leave out or add does not matter to a handler.
func TestVersions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *dialect.Wire){
		"all that is reserved": func(w *dialect.Wire) {
			maps.Copy(w.Headers, map[string]any{
				"saga-id": "7", "tenant-id": "acme", "attempts": "2", "ack-requested": "False", "is-response": "false", "deduplication-id": "d", "causation-id": "08df4d3d-be75-889d-0200-000000000001",
				"parent-id": "00-69dff6240b80fe856d38e7c34ee16cdd-37b9e269c5ed9da4-01", "previous-attempt-activity-id": "x", "group-id": "g", "partition-key": "p", "topic-name": "t",
				"deliver-by": "2001-01-01 00:00:00:000000 Z", "time-to-send": "2001-01-01 00:00:00:000000 Z", "keep-until": "x", "user-name": "u", "x-dotnet-pub-seq-no": int64(1),
			})
		},
		"as bytes": func(w *dialect.Wire) {
			w.Headers["conversation-id"], w.Headers["source"] = []byte("08df4d3d-be75-889d-0200-000000000000"), []byte("Shop")
		},
		"an ISO time":     func(w *dialect.Wire) { w.Headers["sent-at"] = "2026-11-28T10:52:49.361793+00:00" },
		"no time":         func(w *dialect.Wire) { delete(w.Headers, "sent-at") },
		"an odd time":     func(w *dialect.Wire) { w.Headers["sent-at"] = "28.11.2026" },
		"no content type": func(w *dialect.Wire) { w.Properties.ContentType = "" },
		"white space":     func(w *dialect.Wire) { w.Properties.ContentType = "application/json ;charset=utf-8" },
		"Newtonsoft":      func(w *dialect.Wire) { w.Properties.ContentType = "application/json; charset" },
		"minimal":         func(w *dialect.Wire) { w.Headers = map[string]any{"sent-at": w.Headers["sent-at"]} },
		"of another bus":  func(w *dialect.Wire) { w.Headers["x-other"] = []any{int32(1)} },
	} {
		w := dialecttest.Load(t, "wolverine-send")
		change(&w)
		f, h, faults := dialecttest.Read(peer(), &w)
		if f == nil || len(faults) > 0 || h.Type != "PlaceOrder" || h.ID != "08df4d3d-be75-889d-0200-000000000000" || f.Awaits() {
			t.Errorf("%s: %+v, %v", name, h, faults)
		}
		if sent := h.TimeSent; name == "an ISO time" && !sent.Equal(at(t, "10:52:49.361793")) {
			t.Errorf("it was sent at %v", sent)
		}
	}
	answer := dialecttest.Load(t, "wolverine-response")
	want, _, _ := dialecttest.Read(peer(), &answer)
	answer.Headers["is-response"] = true // as a peer prints it
	if f, _, faults := dialecttest.Read(peer(), &answer); want.RequestID == "" || len(faults) > 0 || f.RequestID != want.RequestID || f.ReplyTo != "" {
		t.Errorf("an answer is read as %+v, %v", f.Envelope, faults)
	}
	w := dialecttest.Load(t, "wolverine-send")
	w.Headers = map[string]any{"NServiceBus.MessageId": "1"}
	if f, _, _ := dialecttest.Read(peer(), &w); f != nil {
		t.Error("a message of NServiceBus is read")
	}
	w.Headers, w.Properties.Type = nil, "Acme.Other"
	if f, _, _ := dialecttest.Read(peer(), &w); f != nil {
		t.Error("a message of nobody is read")
	}
}
