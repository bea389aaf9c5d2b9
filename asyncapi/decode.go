package asyncapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	mostDepth  = 10_000  // as encoding/json
	mostValues = 250_000 // a violation costs the validator much more memory than a value
	mostDigits = 400     // the validator computes with exact fractions; a float64 has at most 309 digits before the point
)

var errNoJSON = errors.New("the body is not JSON")

// reader makes the values of a body whose validation is bounded, and whose fields everybody reads in the same way.
type reader struct {
	in     *json.Decoder
	values int
}

// decode decodes a body for the validator.
func decode(body []byte) (any, error) {
	r := reader{in: json.NewDecoder(bytes.NewReader(body))}
	r.in.UseNumber()
	value, err := r.value(nil)
	if err != nil {
		return nil, err
	}
	if _, err := r.in.Token(); !errors.Is(err, io.EOF) {
		return nil, errNoJSON
	}
	return value, nil
}

// value reads a value at a place.
func (r *reader) value(at []string) (any, error) {
	token, err := r.in.Token()
	if err != nil || len(at) > mostDepth {
		return nil, errNoJSON
	}
	if r.values++; r.values > mostValues {
		return nil, fmt.Errorf("the body has more than %d values", mostValues)
	}
	switch v := token.(type) {
	case json.Number:
		if !bounded(string(v)) {
			return nil, fmt.Errorf("%q is a number with too many digits", pointer(at))
		}
	case json.Delim:
		if v == '{' {
			return r.object(at)
		}
		return r.list(at)
	}
	return token, nil
}

func (r *reader) object(at []string) (any, error) {
	all := map[string]any{}
	for r.in.More() {
		token, err := r.in.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNoJSON
		}
		inside := slices.Concat(at, []string{name})
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("%q is there twice", pointer(inside))
		}
		if all[name], err = r.value(inside); err != nil {
			return nil, err
		}
	}
	return all, r.end()
}

func (r *reader) list(at []string) (any, error) {
	all := []any{}
	for r.in.More() {
		one, err := r.value(append(at, strconv.Itoa(len(all))))
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, r.end()
}

func (r *reader) end() error {
	if _, err := r.in.Token(); err != nil {
		return errNoJSON
	}
	return nil
}

// bounded says whether the exact value of a number is short.
func bounded(number string) bool {
	if len(number) > mostDigits {
		return false
	}
	i := strings.IndexAny(number, "eE")
	if i < 0 {
		return true
	}
	exponent, err := strconv.Atoi(number[i+1:])
	return err == nil && -mostDigits <= exponent && exponent <= mostDigits
}

// mostSteps is how many schemas of one value are looked at, one in the other.
const mostSteps = 20

// spelled returns an error for a field whose name differs in case only from one of the schema: encoding/json takes it for that
// one, and the validator does not.
func spelled(of *jsonschema.Schema, value any, at []string, steps int) error {
	if of == nil || steps > mostSteps {
		return nil
	}
	for _, same := range slices.Concat([]*jsonschema.Schema{of.Ref}, of.AllOf, of.AnyOf, of.OneOf) {
		if err := spelled(same, value, at, steps+1); err != nil {
			return err
		}
	}
	switch v := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			inside := slices.Concat(at, []string{name})
			field, known := of.Properties[name]
			for other := range of.Properties {
				if !known && strings.EqualFold(name, other) {
					return fmt.Errorf("%q differs from the name of the field only in case", pointer(inside))
				}
			}
			if !known {
				field, _ = of.AdditionalProperties.(*jsonschema.Schema)
			}
			if err := spelled(field, v[name], inside, 0); err != nil {
				return err
			}
		}
	case []any:
		element, _ := of.Items.(*jsonschema.Schema)
		for i := range v {
			if err := spelled(element, v[i], append(at, strconv.Itoa(i)), 0); err != nil {
				return err
			}
		}
	}
	return nil
}
