package contract

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// serious counts what is not harmless.
func serious(all []misfit) (n int) {
	for _, m := range all {
		if !m.harmless {
			n++
		}
	}
	return n
}

func (c *comparison) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// same says whether two values of a keyword are one, also through references, and whatever is said about them for readers.
func (c *comparison) same(a, b any) bool { return c.sameBut(a, b, schemas, map[[2]uintptr]bool{}) }

// content is what the objects in the value of a keyword are.
type content int8

const (
	schemas content = iota // schemas
	named                  // schemas by the names of fields or patterns
	data                   // values of messages
)

func contentOf(keyword string) content {
	switch keyword {
	case "properties", "patternProperties", "dependencies":
		return named
	case "enum", "const":
		return data
	default:
		return schemas
	}
}

func (c *comparison) sameBut(a, b any, of content, done map[[2]uintptr]bool) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		key := [2]uintptr{identity(a), identity(b)}
		if !ok || done[key] || len(done) > mostSame { // what is too large to be compared is not the same
			return ok && done[key]
		}
		done[key] = true
		if of == data {
			return maps.EqualFunc(x, y, func(v, w any) bool { return c.sameBut(v, w, data, done) })
		}
		x, y = c.behind(c.from, x), c.behind(c.to, y)
		if of == named {
			return maps.EqualFunc(x, y, func(v, w any) bool { return c.sameBut(v, w, schemas, done) })
		}
		return c.samePart(x, y, done)
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, func(v, w any) bool { return c.sameBut(v, w, of, done) })
	default:
		return equal(a, b)
	}
}

// samePart compares two schemas inside of a keyword that is compared as a whole. What excludes no value does not count.
func (c *comparison) samePart(a, b map[string]any, done map[[2]uintptr]bool) bool {
	for _, names := range []map[string]any{a, b} {
		for name := range names {
			if silent(name) {
				continue
			}
			v, in := a[name]
			w, both := b[name]
			if in != both || !c.sameBut(v, w, contentOf(name), done) && !sameNames(name, v, w) {
				return false
			}
		}
	}
	return true
}

// sameNames says whether two lists differ in their order only, where it does not matter.
func sameNames(keyword string, a, b any) bool {
	was, is := list(a), list(b)
	return slices.Contains([]string{"required", "type", "enum"}, keyword) && len(was) == len(is) && len(joined(was, is)) == len(was) && len(was) > 0
}

// silent says whether a keyword excludes no value.
func silent(keyword string) bool {
	return strings.HasPrefix(keyword, "x-") || slices.Contains(annotations, keyword)
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
