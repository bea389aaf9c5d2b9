package contract

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// misfit is a reason why a value that one schema allows may not be allowed by the other.
type misfit struct {
	field         string // a JSON pointer into the value, with * for any element
	keyword       string
	before, after string
	harmless      bool // it is a change that nobody can notice as an error
	more          int  // instead of a misfit: so many are left out
}

func (m misfit) text() string {
	if m.more > 0 {
		return fmt.Sprintf("and %d more changes", m.more)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s → %s", m.keyword, m.before, m.after))
}

// swapped has what was found the other way round in the order of time.
func swapped(all []misfit) []misfit {
	for i := range all {
		all[i].before, all[i].after = all[i].after, all[i].before
	}
	return all
}

// comparison asks whether what the schemas of one document allow is allowed by those of another.
type comparison struct {
	from, to *Document
	// closed says that additionalProperties: false counts. It does for a receiver, which then refuses a field that it has no more.
	closed bool
	// done are the pairs of schemas that were compared, or are being compared, with fields relative to theirs.
	done map[[2]uintptr][]misfit
	// merged are schemas with allOf as one, by the identity of the schema.
	merged map[uintptr]map[string]any
	// depth is how many schemas are being compared, one in the other; steps is how many pairs of alternatives were.
	depth, steps int
	err          error
}

// fits returns why values of the schema a may not fit the schema b.
func (c comparison) fits(a, b any) ([]misfit, error) {
	c.done, c.merged = map[[2]uintptr][]misfit{}, map[uintptr]map[string]any{}
	found := c.compare(a, b)
	return found, c.err
}

// alternative is a schema with one type; an empty type stands for all.
type alternative struct {
	kind   string
	schema map[string]any
}

// Limits of a comparison: recursive schemas of two documents can have as many pairs as the product of both.
const (
	mostDepth = 1000
	mostSteps = 5_000_000
	mostSame  = 10_000 // pairs of objects that are compared as a whole
)

// compare compares two schemas. They are recursive through references, so each pair is compared once.
func (c *comparison) compare(a, b any) []misfit {
	key := [2]uintptr{identity(a), identity(b)}
	if found, ok := c.done[key]; ok && key[0] != 0 && key[1] != 0 {
		return found
	}
	if c.depth > mostDepth || c.steps > mostSteps {
		c.fail(errors.New("the schemas are too large to be compared, or lie too deep in each other"))
	}
	if c.err != nil {
		return nil
	}
	c.depth++
	defer func() { c.depth-- }()
	c.done[key] = nil
	var found []misfit
	of, in := c.alternatives(c.from, a), c.alternatives(c.to, b)
	for _, one := range of {
		best, some := c.nearest(one, in)
		if !some {
			best = []misfit{{keyword: "type", before: kinds(of), after: kinds(in)}}
		}
		for _, m := range best {
			if !slices.Contains(found, m) {
				found = append(found, m)
			}
		}
	}
	c.done[key] = few(found)
	return c.done[key]
}

// few limits a list: where types are used many times, one change is a change of many fields.
func few(found []misfit) []misfit {
	const most = 100
	if len(found) <= most {
		return found
	}
	const countable = 1_000_000
	all := slices.SortedStableFunc(slices.Values(found), func(x, y misfit) int {
		return cmp.Or(cmp.Compare(min(x.more, 1), min(y.more, 1)), serious([]misfit{y})-serious([]misfit{x}))
	})
	left := misfit{harmless: serious(all[most:]) == 0}
	for _, m := range all[most:] {
		left.more = min(left.more+max(m.more, 1), countable)
	}
	return append(slices.Clip(all[:most]), left)
}

// nearest returns what is the least that stands against a value of a, among the alternatives of the same type.
func (c *comparison) nearest(a alternative, in []alternative) (best []misfit, some bool) {
	for _, b := range in {
		if b.kind != a.kind && b.kind != "" && (a.kind != "integer" || b.kind != "number") {
			continue
		}
		c.steps++
		if found := c.constraints(a, b); !some || serious(found) < serious(best) {
			best, some = found, true
		}
	}
	return best, some
}

// serious counts what is not harmless.
func serious(all []misfit) (n int) {
	for _, m := range all {
		if !m.harmless {
			n++
		}
	}
	return n
}

// identity tells objects apart; it is 0 for what is none.
func identity(schema any) uintptr {
	m, ok := schema.(map[string]any)
	if !ok {
		return 0
	}
	return reflect.ValueOf(m).Pointer()
}

// mostAlternatives is how many schemas a union may have, with those of the unions in it.
const mostAlternatives = 1000

// alternatives takes a schema apart, into one for each type that it allows.
func (c *comparison) alternatives(d *Document, schema any) []alternative {
	u := union{seen: map[uintptr]bool{}}
	c.collect(d, schema, &u)
	return u.all
}

// union has the alternatives of a schema. A schema that is there twice, or is a part of itself, adds nothing.
type union struct {
	all  []alternative
	seen map[uintptr]bool
}

// collect adds the alternatives of a schema to a union.
func (c *comparison) collect(d *Document, schema any, u *union) {
	switch s := schema.(type) {
	case nil:
		u.all = append(u.all, alternative{})
	case bool:
		if s {
			u.all = append(u.all, alternative{})
		}
	case map[string]any:
		m, err := d.resolved(s)
		if err != nil {
			c.fail(err)
			return
		}
		if u.seen[identity(m)] {
			return
		}
		u.seen[identity(m)] = true
		if len(u.seen) > mostAlternatives {
			c.fail(fmt.Errorf("a union (anyOf, oneOf) has more than %d schemas; make it smaller", mostAlternatives))
			return
		}
		c.apart(d, c.whole(d, m), u)
	default:
		c.fail(fmt.Errorf("a schema is a %T, and not an object", schema))
	}
}

func (c *comparison) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// apart collects the alternatives of a schema without a reference.
func (c *comparison) apart(d *Document, m map[string]any, u *union) {
	for _, keyword := range []string{"anyOf", "oneOf"} {
		parts, ok := m[keyword].([]any)
		if !ok || asserts(m, keyword) {
			continue
		}
		for _, one := range parts {
			c.collect(d, one, u)
		}
		return
	}
	switch kind := m["type"].(type) {
	case string:
		u.all = append(u.all, alternative{kind, m})
		return
	case []any:
		for _, one := range kind {
			name, _ := one.(string)
			u.all = append(u.all, alternative{name, m})
		}
		return
	}
	if m["properties"] != nil || m["required"] != nil {
		u.all = append(u.all, alternative{"object", m})
		return
	}
	u.all = append(u.all, alternative{"", m})
}

// whole is a schema with the parts of its allOf in it, if no two of them say something about the same.
func (c *comparison) whole(d *Document, m map[string]any) map[string]any {
	parts, ok := m["allOf"].([]any)
	if !ok {
		return m
	}
	if one := c.merged[identity(m)]; one != nil {
		return one
	}
	c.merged[identity(m)] = m // for a schema that is a part of itself
	all := maps.Clone(m)
	delete(all, "allOf")
	for _, part := range parts {
		p, _ := part.(map[string]any)
		p, err := d.resolved(p)
		if err != nil {
			c.fail(err)
			return m
		}
		if !merge(all, c.whole(d, p)) {
			return m
		}
	}
	c.merged[identity(m)] = all
	return all
}

// merge adds the keywords of a schema to another. It returns false for two that are about the same.
func merge(into, of map[string]any) bool {
	for key, value := range of {
		was, there := into[key]
		switch {
		case !there || slices.Contains(annotations, key):
			into[key] = value
		case key == "required":
			into[key] = joined(list(was), list(value))
		case key == "properties":
			both := maps.Clone(properties(into))
			for name, one := range properties(of) {
				if other, twice := both[name]; twice && !reflect.DeepEqual(other, one) || both == nil {
					return false
				}
				both[name] = one
			}
			into[key] = both
		case !reflect.DeepEqual(was, value):
			return false
		}
	}
	return true
}

// joined has the names of two lists, each once.
func joined(a, b []any) []any {
	all := slices.Clone(a)
	for _, one := range b {
		if !slices.ContainsFunc(all, func(other any) bool { return reflect.DeepEqual(one, other) }) {
			all = append(all, one)
		}
	}
	return all
}

func list(value any) []any {
	all, _ := value.([]any)
	return all
}

// same says whether two values are one, also through references.
func (c *comparison) same(a, b any) bool { return c.sameBut(a, b, map[[2]uintptr]bool{}) }

func (c *comparison) sameBut(a, b any, done map[[2]uintptr]bool) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		key := [2]uintptr{identity(a), identity(b)}
		if !ok || done[key] || len(done) > mostSame { // what is too large to be compared is not the same
			return ok && done[key]
		}
		done[key] = true
		x, y = c.behind(c.from, x), c.behind(c.to, y)
		return maps.EqualFunc(x, y, func(v, w any) bool { return c.sameBut(v, w, done) })
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, func(v, w any) bool { return c.sameBut(v, w, done) })
	default:
		return equal(a, b)
	}
}

