package asyncapi

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Described is implemented by types that write their own JSON, with a method MarshalJSON: JSONSchema says what it is like,
// in the words of JSON Schema draft 7. It is called on a zero value. Without the method any JSON is allowed for such a type.
type Described interface{ JSONSchema() map[string]any }

// schema is a JSON Schema.
type schema = map[string]any

// schemas makes the schemas of Go types, as encoding/json writes them. Defined types have a schema of their own, so that
// they may be recursive.
type schemas struct {
	names map[reflect.Type]string
	taken map[string]bool
	made  map[string]any
}

func newSchemas() *schemas {
	return &schemas{names: map[reflect.Type]string{}, taken: map[string]bool{}, made: map[string]any{}}
}

// where is the place of the schemas in a document.
const where = "#/components/schemas/"

var (
	typeTime      = reflect.TypeFor[time.Time]()
	typeNumber    = reflect.TypeFor[json.Number]()
	typeMarshaler = reflect.TypeFor[json.Marshaler]()
	typeText      = reflect.TypeFor[encoding.TextMarshaler]()
	typeDescribed = reflect.TypeFor[Described]()
)

// body is the schema of the body of a message. The codec writes no null there.
func (s *schemas) body(t reflect.Type) (schema, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return s.of(t)
}

// of is the schema of a value that is not nil.
func (s *schemas) of(t reflect.Type) (schema, error) {
	if one, ok := own(t); ok {
		return one, nil
	}
	if t.Kind() == reflect.Pointer {
		return s.part(t.Elem())
	}
	if t.PkgPath() == "" || !composite(t) {
		return s.byKind(t)
	}
	name, known := s.names[t]
	if !known {
		name = s.name(t)
		one, err := s.byKind(t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t, err)
		}
		s.made[name] = one
	}
	return schema{"$ref": where + name}, nil
}

// own is the schema of a type that encoding/json does not write by its kind.
func own(t reflect.Type) (schema, bool) {
	pointer := reflect.PointerTo(t)
	switch {
	case t == typeTime:
		return schema{"type": "string", "format": "date-time"}, true
	case t == typeNumber:
		return schema{"type": "number"}, true
	case t.Kind() == reflect.Interface:
		return schema{}, true
	case t.Kind() == reflect.Pointer && (t.Elem() == typeTime || t.Implements(typeDescribed)):
		return own(t.Elem())
	case pointer.Implements(typeDescribed):
		return reflect.New(t).Interface().(Described).JSONSchema(), true //nolint:forcetypeassert // just asked
	case t.Implements(typeMarshaler):
		return schema{}, true
	case t.Implements(typeText):
		return schema{"type": "string"}, true
	case t.Kind() != reflect.Pointer && (pointer.Implements(typeMarshaler) || pointer.Implements(typeText)):
		return schema{}, true // whether the method is called depends on whether the value has an address
	}
	return nil, false
}

// composite says whether a type has parts, and could be one of its own.
func composite(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Array:
		return true
	case reflect.Slice:
		return !base64(t)
	default:
		return false
	}
}

// base64 says whether a slice is written as base64.
func base64(t reflect.Type) bool {
	e := reflect.PointerTo(t.Elem())
	return t.Elem().Kind() == reflect.Uint8 && !e.Implements(typeMarshaler) && !e.Implements(typeText)
}

// name gives a type the name of its schema: its own, or that with its package where there is another.
func (s *schemas) name(t reflect.Type) string {
	short := plainName(t.Name())
	full := plain(path.Base(t.PkgPath())) + "." + short
	name := short
	for n := 1; s.taken[name]; n++ {
		if name = full; n > 1 {
			name = full + strconv.Itoa(n)
		}
	}
	s.names[t], s.taken[name] = name, true
	return name
}

// plainName makes a name of a Go type one that a reference may have: Page[example.org/orders.Order] becomes Page_Order.
func plainName(name string) string {
	base, arguments, generic := strings.Cut(name, "[")
	if !generic {
		return plain(name)
	}
	parts := []string{base}
	for part := range strings.FieldsFuncSeq(arguments, func(r rune) bool { return r == '[' || r == ']' || r == ',' }) {
		parts = append(parts, part[strings.LastIndexAny(part, "./")+1:])
	}
	return plain(strings.Join(parts, "_"))
}

