// Package celery reads and writes tasks as Celery for Python does, with protocol 2 and JSON: a service sends tasks to workers, and
// is a worker for the tasks of clients. It also reads tasks of protocol 1.
//
// A message is one task. docs/celery.md says what to configure on both sides. Tasks with callbacks, chains and chords are refused.
package celery

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/media"
	"github.com/harebus/harebus/topology"
)

// Config says which tasks are exchanged with the peers.
type Config struct {
	// Types are wire names and the names of tasks: {"PlaceOrder": "orders.place"}. A task that is not there
	// is read, too: its payload is then [args, kwargs].
	Types dialect.Types
	// Parameters are, by wire name, the parameters of the task as Python has them: {"PlaceOrder": {"id", "by="}} stands for
	// def place(id, by=None, **more). The fields of the message are then the arguments; one that ends with =
	// may be left out. Other fields are passed by name. Without an entry the message is the only argument: def place(order).
	Parameters map[string][]string
	// Results says that both sides use the result backend rpc://: a reply is the result of the task, and Request
	// waits for that of a worker. Without it no task is answered, because what Celery calls reply_to is no queue then.
	Results bool
}

// Dialect is that of Celery. Make it with [New].
type Dialect struct {
	cfg Config
	own map[string]string
	err error
}

// New returns the dialect. harebus.New reports what is wrong with the configuration.
func New(cfg Config) *Dialect {
	d := &Dialect{cfg: cfg}
	d.own, d.err = cfg.Types.Own()
	for name, parameters := range cfg.Parameters {
		d.err = errors.Join(d.err, cfg.check(name, parameters))
	}
	return d
}

func (c *Config) check(name string, parameters []string) error {
	if _, ok := c.Types[name]; !ok {
		return fmt.Errorf("the field Parameters has %.80q, which is not in Types", name)
	}
	known, optional := map[string]bool{}, ""
	for _, p := range parameters {
		field, has := strings.CutSuffix(p, "=")
		switch {
		case field == "" || known[field]:
			return fmt.Errorf("Parameters[%.80q] has %.80q twice, or a name that is empty", name, field)
		case !has && optional != "":
			return fmt.Errorf("Parameters[%.80q]: %.80q has no = and stands behind %.80q; Python does not allow that", name, p, optional)
		case has:
			optional = p
		}
		known[field] = true
	}
	return nil
}

// Name is celery.
func (*Dialect) Name() string { return "celery" }

// Validate says what is wrong with the Config.
func (d *Dialect) Validate() error { return d.err }

// Topology is for harebus.Config.Declare.Topology: the direct exchange that Celery has for a queue, of the same name, so that clients can
// route tasks to it without declaring the queue. The types of tasks do not matter.
func (*Dialect) Topology(queue string, _ ...string) topology.Topology {
	return topology.Topology{
		Exchanges: []topology.Exchange{{Name: queue, Kind: topology.Direct}},
		Bindings:  []topology.Binding{{Exchange: queue, Key: queue, Queue: queue}},
	}
}

// The headers of Celery that are read or matter to a worker.
const (
	task        = "task"
	id          = "id"
	lang        = "lang"
	rootID      = "root_id"
	parentID    = "parent_id"
	eta         = "eta"
	expires     = "expires"
	compression = "compression"
	ignored     = "ignore_result"
)

const jsonContent = "application/json"

// Read reads a task, which has the header task and one of id and lang, or is one of protocol 1; and, with Config.Results, a result.
func (d *Dialect) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	named, ok := w.Headers[task]
	if !ok {
		e, is, err := d.readFirst(w)
		if !is && err == nil {
			return d.readResult(w)
		}
		return e, is, err
	}
	if w.Headers[id] == nil && w.Headers[lang] == nil {
		return nil, false, nil
	}
	p := &w.Properties
	e := &dialect.Envelope{
		ID: text(w, id), ConversationID: text(w, rootID), CausationID: text(w, parentID), Intent: "command", ContentType: jsonContent, Body: w.Body,
	}
	if p.CorrelationID != e.ID {
		e.CorrelationID = p.CorrelationID
	}
	name := field.Said(named)
	e.Type = name
	own, known := d.own[name]
	if known {
		e.Type = own
	}
	if name == "" || e.ID == "" {
		return e, true, errors.New("its header task or id is empty, or no text")
	}
	var faults [4]error
	e.NotBefore, faults[0] = parseTime("header eta", w.Headers[eta])
	e.Expires, faults[1] = parseTime("header expires", w.Headers[expires])
	e.ExpiresHere = !e.Expires.IsZero()
	d.readReplyTo(e, w)
	e.Body, faults[2] = plain(w)
	if faults[2] == nil {
		e.Body, faults[3] = d.payload(e.Type, known, e.Body)
	}
	return e, true, errors.Join(faults[:]...)
}

