// Package travel takes values from a context into the headers of a message, and back into
// the context of its handler.
package travel

import (
	"context"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/field"
)

// Value is a value that travels, in a header of its name.
type Value struct {
	Name     string
	Required bool
	// Max is how many bytes it may have.
	Max int
}

// key is the key of a value in a context.
type key string

// With returns a context with a value.
func With(ctx context.Context, name, value string) context.Context {
	return context.WithValue(ctx, key(name), value)
}

// Of returns a value, and whether the context has one, which may be empty.
func Of(ctx context.Context, name string) (string, bool) {
	value, ok := ctx.Value(key(name)).(string)
	return value, ok
}

// List is what travels.
type List []Value

// MissingError says that a value is required and not there.
type MissingError struct{ Name string }

// Error names the value.
func (e *MissingError) Error() string { return fmt.Sprintf("no value of %q", e.Name) }

// Read takes the values out of the headers of a message, in the order of the list. An absent
// one is "". An error is a [*MissingError], or says which value is none that may travel.
func (l List) Read(headers map[string]any) ([]string, error) {
	if len(l) == 0 {
		return nil, nil
	}
	values := make([]string, len(l))
	for i, v := range l {
		text, err := v.in(headers)
		if err != nil {
			return nil, err
		}
		values[i] = text
	}
	return values, nil
}

// in reads the value from headers.
func (v *Value) in(headers map[string]any) (string, error) {
	found, ok := headers[v.Name]
	if !ok {
		return "", v.check("")
	}
	text, ok := field.Text(found)
	if !ok {
		return "", fmt.Errorf("header %q is not text but a %T", v.Name, found)
	}
	return text, v.check(text)
}

func (v *Value) check(text string) error {
	switch {
	case text == "" && v.Required:
		return &MissingError{v.Name}
	case len(text) > v.Max:
		return fmt.Errorf("the value of %q has %d bytes, more than %d", v.Name, len(text), v.Max)
	case !printable(text):
		return fmt.Errorf("the value of %q is not printable text", v.Name)
	default:
		return nil
	}
}

func printable(text string) bool {
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(text)
}

// Into returns a context with what Read has returned.
func (l List) Into(ctx context.Context, values []string) context.Context {
	if len(values) == 0 {
		return ctx
	}
	return carrying{ctx, l, values}
}

// carrying is a context with the values of a message.
type carrying struct {
	context.Context

	list   List
	values []string
}

func (c carrying) Value(asked any) any {
	if name, ok := asked.(key); ok {
		for i := range c.values {
			if c.list[i].Name == string(name) && c.values[i] != "" {
				return c.values[i]
			}
		}
	}
	return c.Context.Value(asked)
}

// Write puts the values of a context into the headers of a message, and those of the message
// that is being handled where the context has none. A header that is there already stays.
func (l List) Write(ctx context.Context, handled []string, headers map[string]any) error {
	var faults []error
	for i, v := range l {
		if _, ok := headers[v.Name]; !ok {
			text, known := Of(ctx, v.Name)
			if !known && i < len(handled) {
				text = handled[i]
			}
			if text != "" {
				headers[v.Name] = text
			}
		}
		if _, err := v.in(headers); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}