// plain replaces what a key of a document must not have.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, name)
}

// byKind is the schema of a type by its kind.
func (s *schemas) byKind(t reflect.Type) (schema, error) {
	switch t.Kind() {
	case reflect.Bool:
		return schema{"type": "boolean"}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return schema{"type": "integer"}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return schema{"type": "integer", "minimum": 0}, nil
	case reflect.Float32, reflect.Float64:
		return schema{"type": "number"}, nil
	case reflect.String:
		return schema{"type": "string"}, nil
	case reflect.Struct:
		return s.object(t)
	case reflect.Map:
		return s.mapping(t)
	case reflect.Slice:
		if base64(t) {
			return schema{"type": "string", "contentEncoding": "base64"}, nil
		}
		return s.list(t)
	case reflect.Array:
		one, err := s.list(t)
		if err == nil {
			one["minItems"], one["maxItems"] = t.Len(), t.Len()
		}
		return one, err
	default:
		return nil, fmt.Errorf("JSON has nothing for a %s", t)
	}
}

func (s *schemas) list(t reflect.Type) (schema, error) {
	items, err := s.part(t.Elem())
	if err != nil {
		return nil, err
	}
	return schema{"type": "array", "items": items}, nil
}

func (s *schemas) mapping(t reflect.Type) (schema, error) {
	switch kind := t.Key().Kind(); {
	case kind == reflect.String, kind >= reflect.Int && kind <= reflect.Uintptr, t.Key().Implements(typeText):
	default:
		return nil, fmt.Errorf("JSON has nothing for a map with keys of type %s", t.Key())
	}
	values, err := s.part(t.Elem())
	if err != nil {
		return nil, err
	}
	return schema{"type": "object", "additionalProperties": values}, nil
}

// part is the schema of a value inside another: null stands there for what is nil.
func (s *schemas) part(t reflect.Type) (schema, error) {
	one, err := s.of(t)
	if err == nil && nilable(t) {
		one = orNull(one)
	}
	return one, err
}

func nilable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return true
	case reflect.Slice, reflect.Map:
		return !t.Implements(typeText) && !t.Implements(typeMarshaler)
	default:
		return false
	}
}

// orNull allows null besides.
func orNull(one schema) schema {
	kind, simple := one["type"].(string)
	switch {
	case len(one) == 0:
		return one
	case !simple || one["enum"] != nil:
		return schema{"anyOf": []any{one, schema{"type": "null"}}}
	}
	with := maps.Clone(one)
	with["type"] = []any{kind, "null"}
	return with
}

func (s *schemas) object(t reflect.Type) (schema, error) {
	fields := schema{}
	var required []any
	for _, f := range fieldsOf(t) {
		one, err := s.field(f)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.name, err)
		}
		fields[f.name] = one
		if !f.optional {
			required = append(required, f.name)
		}
	}
	one := schema{"type": "object", "properties": fields}
	if len(required) > 0 {
		one["required"] = required
	}
	return one, nil
}

func (s *schemas) field(f *structField) (schema, error) {
	one, err := s.of(f.of)
	if err != nil {
		return nil, err
	}
	if f.quoted {
		one = schema{"type": "string"}
	}
	if one, err = tagged(one, f.tag); err != nil {
		return nil, err
	}
	if nilable(f.of) && !f.omitsNil {
		one = orNull(one)
	}
	return one, nil
}

// tagged adds what the tag jsonschema says: `jsonschema:"minimum=1,maximum=99"`.
func tagged(one schema, tag string) (schema, error) {
	if tag == "" {
		return one, nil
	}
	extra := schema{}
	for part := range strings.SplitSeq(strings.ReplaceAll(tag, `\,`, "\x00"), ",") {
		key, value, _ := strings.Cut(strings.ReplaceAll(part, "\x00", ","), "=")
		switch key {
		case "title", "description", "format", "pattern":
			extra[key] = value
		case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems":
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, fmt.Errorf("tag jsonschema: %s=%q is no number", key, value)
			}
			extra[key] = n
		case "enum":
			list, _ := extra["enum"].([]any)
			extra["enum"] = append(list, enumValue(one, value))
		default:
			return nil, fmt.Errorf("tag jsonschema: there is no %q; use title, description, format, pattern, enum, multipleOf, minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength, minItems or maxItems", key)
		}
	}
	if one["$ref"] != nil {
		return schema{"allOf": []any{one, extra}}, nil
	}
	with := maps.Clone(one)
	maps.Copy(with, extra)
	return with, nil
}