// readReplyTo finds out whether the client waits for the result. Each client names an id of its own, which is a queue only with rpc://.
func (d *Dialect) readReplyTo(e *dialect.Envelope, w *dialect.Wire) {
	switch to := w.Properties.ReplyTo; {
	case to == "":
	case w.Headers[ignored] == true:
		e.NoReply = errIgnored
	case !d.cfg.Results:
		e.NoReply = errNoQueue
	default:
		if e.ReplyTo, e.NoReply = dialect.ParseReplyTo(to); e.NoReply == nil {
			e.RequestID = cmp.Or(w.Properties.CorrelationID, e.ID)
		}
	}
}

var (
	errIgnored = errors.New("the client ignores the result of this task (ignore_result)")
	errNoQueue = errors.New("reply_to of a task is the id of a client, and a queue only if the client uses the result backend rpc://; if it does, set Results of the dialect")
)

// text is a header; empty if it is not text.
func text(w *dialect.Wire, name string) string {
	return field.Said(w.Headers[name])
}

// parseTime reads a time as Python writes it. Without a zone it is UTC, as Celery has it by default.
func parseTime(what string, value any) (time.Time, error) {
	if value == nil {
		return time.Time{}, nil
	}
	if at, ok := value.(time.Time); ok {
		return at.UTC(), nil
	}
	s := field.Said(value)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("the %s is %.80q, and no time such as 2026-11-28T07:25:56.589670+00:00", what, fmt.Sprint(value))
}

// states are those of a task that has come to its end, and whether it has failed.
var states = map[string]bool{"SUCCESS": false, "FAILURE": true, "REVOKED": true, "REJECTED": true}

// marks are headers of other buses, whose messages may have the fields of a result.
var marks = [...]string{
	"__TypeId__", "MT-MessageType", "wolverine-protocol-version", "NServiceBus.EnclosedMessageTypes", "cloudEvents_specversion", "cloudEvents:specversion", "ce-specversion", "ce_specversion", "specversion",
}

// marked says whether a message is one of another bus.
func marked(w *dialect.Wire) bool {
	return w.Properties.Type != "" || slices.ContainsFunc(marks[:], func(name string) bool { return w.Headers[name] != nil })
}

// readResult reads the result that a worker has for a request: it has no headers but those of a copy, and a body that names the task.
func (d *Dialect) readResult(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	p := &w.Properties
	if !d.cfg.Results || p.CorrelationID == "" || marked(w) || !media.IsJSON(media.Type(p.ContentType)) || !json.Valid(w.Body) {
		return nil, false, nil
	}
	var of, status, result []byte
	each(w.Body, func(key, value []byte) {
		switch string(key) {
		case `"task_id"`:
			of = value
		case `"status"`:
			status = value
		case `"result"`:
			result = value
		}
	})
	if of == nil || status == nil || result == nil {
		return nil, false, nil
	}
	failed, ended := states[strings.Trim(string(status), `"`)]
	var err error
	e := &dialect.Envelope{RequestID: p.CorrelationID, ContentType: jsonContent, Body: result}
	switch {
	case !ended: // the task has begun, or is tried again
		e.RequestID = p.CorrelationID + " " + strings.Trim(string(status), `"`) // nobody waits for that
	case failed:
		e.Fault = failure(result)
	default:
		e.Body, err = untyped(result)
	}
	return e, true, err
}

// failure reads an exception.
func failure(result []byte) *dialect.Fault {
	var exception struct {
		Type    string          `json:"exc_type"`
		Message json.RawMessage `json:"exc_message"`
	}
	f := &dialect.Fault{Reason: "failed", Text: string(result)}
	if json.Unmarshal(result, &exception) != nil {
		return f
	}
	var message []string
	if json.Unmarshal(exception.Message, &message) != nil {
		message = []string{string(exception.Message)}
	}
	f.Reason, f.Text = cmp.Or(exception.Type, f.Reason), strings.Join(message, ", ")
	return f
}
