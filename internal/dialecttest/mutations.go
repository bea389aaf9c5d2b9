package dialecttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
)

// Mutations are what strangers may write.
type Mutations struct {
	// Goldens are read, each with one field removed, of another type, null, empty, and of 1 MB.
	Goldens []string
	// Own are the wire names of the dialect's types: no message that is not read by it may have one of them.
	Own []string
	// Addresses are the paths of addresses to answer to: headers.reply-uri, body.responseAddress, properties.ReplyTo.
	Addresses []string
	// Hostile are addresses that must not be answered. %s stands for the names in HostileNames.
	Hostile []string
}

// HostileNames are no names of queues to answer to.
var HostileNames = []string{"", "..", ".", "../error", "a/../error", "a\x00b", "%00", "%2e%2e", "%2F", "a\nb", strings.Repeat("q", 300), "\xff"}

// Run reads what strangers may write. Each must be read as something whole, or refused.
func (m Mutations) Run(t *testing.T, d dialect.Dialect) {
	t.Helper()
	for _, name := range m.Goldens {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := Load(t, name)
			for what, one := range mutants(&w) {
				m.check(t, d, what, one)
			}
			for _, path := range m.Addresses {
				for _, hostile := range m.hostile() {
					one, ok := replaced(&w, path, hostile)
					if !ok {
						continue
					}
					if f := m.check(t, d, path+" "+hostile, one); f != nil && (f.ReplyTo != "" || f.FaultTo != "") && m.names(f, path) {
						t.Errorf("%s is %.60q and would be answered to %q or %q", path, hostile, f.ReplyTo, f.FaultTo)
					}
				}
			}
		})
	}
}

// names says whether the changed address is the one that would be used.
func (Mutations) names(f *peer.Foreign, path string) bool {
	return f.NoReply == nil || !strings.Contains(strings.ToLower(path), "fault") && f.ReplyTo != ""
}

func (m Mutations) hostile() (all []string) {
	for _, form := range m.Hostile {
		if !strings.Contains(form, "%s") {
			all = append(all, form)
			continue
		}
		for _, name := range HostileNames {
			all = append(all, strings.Replace(form, "%s", name, 1))
		}
	}
	return all
}

// check reads a message as a service does. It returns what was read, if it was.
func (m Mutations) check(t *testing.T, d dialect.Dialect, what string, w *dialect.Wire) *peer.Foreign {
	t.Helper()
	f, h, refused := Read(d, w)
	switch {
	case len(refused) > 0:
		return nil
	case f == nil && slices.Contains(m.Own, h.Type):
		t.Errorf("%.80s: it is not read by the dialect and has the type %s", what, h.Type)
	case f == nil:
		return nil
	case f.NoReply != nil && (f.ReplyTo != "" || f.FaultTo != ""):
		t.Errorf("%.80s: it cannot be answered, and has the addresses %q and %q", what, f.ReplyTo, f.FaultTo)
	case h.Type == "":
		t.Errorf("%.80s: it has no type and is read", what)
	case f.Fault == nil && (len(f.Body) == 0 || string(bytes.TrimSpace(f.Body)) == "null"):
		t.Errorf("%.80s: it is read as an empty message", what)
	}
	return f
}

// Read reads a message as a service with this dialect does.
func Read(d dialect.Dialect, w *dialect.Wire) (*peer.Foreign, header.Head, []header.Fault) {
	own := &header.Dialect{Prefix: "PikaBus.", Names: header.NamesOf("PikaBus."), Time: header.ISOTime}
	h, f, faults := peer.New(own, []dialect.Dialect{d}, nil, []amqp.URI{{Host: Broker.Hosts[0], Vhost: Broker.VirtualHost}}, 16<<20).Read(delivery(w))
	return f, h, faults
}

// mutants are a message with one field changed at a time.
func mutants(w *dialect.Wire) map[string]*dialect.Wire {
	all := map[string]*dialect.Wire{}
	const huge = 1 << 20
	for _, path := range append(slices.Collect(maps.Keys(flat(w))), branches(w.Body)...) {
		for _, value := range []any{absent{}, nil, "", int64(7), true, []any{"x"}, strings.Repeat("x", huge), "\xff"} {
			if one, ok := changed(w, path, value); ok {
				all[fmt.Sprintf("%s is %.20v", path, value)] = one
			}
		}
	}
	for _, body := range []string{"", "null", "[]", "{}", "0", `"x"`, "{", "\uFEFF{}", strings.Repeat("[", huge), strings.Repeat(`{"a":`, huge/5), "\x1f\x8b\x08\x00"} {
		one := *w
		one.Body = []byte(body)
		all[fmt.Sprintf("the body is %.20q", body)] = &one
	}
	return all
}

// branches are the paths of the objects and arrays in a body.
func branches(body []byte) (paths []string) {
	var doc any
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			paths = append(paths, path)
			for name, one := range v {
				walk(path+"."+name, one)
			}
		case []any:
			paths = append(paths, path)
			for i, one := range v {
				walk(fmt.Sprintf("%s.%d", path, i), one)
			}
		}
	}
	walk("body", doc)
	return paths
}

type absent struct{}

// replaced is changed for a text that is there.
func replaced(w *dialect.Wire, path, value string) (*dialect.Wire, bool) {
	if _, ok := flat(w)[path]; !ok {
		return nil, false
	}
	return changed(w, path, value)
}

// changed is a copy of a message with another value in one place.
func changed(w *dialect.Wire, path string, value any) (*dialect.Wire, bool) {
	one := *w
	one.Headers = maps.Clone(w.Headers)
	text, isText := value.(string)
	_, gone := value.(absent)
	switch part, name, _ := strings.Cut(path, "."); part {
	case "headers":
		one.Headers[name] = value
		if gone {
			delete(one.Headers, name)
		}
	case "properties":
		if len(text) > 255 || !isText && !gone {
			return nil, false // AMQP has nothing else
		}
		to := map[string]*string{
			"ContentType": &one.Properties.ContentType, "ContentEncoding": &one.Properties.ContentEncoding, "CorrelationID": &one.Properties.CorrelationID,
			"ReplyTo": &one.Properties.ReplyTo, "Expiration": &one.Properties.Expiration, "MessageID": &one.Properties.MessageID,
			"Type": &one.Properties.Type, "AppID": &one.Properties.AppID,
		}[name]
		if to == nil {
			return nil, false
		}
		*to = text
	case "body":
		if name == "" {
			return nil, false
		}
		var doc any
		if err := json.Unmarshal(w.Body, &doc); err != nil {
			return nil, false
		}
		set(doc, strings.Split(name, "."), value)
		one.Body, _ = json.Marshal(doc) //nolint:errchkjson // it was read from JSON
	default:
		return nil, false
	}
	return &one, true
}

// set changes one place of a JSON document.
func set(doc any, path []string, value any) {
	_, gone := value.(absent)
	switch doc := doc.(type) {
	case map[string]any:
		switch {
		case len(path) > 1:
			set(doc[path[0]], path[1:], value)
		case gone:
			delete(doc, path[0])
		default:
			doc[path[0]] = value
		}
	case []any:
		var i int
		if _, err := fmt.Sscan(path[0], &i); err != nil || i >= len(doc) {
			return
		}
		if len(path) > 1 {
			set(doc[i], path[1:], value)
		} else if !gone {
			doc[i] = value
		}
	}
}
