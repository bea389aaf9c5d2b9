package saga

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
)

// ErrState says that a stored state cannot be read by this program. Nothing is changed; the message is
// retried by the retry policy, because another instance of the service may be newer, and then
// parked.
var ErrState = errors.New("the state cannot be read")

// encode makes JSON of a state.
func encode(state any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(state); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// decode reads a state of a record into what target points to. A field that the target does
// not have is an error, because it would be lost when the state is saved, unless the program
// has a higher version than the state: then it does without the field on purpose.
func decode(r Record, version int, target any) error {
	if r.Format > version {
		return fmt.Errorf("%w: it was written by version %d, this program has version %d (Config.Version); update the program", ErrState, r.Format, version)
	}
	d := json.NewDecoder(bytes.NewReader(r.State))
	d.UseNumber() // all digits, also in a field of type any
	if r.Format == version {
		d.DisallowUnknownFields()
	}
	err := d.Decode(target)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the JSON value")
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w; if a newer program wrote it, update this one; to do without a field, raise Config.Version", ErrState, err)
	}
	return nil
}

// stateFaults says what of a type would not be kept.
func stateFaults(t reflect.Type) []error {
	if t.Kind() != reflect.Struct {
		return []error{fmt.Errorf("the state is of type %v, which is not a struct", t)}
	}
	w := walker{seen: map[reflect.Type]bool{}}
	w.walk(t, t.String())
	return w.faults
}

type walker struct {
	seen   map[reflect.Type]bool
	faults []error
}

func (w *walker) fault(path, format string, args ...any) {
	w.faults = append(w.faults, fmt.Errorf("state: %s %w", path, fmt.Errorf(format, args...)))
}

func implements[I any](t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[I]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[I]())
}

func (w *walker) walk(t reflect.Type, path string) {
	if w.seen[t] {
		return
	}
	w.seen[t] = true
	writes := implements[json.Marshaler](t) || implements[encoding.TextMarshaler](t)
	reads := implements[json.Unmarshaler](t) || implements[encoding.TextUnmarshaler](t)
	if writes && reads {
		if name := foreign(t); name != "" {
			w.fault(path, "embeds %s, whose methods write and read the JSON of the whole %v, so its other fields would not be kept; give the field a name", name, t)
		}
		return
	}
	if writes != reads && t.Kind() != reflect.Interface {
		w.fault(path, "has a method for only one of writing and reading JSON; give %v both", t)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		w.fields(t, path, map[string]string{})
	case reflect.Map:
		if k := t.Key(); k.Kind() != reflect.String && !(k.Kind() >= reflect.Int && k.Kind() <= reflect.Uintptr) && !implements[encoding.TextUnmarshaler](k) {
			w.fault(path, "has keys of type %v, which JSON cannot have", k)
		}
		w.walk(t.Elem(), path+"[…]")
	case reflect.Slice, reflect.Array:
		w.walk(t.Elem(), path+"[…]")
	case reflect.Pointer:
		w.walk(t.Elem(), path)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			w.fault(path, "is of the interface type %v, which JSON can write and not read", t)
		}
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		w.fault(path, "is of type %v, which JSON cannot have", t)
	}
}

// fields looks at those of a struct. encoding/json writes the fields of an embedded struct as
// if they were of the outer one. Of fields with one name it leaves out some, or all, without
// an error.
func (w *walker) fields(t reflect.Type, path string, names map[string]string, embedding ...reflect.Type) {
	embedding = append(embedding, t)
	for f := range t.Fields() {
		if f.Tag.Get("json") == "-" || f.Name == "_" {
			continue
		}
		at, inner := path+"."+f.Name, f.Type
		if inner.Kind() == reflect.Pointer && f.IsExported() {
			inner = inner.Elem()
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		embeds := f.Anonymous && inner.Kind() == reflect.Struct
		switch {
		case !f.IsExported() && !embeds:
			w.fault(at, `is not exported, so it would not be kept; export it, or give it the tag json:"-"`)
			continue
		case embeds && name == "" && slices.Contains(embedding, inner):
			w.fault(at, "embeds itself, so some of its fields would not be kept; give the field a name")
			continue
		case embeds && name == "":
			w.fields(inner, at, names, embedding...)
			continue
		case name == "":
			name = f.Name
		}
		if other := names[name]; other != "" {
			w.fault(at, "has the same name in JSON as the field %s, so it would not be kept; rename one of them", other)
		}
		names[name] = at
		w.walk(f.Type, at)
	}
}

// foreign is the embedded field whose methods write and read a whole struct that has more
// fields, which would be lost. It is empty if there is none.
func foreign(t reflect.Type) string {
	if t.Kind() != reflect.Struct || t.NumField() == 1 {
		return ""
	}
	for _, method := range []string{"MarshalJSON", "MarshalText"} {
		m, ok := t.MethodByName(method)
		if !ok {
			m, ok = reflect.PointerTo(t).MethodByName(method)
		}
		if !ok {
			continue
		}
		// A method of an embedded type has no line of source in the outer one.
		if file, _ := runtime.FuncForPC(m.Func.Pointer()).FileLine(m.Func.Pointer()); file != "<autogenerated>" {
			return ""
		}
		for f := range t.Fields() {
			if f.Anonymous && (implements[json.Marshaler](f.Type) || implements[encoding.TextMarshaler](f.Type)) {
				return f.Name
			}
		}
	}
	return ""
}
