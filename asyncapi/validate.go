package asyncapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"reflect"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/harebus/harebus"
)

// Validate returns a middleware that holds the bodies of received messages against the schemas of their types, as [Export]
// writes them, before they are decoded: for messages of strangers. Pass a zero value of each type:
//
//	validate, err := asyncapi.Validate(PlaceOrder{}, CancelOrder{})
//
// A message that does not fit is parked at once as "bad-payload"; the reason names the field and the rule, and never the value. So is
// one whose content type is not JSON (text and bytes are taken as JSON), a field that is there twice or whose name differs
// from that of the schema in case only, a number with more than 400 characters or an exponent beyond 400, and a body with
// more than 250,000 values. Messages of other types pass. A body costs about six times its decoding, so validation is no default: the codec and a Validate method of the type find what a handler cannot take.
func Validate(types ...any) (harebus.Middleware, error) {
	byName, err := compile(types)
	if err != nil {
		return nil, fmt.Errorf("asyncapi: validate: %w", err)
	}
	return func(next harebus.HandlerFunc) harebus.HandlerFunc {
		return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if of := byName[m.Type]; of != nil {
				err := errors.New("its content type is not that of JSON")
				if carriesJSON(m.ContentType) {
					err = fits(of, m.Body)
				}
				if err != nil {
					return &harebus.RejectError{Reason: "bad-payload", Err: err}
				}
			}
			return next(ctx, bus, m)
		}
	}, nil
}

// compile makes the schemas of the types, by their wire names.
func compile(types []any) (map[string]*jsonschema.Schema, error) {
	s := newSchemas()
	bodies := schema{}
	for _, value := range types {
		named, ok := value.(harebus.Named)
		if !ok || reflect.ValueOf(value).Kind() == reflect.Pointer && reflect.ValueOf(value).IsNil() {
			return nil, fmt.Errorf("a %T has no method MessageType; pass a zero value of each message type", value)
		}
		name := named.MessageType()
		if bodies[name] != nil {
			return nil, fmt.Errorf("two types have the wire name %q", name)
		}
		body, err := s.body(reflect.TypeOf(value))
		if err != nil {
			return nil, fmt.Errorf("message %q: %w", name, err)
		}
		bodies[name] = body
	}
	return compileAll(bodies, s.made)
}

// compileAll compiles schemas that refer to others.
func compileAll(bodies, others schema) (map[string]*jsonschema.Schema, error) {
	root, err := plainJSON(schema{"bodies": bodies, "components": schema{"schemas": others}})
	if err != nil {
		return nil, err
	}
	const address = "urn:harebus:contract"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource(address, root); err != nil {
		return nil, err
	}
	byName := map[string]*jsonschema.Schema{}
	for name := range bodies {
		one, err := c.Compile(address + "#/bodies/" + strings.NewReplacer("~", "~0", "/", "~1", "%", "%25").Replace(name))
		if err != nil {
			return nil, fmt.Errorf("message %q: %w", name, err)
		}
		byName[name] = one
	}
	return byName, nil
}

// carriesJSON says whether the library may decode a body of the content type as JSON. It does so with text and bytes for a type that
// is neither.
func carriesJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch media {
	case "text/json", "application/x-json", "text/x-json", "json", "text/plain", "application/octet-stream":
		return true
	}
	return isJSON(media)
}

// fits says where a body does not fit its schema.
func fits(of *jsonschema.Schema, body []byte) error {
	value, err := decode(bytes.TrimPrefix(body, []byte("\ufeff")))
	if err != nil {
		return err
	}
	var violation *jsonschema.ValidationError
	switch err := of.Validate(value); {
	case err == nil:
		return spelled(of, value, nil, 0)
	case errors.As(err, &violation):
		return errors.New("the body does not fit its schema: " + strings.Join(places(violation, nil), ", "))
	default:
		return errors.New("the body cannot be held against its schema")
	}
}

// mostPlaces is how many violations are named.
const mostPlaces = 5

// places adds the fields and the rules that they break, without values.
func places(v *jsonschema.ValidationError, all []string) []string {
	if len(v.Causes) == 0 {
		one := fmt.Sprintf("%q breaks the rule %s", pointer(v.InstanceLocation), strings.Join(v.ErrorKind.KeywordPath(), "/"))
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	for _, cause := range v.Causes {
		if len(all) == mostPlaces {
			break
		}
		all = places(cause, all)
	}
	return all
}

// pointer is a JSON pointer.
func pointer(parts []string) string {
	var all strings.Builder
	for _, part := range parts {
		all.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
	}
	if all.Len() == 0 {
		return "/"
	}
	const long = 200
	if s := all.String(); len(s) > long { // names of fields are the sender's
		return s[:long] + "…"
	}
	return all.String()
}
