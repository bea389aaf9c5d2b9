package masstransit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/jsontext"
)

// headers takes over the headers of the envelope that are not among those of the message, and the trace under the name that everybody
// knows.
func (d *Dialect) headers(e *dialect.Envelope, w *dialect.Wire, object jsontext.Value) error {
	add := func(name string, value any) {
		if there, ok := w.Headers[name]; ok && !field.Deadly(there) || value == nil { // copies lack what is deadly
			return
		}
		if e.Headers == nil {
			e.Headers = map[string]any{}
		}
		e.Headers[name] = value
	}
	if !object.Null() && string(object) != "{}" {
		err := jsontext.Object(object, func(key []byte, v jsontext.Value) error {
			name := string(key)
			switch {
			case strings.EqualFold(name, acceptType):
				return d.accepts(e, v)
			case name == baggage:
				add("baggage", readBaggage(v))
			}
			value, err := decode(v)
			add(name, value)
			return err
		})
		if err != nil {
			return fmt.Errorf("the headers of the envelope: %w", err)
		}
	}
	if trace := cmp.Or(field.Said(w.Headers[activity]), field.Said(e.Headers[activity])); trace != "" {
		add(traceParent, trace)
	}
	return nil
}

// accepts takes over which answers a request can take.
func (d *Dialect) accepts(e *dialect.Envelope, v jsontext.Value) error {
	if v.Null() {
		return nil
	}
	return jsontext.Array(v, func(v jsontext.Value) error {
		name, err := v.Text()
		if found, ok := d.own[name]; ok {
			name = found.own
		}
		e.Accepts = append(e.Accepts, strings.TrimPrefix(name, urn))
		return err
	})
}

// decode makes a value of a header: whole numbers stay exact.
func decode(v jsontext.Value) (any, error) {
	var value any
	dec := json.NewDecoder(bytes.NewReader(v))
	dec.UseNumber()
	if err := dec.Decode(&value); err != nil {
		return nil, err
	}
	return exact(value), nil
}

func exact(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil || !strings.ContainsAny(v.String(), ".eE") { // more than an int64 has
			return v.String()
		}
		return f
	case map[string]any:
		for key, one := range v {
			v[key] = exact(one)
		}
	case []any:
		for i, one := range v {
			v[i] = exact(one)
		}
	}
	return value
}

// pair is an entry of the baggage, as MassTransit writes it.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// readBaggage is the header baggage (W3C) of MassTransit's.
func readBaggage(v jsontext.Value) any {
	var pairs []pair
	if json.Unmarshal(v, &pairs) != nil || len(pairs) == 0 {
		return nil
	}
	list := make([]string, len(pairs))
	for i, p := range pairs {
		list[i] = p.Key + "=" + url.PathEscape(p.Value)
	}
	return strings.Join(list, ",")
}

func writeBaggage(text string) (pairs []pair) {
	for entry := range strings.SplitSeq(text, ",") {
		entry, _, _ = strings.Cut(entry, ";") // properties do not fit
		key, value, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if decoded, err := url.PathUnescape(value); ok && err == nil {
			pairs = append(pairs, pair{key, decoded})
		}
	}
	return pairs
}

// exception is one of a fault.
type exception struct {
	ExceptionType string `json:"exceptionType"`
	Message       string `json:"message"`
	// Inner is what caused it, and so on.
	Inner json.RawMessage `json:"innerException,omitempty"`
}

// text is the message, with those of the causes that it does not quote.
func (x exception) text() string {
	const deepest = 10
	text := x.Message
	for range deepest {
		var cause exception
		if len(x.Inner) == 0 || json.Unmarshal(x.Inner, &cause) != nil {
			break
		}
		if x = cause; !strings.Contains(text, x.Message) {
			text += ": " + x.Message
		}
	}
	return text
}

// readFault reads the answer that a request has failed, if it is one.
func readFault(e *dialect.Envelope) error {
	if e.RequestID == "" || len(e.Types) == 0 || !strings.HasPrefix(e.Types[0], faults) {
		return nil
	}
	var said struct {
		Exceptions []exception `json:"exceptions"`
	}
	if err := json.Unmarshal(e.Body, &said); err != nil {
		return fmt.Errorf("a fault: %w", err)
	}
	e.Fault = &dialect.Fault{Reason: "failed"}
	texts := make([]string, 0, len(said.Exceptions))
	for _, one := range said.Exceptions {
		texts = append(texts, one.text())
	}
	if len(said.Exceptions) > 0 && said.Exceptions[0].ExceptionType != "" {
		e.Fault.Reason = said.Exceptions[0].ExceptionType
	}
	e.Fault.Text = strings.Join(slices.Compact(texts), "; ")
	return nil
}