// enumValue is a number where the schema is of one.
func enumValue(one schema, value string) any {
	if n, err := strconv.ParseFloat(value, 64); err == nil && (one["type"] == "integer" || one["type"] == "number") {
		return n
	}
	return value
}

// structField is a field of the JSON of a struct.
type structField struct {
	name     string
	of       reflect.Type
	tag      string
	optional bool // it can be missing
	omitsNil bool
	quoted   bool // as text
	depth    int
	named    bool // by its tag
}

// rank is lower for a field that hides others.
func (f *structField) rank() int {
	if f.named {
		return 2 * f.depth
	}
	return 2*f.depth + 1
}

// embedded is a struct whose fields are those of the one that embeds it.
type embedded struct {
	of       reflect.Type
	optional bool
}

// fieldsOf are the fields that encoding/json writes, sorted by name. Of fields with one name the least deeply embedded
// counts, among those the one with a tag; if there are several, none.
func fieldsOf(t reflect.Type) []*structField {
	byName := map[string][]*structField{}
	seen := map[reflect.Type]bool{}
	for level, depth := []embedded{{of: t}}, 0; len(level) > 0; depth++ {
		var next []embedded
		for _, one := range level {
			if !seen[one.of] {
				next = append(next, one.fields(depth, byName)...)
			}
		}
		for _, one := range level {
			seen[one.of] = true
		}
		level = next
	}
	var fields []*structField
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if f := dominant(byName[name]); f != nil {
			fields = append(fields, f)
		}
	}
	return fields
}

func dominant(all []*structField) *structField {
	slices.SortStableFunc(all, func(a, b *structField) int { return a.rank() - b.rank() })
	if len(all) > 1 && all[0].rank() == all[1].rank() {
		return nil
	}
	return all[0]
}

// fields collects the fields of one struct, and returns those that it embeds.
func (e embedded) fields(depth int, byName map[string][]*structField) (inside []embedded) {
	for f := range e.of.Fields() {
		of, pointer := f.Type, false
		if f.Anonymous && of.Kind() == reflect.Pointer {
			of, pointer = of.Elem(), true
		}
		tag := f.Tag.Get("json")
		if tag == "-" || !f.IsExported() && !(f.Anonymous && of.Kind() == reflect.Struct) {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" && f.Anonymous && of.Kind() == reflect.Struct {
			inside = append(inside, embedded{of, e.optional || pointer})
			continue
		}
		if !f.IsExported() {
			continue
		}
		one := &structField{name: name, of: f.Type, tag: f.Tag.Get("jsonschema"), optional: e.optional, depth: depth, named: name != ""}
		if name == "" {
			one.name = f.Name
		}
		one.apply(strings.Split(options, ","))
		byName[one.name] = append(byName[one.name], one)
	}
	return inside
}

// apply reads the options of the tag json.
func (f *structField) apply(options []string) {
	zero := slices.Contains(options, "omitzero")
	empty := slices.Contains(options, "omitempty")
	kind := f.of.Kind()
	switch kind {
	case reflect.Struct:
		empty = false
	case reflect.Array:
		empty = empty && f.of.Len() == 0
	}
	f.optional = f.optional || zero || empty
	f.omitsNil = zero || empty
	if slices.Contains(options, "string") {
		of := f.of
		if kind == reflect.Pointer {
			kind = of.Elem().Kind()
		}
		f.quoted = kind == reflect.Bool || kind == reflect.String || kind >= reflect.Int && kind <= reflect.Float64
	}
}

// plainJSON is a value as it is read from JSON, with numbers of any size.
func plainJSON(value any) (any, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(strings.NewReader(string(encoded)))
}
