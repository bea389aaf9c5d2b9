package harebus_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

type (
	// byPointer has its wire name on the pointer.
	byPointer struct{ ID int }
	// anonymous has none.
	anonymous struct{ ID int }
	// several is a list that somebody has defined.
	several []int
	// promoted has a wire name that panics: the pointer it comes from is nil.
	promoted struct{ *named }
	named    struct{ Name string }
	unnamed  struct{}
	vanished struct{}
)

func (*byPointer) MessageType() string { return "ByPointer" }

func (n *named) MessageType() string { return n.Name }

func (unnamed) MessageType() string { return "" }

func (vanished) MessageType() string { return "Vanished" }

func (vanished) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// TestWireName: a message has the name of its type however it is passed, and one
// that would have none by accident is not sent.
func TestWireName(t *testing.T) {
	o, p, a := &order{1}, &byPointer{1}, &anonymous{1}
	for name, c := range map[string]struct {
		value any
		opts  []harebus.SendOption
		want  string // the name on the wire; "-" is refused
		body  string
	}{
		"value of value":           {order{1}, nil, "Order", `{"ID":1}`},
		"pointer of value":         {o, nil, "Order", `{"ID":1}`},
		"pointer of pointer":       {&o, nil, "Order", `{"ID":1}`},
		"value, name on pointer":   {*p, nil, "ByPointer", `{"ID":1}`},
		"pointer, name on pointer": {p, nil, "ByPointer", `{"ID":1}`},
		"two pointers":             {&p, nil, "ByPointer", `{"ID":1}`},
		"option":                   {byPointer{1}, []harebus.SendOption{harebus.WithType("Other")}, "Other", `{"ID":1}`},
		"struct":                   {*a, nil, "-", ""},
		"pointer to struct":        {a, nil, "-", ""},
		"struct with option":       {a, []harebus.SendOption{harebus.WithType("Mine")}, "Mine", `{"ID":1}`},
		"struct without a type":    {a, []harebus.SendOption{harebus.WithType(harebus.NoType)}, "", `{"ID":1}`},
		"order without a type":     {order{1}, []harebus.SendOption{harebus.WithType(harebus.NoType)}, "", `{"ID":1}`},
		"defined list":             {several{1}, nil, "-", ""},
		"time":                     {time.Unix(0, 0), nil, "-", ""},
		"duration":                 {time.Second, nil, "-", ""},
		"buffer":                   {bytes.NewBufferString("x"), nil, "-", ""},
		"unnamed struct":           {struct{ A int }{1}, nil, "", `{"A":1}`},
		"map":                      {map[string]any{"a": 1}, nil, "", `{"a":1}`},
		"map of orders":            {map[string]order{"a": {1}}, nil, "", `{"a":{"ID":1}}`},
		"list of orders":           {[]order{{1}}, nil, "", `[{"ID":1}]`},
		"text":                     {"x", nil, "", `"x"`},
		"number":                   {7, nil, "", `7`},
		"bytes":                    {[]byte("x"), nil, "", `x`},
		"raw json":                 {json.RawMessage(`{"a":1}`), nil, "", `{"a":1}`},
		"nil":                      {nil, nil, "", `{}`},
		"nil map":                  {map[string]any(nil), nil, "", `{}`},
		"nil pointer":              {(*order)(nil), nil, "-", ""},
		"nil pointer, named":       {(*byPointer)(nil), nil, "-", ""},
		"nil pointer with option":  {(*order)(nil), []harebus.SendOption{harebus.WithType("Order")}, "-", ""},
		"pointer to nil pointer":   {new(*order), nil, "-", ""},
		"pointer to nil interface": {new(any), nil, "-", ""},
		"panics":                   {promoted{}, nil, "-", ""},
		"empty name":               {unnamed{}, nil, "-", ""},
		"becomes null":             {vanished{}, nil, "-", ""},
		"raw null":                 {json.RawMessage(" null "), nil, "-", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.bound(r.channel(), "out")
				err := r.setup(r.config("")).Bus().Send(r.ctx, "out", c.value, c.opts...)
				if c.want == "-" {
					if !errors.Is(err, harebus.ErrRefused) {
						t.Errorf("not refused: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				m := r.await("out", 1)[0]
				if header, _ := m.Headers[prefixed("MessageType")].(string); m.Type != c.want || header != c.want || string(m.Body) != c.body {
					t.Errorf("type %q, header %q, body %s", m.Type, header, m.Body)
				}
			})
		})
	}
}
