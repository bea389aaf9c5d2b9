package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/celery"
	"github.com/harebus/harebus/dialect/cloudevents"
	"github.com/harebus/harebus/dialect/masstransit"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/dialect/spring"
	"github.com/harebus/harebus/dialect/wolverine"
)

// dialects are those that the command speaks, by name: how other buses write a type. The order is that in which a message is shown to them.
var dialects = []struct {
	name string
	make func(types dialect.Types) dialect.Dialect
}{
	{"masstransit", func(t dialect.Types) dialect.Dialect { return masstransit.New(masstransit.Config{Types: t}) }},
	{"wolverine", func(t dialect.Types) dialect.Dialect { return wolverine.New(wolverine.Config{Types: t}) }},
	{"nservicebus", func(t dialect.Types) dialect.Dialect { return nservicebus.New(nservicebus.Config{Types: t}) }},
	{"celery", newCelery},
	{"spring", func(t dialect.Types) dialect.Dialect { return spring.New(spring.Config{Types: t}) }},
	{"cloudevents", func(t dialect.Types) dialect.Dialect {
		return cloudevents.New(cloudevents.Config{Types: t, Source: "/harebus"})
	}},
}

// newCelery passes the fields of a body as keyword arguments, because every task can be called so.
func newCelery(t dialect.Types) dialect.Dialect {
	parameters := map[string][]string{}
	for name := range maps.Keys(t) {
		parameters[name] = []string{}
	}
	return celery.New(celery.Config{Types: t, Parameters: parameters})
}

func dialectNames() string {
	names := make([]string, len(dialects))
	for i, d := range dialects {
		names[i] = d.name
	}
	return strings.Join(slices.Sorted(slices.Values(names)), ", ")
}

// dialectFor is the one for -as, which writes the type under the name that the peer has for it.
func dialectFor(name, messageType string) (dialect.Dialect, error) {
	for _, d := range dialects {
		if d.name != name {
			continue
		}
		if messageType == "" {
			return nil, fmt.Errorf("-as %s needs -type with the name that the peer has for the type", name)
		}
		return d.make(dialect.Types{messageType: messageType}), nil
	}
	return nil, fmt.Errorf("-as %q is none of %s", name, dialectNames())
}

// foreign is what a message of another bus says of itself.
type foreign struct {
	Dialect string `json:"dialect"`
	// Type, ID and Payload are the peer's.
	Type    string          `json:"message_type,omitempty"`
	ID      string          `json:"message_id,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
	// Unreadable is why it cannot be read.
	Unreadable string `json:"unreadable,omitempty"`
}

// foreignOf reads a message of another bus; nil is one of harebus, or one that no dialect knows. Headers of a copy of harebus name the dialect.
func foreignOf(m *harebus.Message, prefix string) *foreign {
	copied, _ := m.Headers[prefix+harebus.HeaderDialect].(string)
	if _, ours := m.Headers[prefix+harebus.HeaderMessageID]; ours && copied == "" {
		return nil
	}
	w := dialect.Wire{Exchange: m.Exchange, RoutingKey: m.RoutingKey, Headers: m.Headers, Properties: m.Properties, Body: m.Body, Broker: &dialect.Broker{}}
	for _, d := range dialects {
		if copied != "" && copied != d.name {
			continue
		}
		e, is, err := read(d.make(dialect.Types{}), &w)
		if !is {
			continue
		}
		f := &foreign{Dialect: d.name}
		if e != nil {
			f.Type, f.ID = e.Type, e.ID
			if isJSON(e.Body) && string(e.Body) != string(m.Body) {
				f.Payload = e.Body
			}
		}
		if err != nil {
			f.Unreadable, f.Payload = err.Error(), nil
		}
		return f
	}
	return nil
}

// read asks a dialect about a message that anybody may have written.
func read(d dialect.Dialect, w *dialect.Wire) (e *dialect.Envelope, is bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			e, is, err = nil, true, fmt.Errorf("panic: %v", v)
		}
	}()
	return d.Read(w)
}
