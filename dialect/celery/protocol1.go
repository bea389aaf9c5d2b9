package celery

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
)

// first are the fields of a task of protocol 1, in which everything is in the body: that of Celery 3, and of later ones with task_protocol = 1.
type first struct {
	task, id, args, kwargs, eta, expires, utc jsontext.Value
	follows                                   error
}

func (f *first) take(key []byte, v jsontext.Value) error {
	switch string(key) {
	case task:
		f.task = v
	case id:
		f.id = v
	case "args":
		f.args = v
	case "kwargs":
		f.kwargs = v
	case eta:
		f.eta = v
	case expires:
		f.expires = v
	case "utc":
		f.utc = v
	case "callbacks", "errbacks", "chord":
		if f.follows == nil && !v.Null() {
			f.follows = follows([]byte(fmt.Sprintf("{%q:%s}", key, v)))
		}
	}
	return nil
}

// pickle is the content type of what Python has serialized.
const pickle = "application/x-python-serialize"

// readFirst reads a task of protocol 1. A body without the four fields that each of these has is something else.
func (d *Dialect) readFirst(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	p := &w.Properties
	body, err := plain(w)
	if err != nil && (media.Type(p.ContentType) == pickle || strings.HasPrefix(text(w, compression), "application/")) {
		return nil, false, err // these names are Python's alone
	}
	if err != nil || !bytes.Contains(body, []byte(`"kwargs"`)) {
		return nil, false, nil //nolint:nilerr // it is nothing of Celery's
	}
	var f first
	whole := jsontext.Object(body, f.take) == nil
	if !whole || f.task == nil || f.id == nil || f.args == nil || f.kwargs == nil {
		return nil, false, nil
	}
	e := &dialect.Envelope{Intent: "command", ContentType: jsonContent, Body: w.Body}
	var named, known error
	e.Type, named = f.task.Text()
	e.ID, known = f.id.Text()
	if e.Type == "" || e.ID == "" || named != nil || known != nil {
		return e, true, errors.New("its field task or id is empty, or no text")
	}
	if p.CorrelationID != e.ID {
		e.CorrelationID = p.CorrelationID
	}
	name := e.Type
	if own, ok := d.own[name]; ok {
		e.Type = own
	}
	var faults [4]error
	e.NotBefore, faults[0] = parseTime("field eta", f.value(f.eta))
	e.Expires, faults[1] = parseTime("field expires", f.value(f.expires))
	e.ExpiresHere, faults[2] = !e.Expires.IsZero(), f.follows
	d.readReplyTo(e, w)
	e.Body, faults[3] = d.call(e.Type, e.Type != name, f.args, f.kwargs)
	return e, true, errors.Join(faults[:]...)
}

// value is a time for [parseTime]. One of a client without UTC is that of its own clock.
func (f *first) value(v jsontext.Value) any {
	text, err := v.Text()
	switch {
	case v.Null():
		return nil
	case err != nil:
		return string(v)
	case string(f.utc) == "false":
		return text + " of the client's clock (set enable_utc there)"
	}
	return text
}