// behind is what a reference leads to; other objects are themselves.
func (c *comparison) behind(d *Document, m map[string]any) map[string]any {
	to, err := d.resolved(m)
	if err != nil {
		c.fail(err)
		return m
	}
	return to
}

// annotations are the keywords that exclude no value.
var annotations = []string{"title", "description", "default", "examples", "$comment", "$id", "$schema", "readOnly", "writeOnly", "deprecated", "externalDocs", "definitions", "$defs"}

// asserts says whether a schema has a keyword that excludes values, beside one.
func asserts(m map[string]any, beside string) bool {
	for key := range m {
		if key != beside && !strings.HasPrefix(key, "x-") && !slices.Contains(annotations, key) {
			return true
		}
	}
	return false
}

// kinds lists the types of alternatives.
func kinds(all []alternative) string {
	if len(all) == 0 {
		return "none"
	}
	var names []string
	for _, a := range all {
		name := a.kind
		if name == "" {
			name = "any"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " or ")
}

// keyword is a keyword of schemas that excludes values of some types.
type keyword struct {
	name  string
	kinds []string // none: all
	sense sense
}

// sense is how two values of a keyword are compared.
type sense int8

const (
	whole sense = iota // they are the same, or not
	least              // a higher one allows less
	most               // a lower one allows less
)

var (
	texts   = []string{"string"}
	numbers = []string{"integer", "number"}
	lists   = []string{"array"}
	objects = []string{"object"}
)

var keywords = []keyword{
	{"format", []string{"string", "integer", "number"}, whole}, {"pattern", texts, whole},
	{"contentEncoding", texts, whole}, {"contentMediaType", texts, whole}, {"minLength", texts, least}, {"maxLength", texts, most},
	{"multipleOf", numbers, whole}, {"minimum", numbers, least}, {"exclusiveMinimum", numbers, least},
	{"maximum", numbers, most}, {"exclusiveMaximum", numbers, most},
	{"uniqueItems", lists, whole}, {"contains", lists, whole}, {"additionalItems", lists, whole}, {"minItems", lists, least}, {"maxItems", lists, most},
	{"patternProperties", objects, whole}, {"propertyNames", objects, whole}, {"dependencies", objects, whole},
	{"minProperties", objects, least}, {"maxProperties", objects, most},
	{"allOf", nil, whole}, {"anyOf", nil, whole}, {"oneOf", nil, whole}, {"not", nil, whole}, {"if", nil, whole}, {"then", nil, whole}, {"else", nil, whole},
}

// constraints compares the keywords of two schemas of one type.
func (c *comparison) constraints(a, b alternative) []misfit {
	found := values(a, b)
	for _, k := range keywords {
		if was, is := a.schema[k.name], b.schema[k.name]; k.of(a.kind) && c.allowsLess(k, was, is) {
			found = append(found, misfit{keyword: k.name, before: shown(was), after: shown(is)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unread(a.schema, b.schema))) {
		if was, is := a.schema[name], b.schema[name]; !c.same(was, is) {
			found = append(found, misfit{keyword: name, before: shown(was), after: shown(is)})
		}
	}
	if a.kind == "object" || a.kind == "" {
		found = append(found, c.object(a.schema, b.schema)...)
	}
	if a.kind == "array" || a.kind == "" {
		found = append(found, c.elements(a.schema, b.schema)...)
	}
	return found
}

// unread are keywords that are not known here. Whether they exclude values is unknown, so any change counts.
func unread(schemas ...map[string]any) map[string]bool {
	names := map[string]bool{}
	for _, m := range schemas {
		for name := range m {
			known := slices.ContainsFunc(keywords, func(k keyword) bool { return k.name == name }) || slices.Contains(structural, name)
			if !known && !strings.HasPrefix(name, "x-") && !slices.Contains(annotations, name) {
				names[name] = true
			}
		}
	}
	return names
}

// structural are the keywords that are compared part by part.
var structural = []string{"type", "enum", "const", "properties", "required", "additionalProperties", "items"}

// of says whether the keyword is about values of a type.
func (k *keyword) of(kind string) bool {
	return kind == "" || len(k.kinds) == 0 || slices.Contains(k.kinds, kind)
}

// allowsLess says whether the value of the keyword in b excludes values that the one in a allows, or may do so.
func (c *comparison) allowsLess(k keyword, a, b any) bool {
	if b == nil || b == false && (k.name == "uniqueItems" || k.name == "not") || c.same(a, b) {
		return false
	}
	was, bounded := number(a)
	is, bound := number(b)
	switch {
	case k.sense == whole || !bound:
		return true
	case !bounded: // at least 0 of something is no bound
		return k.name == "minimum" || k.name == "exclusiveMinimum" || k.sense == most || is.Sign() > 0
	case k.sense == least:
		return is.Cmp(was) > 0
	default:
		return is.Cmp(was) < 0
	}
}

// number is the exact value of a number, if that is short enough to be computed with.
func number(value any) (*big.Rat, bool) {
	n, ok := value.(json.Number)
	if !ok || len(n) > 400 {
		return nil, false
	}
	if i := strings.IndexAny(string(n), "eE"); i >= 0 {
		if exponent, err := strconv.Atoi(string(n[i+1:])); err != nil || exponent < -400 || exponent > 400 {
			return nil, false
		}
	}
	return new(big.Rat).SetString(string(n))
}

// equal says whether two values are one that are no objects or lists. 1 and 1.0 are.
func equal(a, b any) bool {
	x, ok := number(a)
	y, both := number(b)
	return ok && both && x.Cmp(y) == 0 || reflect.DeepEqual(a, b)
}

// values compares enum and const.
func values(a, b alternative) []misfit {
	was, is := enumOf(a.schema), enumOf(b.schema)
	if is == nil {
		return nil
	}
	lost := was == nil
	for _, value := range was {
		if ofKind(value, a.kind) && !slices.ContainsFunc(is, func(one any) bool { return equal(value, one) }) {
			lost = true
		}
	}
	if !lost {
		return nil
	}
	return []misfit{{keyword: "enum", before: shownAll(was), after: shownAll(is)}}
}

func enumOf(schema map[string]any) []any {
	if one, ok := schema["const"]; ok {
		return []any{one}
	}
	return list(schema["enum"])
}

// ofKind says whether a value of an enum belongs to one of the types of its schema.
func ofKind(value any, kind string) bool {
	switch value.(type) {
	case nil:
		return kind == "null" || kind == ""
	case string:
		return kind == "string" || kind == ""
	default:
		return kind != "null" && kind != "string"
	}
}

// object compares the fields of two objects. Readers ignore fields that they do not know, so a field that only one of the
// schemas has is no misfit, unless b requires it or a receiver allows no others.
func (c *comparison) object(a, b map[string]any) (found []misfit) {
	needed := required(a)
	for _, name := range required(b) {
		if !slices.Contains(needed, name) {
			found = append(found, misfit{field: pointer(name), keyword: "required", before: "no", after: "yes"})
		}
	}
	in, of := properties(a), properties(b)
	for _, name := range slices.Sorted(maps.Keys(of)) {
		switch was, ok := in[name]; {
		case ok:
			found = append(found, below(name, c.compare(was, of[name]))...)
		case isSchema(a["additionalProperties"]):
			found = append(found, below(name, c.compare(a["additionalProperties"], of[name]))...)
		default:
			found = append(found, misfit{field: pointer(name), keyword: "field", before: "none", after: "there", harmless: true})
		}
	}
	others := b["additionalProperties"]
	for _, name := range slices.Sorted(maps.Keys(in)) {
		switch _, ok := of[name]; {
		case ok:
		case isSchema(others):
			found = append(found, below(name, c.compare(in[name], others))...)
		case others == false && c.closed:
			found = append(found, misfit{field: pointer(name), keyword: "additionalProperties", before: "true", after: "false"})
		}
	}
	if isSchema(others) {
		found = append(found, below("*", c.compare(a["additionalProperties"], others))...)
	}
	return found
}

// elements compares the elements of two arrays.
func (c *comparison) elements(a, b map[string]any) []misfit {
	_, listed := a["items"].([]any)
	_, lists := b["items"].([]any)
	switch {
	case b["items"] == nil:
		return nil
	case listed || lists:
		if c.same(a["items"], b["items"]) {
			return nil
		}
		return []misfit{{keyword: "items", before: shown(a["items"]), after: shown(b["items"])}}
	default:
		return below("*", c.compare(a["items"], b["items"]))
	}
}

// below has misfits of a part in the whole.
func below(name string, all []misfit) []misfit {
	inside := slices.Clone(all)
	for i := range inside {
		inside[i].field = pointer(name) + inside[i].field
	}
	return inside
}

// escaped and unescaped are the names in JSON pointers.
var escaped, unescaped = strings.NewReplacer("~", "~0", "/", "~1"), strings.NewReplacer("~1", "/", "~0", "~")

// pointer is a part of a JSON pointer.
func pointer(name string) string {
	return "/" + escaped.Replace(name)
}

func properties(schema map[string]any) map[string]any {
	m, _ := schema["properties"].(map[string]any)
	return m
}

func required(schema map[string]any) (names []string) {
	for _, one := range list(schema["required"]) {
		if name, ok := one.(string); ok {
			names = append(names, name)
		}
	}
	return names
}

// isSchema says whether additionalProperties says what the other fields are like.
func isSchema(value any) bool {
	m, ok := value.(map[string]any)
	return ok && len(m) > 0
}

// shown is the value of a keyword for a reader.
func shown(value any) string {
	if value == nil {
		return "none"
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}

func shownAll(values []any) string {
	if values == nil {
		return "none"
	}
	return shown(values)
}
