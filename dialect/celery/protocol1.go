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

// readFirst reads a task of protocol 1. Celery writes all of the fields task, id, args and kwargs, and a worker does without args or kwargs, which other clients leave out: then
// only the name of one of Config.Types says that the body is a task.
func (d *Dialect) readFirst(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	p := &w.Properties
	body, err := plain(w)
	if err != nil && (media.Type(p.ContentType) == pickle || strings.HasPrefix(text(w, compression), "application/")) {
		return nil, false, err // these names are Python's alone
	}
	if err != nil || !bytes.Contains(body, []byte(`"kwargs"`)) && !bytes.Contains(body, []byte(`"args"`)) {
		return nil, false, nil //nolint:nilerr // it is nothing of Celery's
	}
	var f first
	whole := jsontext.Object(body, f.take) == nil
	if !whole || f.task == nil || f.id == nil || f.args == nil && f.kwargs == nil {
		return nil, false, nil
	}
	e := &dialect.Envelope{Intent: "command", ContentType: jsonContent, Body: w.Body}
	var named, identified error
	e.Type, named = f.task.Text()
	own, known := d.own[e.Type]
	if !known && (f.args == nil || f.kwargs == nil) {
		return nil, false, nil
	}
	e.ID, identified = f.id.Text()
	if e.Type == "" || e.ID == "" || named != nil || identified != nil {
		return e, true, errors.New("its field task or id is empty, or no text")
	}
	if p.CorrelationID != e.ID {
		e.CorrelationID = p.CorrelationID
	}
	if known {
		e.Type = own
	}
	var faults [4]error
	e.NotBefore, faults[0] = parseTime("field eta", f.value(f.eta))
	e.Expires, faults[1] = parseTime("field expires", f.value(f.expires))
	e.ExpiresHere, faults[2] = !e.Expires.IsZero(), f.follows
	d.readReplyTo(e, w)
	e.Body, faults[3] = d.call(e.Type, known, given(f.args, "[]"), given(f.kwargs, "{}"))
	return e, true, errors.Join(faults[:]...)
}

// given are the arguments of a task, or none.
func given(arguments jsontext.Value, none string) []byte {
	if arguments == nil {
		return []byte(none)
	}
	return arguments
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
