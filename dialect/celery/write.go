package celery

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/harebus/harebus/dialect"
)

// Write makes a task that a worker runs or, in answer to one, its result. argsrepr and kwargsrepr, which Celery shows, are left out: they would
// be the payload in a header.
func (d *Dialect) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	maps.Copy(w.Headers, e.Headers)
	w.Properties.ContentType, w.Properties.ContentEncoding = jsonContent, "utf-8"
	if e.ContentEncoding != "" && !strings.EqualFold(e.ContentEncoding, "utf-8") {
		return w, errors.New("the body is encoded (" + e.ContentEncoding + "), and a task is plain JSON")
	}
	if to.Kind == dialect.Reply && to.Answers != nil {
		return w, result(e, to.Answers, &w)
	}
	name, err := d.cfg.Types.Foreign(e.Type)
	if err != nil {
		return w, err
	}
	p := &w.Properties
	p.MessageID, p.CorrelationID = e.ID, e.ID // the latter is also the id of the task
	if to.Kind == dialect.Request {
		if !d.cfg.Results {
			return w, errors.New("a worker answers only with the result backend rpc://; if it has that, set Results of the dialect")
		}
		p.CorrelationID, p.ReplyTo = e.RequestID, e.ReplyTo // a worker that tries again takes the id of the task for the correlation id
	}
	head(e, name, p.CorrelationID, w.Headers)
	w.Headers[ignored] = to.Kind != dialect.Request
	w.Body, err = d.arguments(e.Type, e.Body)
	return w, err
}

// head writes the headers. expires stays empty, and the bus writes the expiration of AMQP: Celery 5.2 loses a task that has expires when a
// worker tries it again.
func head(e *dialect.Envelope, name, taskID string, headers map[string]any) {
	maps.Copy(headers, map[string]any{
		lang: "go", task: name, id: taskID, rootID: cmp.Or(e.ConversationID, taskID), parentID: nil, eta: writeTime(e.NotBefore), expires: nil,
		"shadow": nil, "group": nil, "group_index": nil, "retries": int32(0), "timelimit": []any{nil, nil},
	})
	if e.CausationID != "" {
		headers[parentID] = e.CausationID
	}
	if e.From != "" {
		headers["origin"] = e.From
	}
}

// writeTime is a time as Python writes it, or a void.
func writeTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000-07:00")
}

// result writes what the backend rpc:// of a client reads.
func result(e, answers *dialect.Envelope, w *dialect.Wire) (err error) {
	type exception struct {
		Type    string   `json:"exc_type"`
		Message []string `json:"exc_message"`
		Module  string   `json:"exc_module"`
	}
	said := struct {
		TaskID    string `json:"task_id"`
		Status    string `json:"status"`
		Result    any    `json:"result"`
		Traceback any    `json:"traceback"`
		Children  []any  `json:"children"`
	}{answers.ID, "SUCCESS", json.RawMessage(e.Body), nil, []any{}}
	switch {
	case e.Fault != nil:
		said.Status, said.Result = "FAILURE", exception{"Exception", []string{e.Fault.Text}, "builtins"}
	case !json.Valid(e.Body):
		return errors.New("the result of a task is JSON: use the codec for it")
	}
	w.Properties.CorrelationID = cmp.Or(e.RequestID, answers.ID)
	w.Body, err = json.Marshal(said)
	return err
}

// Sample is a task as Celery writes it.
func (*Dialect) Sample() dialect.Wire {
	const uuid = "8f2c3a34-0000-4000-8000-000000000001"
	return dialect.Wire{
		RoutingKey: "orders",
		Properties: dialect.Properties{ContentType: jsonContent, ContentEncoding: "utf-8", CorrelationID: uuid, ReplyTo: "07b3918d-8aee-37c4-b5af-714ef65cf973"},
		Headers:    map[string]any{lang: "py", task: "orders.place", id: uuid, rootID: uuid, "retries": int32(0), ignored: false},
		Body:       []byte(`[[{"id": 7}], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`),
	}
}
