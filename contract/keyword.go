package contract

import (
	"encoding/json"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

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
		if was, is := a.schema[k.name], b.schema[k.name]; k.of(a.kind) && c.allowsLess(k, was, is) && !within(k.name, a, b) {
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
			if !known && !silent(name) {
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
	case bool:
		return kind == "boolean" || kind == ""
	case string:
		return kind == "string" || kind == ""
	case []any:
		return kind == "array" || kind == ""
	case map[string]any:
		return kind == "object" || kind == ""
	default:
		return kind == "number" || kind == "" || kind == "integer" && integral(value)
	}
}

// integral says whether a number has nothing behind the point, as far as that can be told.
func integral(value any) bool {
	n, known := number(value)
	return !known || n.IsInt()
}
