package contract

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// alternative is a schema with one type; an empty type stands for all.
type alternative struct {
	kind   string
	schema map[string]any
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
	for _, kind := range typesOf(m) {
		u.all = append(u.all, alternative{kind, m})
	}
}

// typesOf are the types that a schema allows; the empty one stands for all. Without the keyword type, the values of enum and const say it,
// and a type without a value in them is none.
func typesOf(m map[string]any) (kinds []string) {
	switch kind := m["type"].(type) {
	case string:
		kinds = []string{kind}
	case []any:
		for _, one := range kind {
			name, _ := one.(string)
			kinds = append(kinds, name)
		}
	}
	values := enumOf(m)
	switch {
	case values == nil && kinds == nil && (m["properties"] != nil || m["required"] != nil):
		return []string{"object"}
	case values == nil && kinds == nil:
		return []string{""}
	case values == nil:
		return kinds
	}
	if kinds == nil {
		kinds = []string{"null", "boolean", "string", "number", "array", "object"}
	}
	if !slices.ContainsFunc(values, func(value any) bool { return ofKind(value, "number") && !integral(value) }) {
		if i := slices.Index(kinds, "number"); i >= 0 {
			kinds[i] = "integer"
		}
	}
	return slices.DeleteFunc(kinds, func(kind string) bool {
		return !slices.ContainsFunc(values, func(value any) bool { return ofKind(value, kind) })
	})
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

// asserts says whether a schema has a keyword that excludes values, beside one.
func asserts(m map[string]any, beside string) bool {
	for key := range m {
		if key != beside && !silent(key) {
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
