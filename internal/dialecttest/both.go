package dialecttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/dialect"
)

// Case is a golden in both directions.
type Case struct {
	// Golden is the name of the file in testdata, without .json.
	Golden string
	// Want is what Read makes of it, but for Body.
	Want dialect.Envelope
	// Body is that of Want; it is compared as JSON, if it is JSON. Empty is that of the golden.
	Body string
	// To is where Write sends Want; nil does not write it.
	To *dialect.Destination
	// Written changes what is written, for what Read does not keep.
	Written func(*dialect.Envelope)
	// Differs are the paths of all that Write writes differently, such as properties.delivery_mode or headers.source. A path that
	// ends with . stands for all below it. A listed difference that is none fails the test.
	Differs []string
}

// Goldens reads each golden and writes it again, and compares every field, with the AMQP types of headers.
func Goldens(t *testing.T, d dialect.Dialect, cases []Case) {
	t.Helper()
	for _, c := range cases {
		inTable(c.Golden)
		t.Run(c.Golden, func(t *testing.T) {
			t.Parallel()
			w := Load(t, c.Golden)
			before := flat(&w)
			e, is, err := d.Read(&w)
			if !is || err != nil {
				t.Fatalf("read: is %v, %v", is, err)
			}
			if after := flat(&w); !maps.Equal(before, after) {
				t.Error("Read has changed the message")
			}
			want := c.Want
			if want.Body = []byte(c.Body); c.Body == "" {
				want.Body = w.Body
			}
			sameEnvelope(t, e, &want)
			if c.To == nil {
				return
			}
			if c.Written != nil {
				c.Written(&want)
			}
			got, err := d.Write(&want, *c.To)
			if err != nil {
				t.Fatalf("write: %v", err)
			}
			sameWire(t, flat(&got), before, c.Differs)
		})
	}
}

// sameEnvelope compares field by field.
func sameEnvelope(t *testing.T, got, want *dialect.Envelope) {
	t.Helper()
	g, w := reflect.ValueOf(*got), reflect.ValueOf(*want)
	for i := range g.NumField() {
		name := g.Type().Field(i).Name
		if name == "Body" && want.Fault != nil {
			continue
		}
		a, b := g.Field(i).Interface(), w.Field(i).Interface()
		switch x := a.(type) {
		case time.Time:
			if !x.Equal(b.(time.Time)) { //nolint:forcetypeassert // of the same type
				t.Errorf("%s is %v, want %v", name, a, b)
			}
			continue
		case []byte:
			if !reflect.DeepEqual(leaves(name, x), leaves(name, b.([]byte))) { //nolint:forcetypeassert // of the same type
				t.Errorf("%s is %s, want %s", name, a, b)
			}
			continue
		case error:
			if fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%s is %v, want %v", name, a, b)
			}
			continue
		}
		if g.Field(i).Kind() == reflect.Map && g.Field(i).Len() == 0 && w.Field(i).Len() == 0 {
			continue
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s is %#v, want %#v", name, a, b)
		}
	}
}

// sameWire compares two flat messages. The differences must be those that are listed.
func sameWire(t *testing.T, got, want map[string]string, differs []string) {
	t.Helper()
	listed := map[string]bool{}
	for _, path := range differs {
		listed[path] = false
	}
	all := maps.Clone(got)
	maps.Copy(all, want)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if got[path] == want[path] {
			continue
		}
		known := slices.IndexFunc(differs, func(d string) bool { return path == d || strings.HasSuffix(d, ".") && strings.HasPrefix(path, d) })
		if known < 0 {
			t.Errorf("%s is %s, the peer writes %s", path, shown(got, path), shown(want, path))
			continue
		}
		listed[differs[known]] = true
	}
	for path, seen := range listed {
		if !seen {
			t.Errorf("%s is listed as different and is the same", path)
		}
	}
}

func shown(of map[string]string, path string) string {
	if v, ok := of[path]; ok {
		return v
	}
	return "(absent)"
}

// flat are the fields of a message by their paths. A header has its AMQP type; the body is taken apart if it is JSON.
func flat(w *dialect.Wire) map[string]string {
	all := map[string]string{"exchange": w.Exchange, "routing_key": w.RoutingKey, "mandatory": strconv.FormatBool(w.Mandatory)}
	p := reflect.ValueOf(w.Properties)
	for i := range p.NumField() {
		if !p.Field(i).IsZero() {
			all["properties."+p.Type().Field(i).Name] = fmt.Sprint(p.Field(i).Interface())
		}
	}
	for name, value := range w.Headers {
		all["headers."+name] = fmt.Sprintf("%T(%v)", value, value)
	}
	maps.Copy(all, leaves("body", w.Body))
	return all
}

// leaves are the values of a JSON document, by their paths.
func leaves(path string, body []byte) map[string]string {
	all := map[string]string{}
	var doc any
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return map[string]string{path: fmt.Sprintf("%q", body)}
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, one := range v {
				walk(path+"."+name, one)
			}
		case []any:
			for i, one := range v {
				walk(fmt.Sprintf("%s.%d", path, i), one)
			}
		default:
			text, err := json.Marshal(v)
			all[path] = fmt.Sprint(string(text), err)
		}
	}
	walk(path, doc)
	return all
}

// RoundTrip reads a golden and writes what was read, with the headers of the message, to the same place. All differences must be listed, as for
// Case; paths that begin with a ? may be the same.
func RoundTrip(t *testing.T, d dialect.Dialect, golden, messageType string, kind dialect.Kind, differs ...string) {
	t.Helper()
	inTable(golden)
	t.Run(golden, func(t *testing.T) {
		t.Parallel()
		w := Load(t, golden)
		e, is, err := d.Read(&w)
		if !is || err != nil || e.Type != messageType {
			t.Fatalf("read: is %v, %v: %+v", is, err, e)
		}
		headers := maps.Clone(w.Headers)
		maps.Copy(headers, e.Headers)
		e.Headers = headers
		got, err := d.Write(e, dialect.Destination{Kind: kind, Name: w.RoutingKey, Exchange: w.Exchange})
		if err != nil {
			t.Fatalf("write: %v", err)
		}
		have, want := flat(&got), flat(&w)
		var strict []string
		for _, path := range differs {
			optional, ok := strings.CutPrefix(path, "?")
			if !ok {
				strict = append(strict, path)
				continue
			}
			for _, all := range []map[string]string{have, want} {
				maps.DeleteFunc(all, func(key, _ string) bool {
					return key == optional || strings.HasSuffix(optional, ".") && strings.HasPrefix(key, optional)
				})
			}
		}
		sameWire(t, have, want, strict)
	})
}
