package asyncapi

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/harebus/harebus"
)

type (
	hidden struct {
		Inner  string
		Twice  int // in other too, so in neither
		Winner int `json:"winner"`
	}
	other struct {
		Twice  string
		Winner string // loses against the tag
	}
	Pair[A, B any] struct {
		First  A
		Second *B `json:",omitempty"`
	}
	Tree     map[string]Tree
	Chain    []Chain
	Color    string
	Upper    struct{ text string }
	upperPtr struct{ text string }
	Money    struct{ cents int64 }
	Node     struct {
		Name     string
		Left     *Node
		Children []Node          `json:"children"`
		ByName   map[string]Node `json:",omitempty"`
	}
	everything struct {
		hidden
		*other
		Bool     bool
		Int8     int8    `json:"int_8"`
		Uint     uint64  `json:",string"`
		Float    float32 `json:",omitempty"`
		Quoted   *bool   `json:",string"`
		Text     Color   `json:"text"       jsonschema:"enum=red,enum=,description=a\\, b"`
		Bytes    []byte
		Fixed    [2]int
		Bin      [3]byte
		List     []string
		Lists    [][]int `json:"lists,omitempty"`
		Map      map[int]float64
		MapText  map[netip.Addr]bool
		Any      any
		Raw      json.RawMessage
		Number   json.Number
		Time     time.Time
		TimePtr  *time.Time
		Zero     time.Time     `json:",omitzero"`
		Duration time.Duration `json:"a-b"`
		Skipped  int           `json:"-"`
		Addr     netip.Addr
		AddrPtr  *netip.Addr
		Upper    Upper
		UpperPtr *upperPtr
		Uppers   []upperPtr
		Big      *big.Int
		Money    Money
		MoneyPtr *Money
		Pair     Pair[Node, Pair[string, int]]
		Node     *Node
		Tree     Tree
		Chain    Chain
		Struct   struct{ A, b int }
		PtrPtr   **int
		Iface    fmt.Stringer
	}
)

func (u Upper) MarshalText() ([]byte, error)     { return []byte(strings.ToUpper(u.text)), nil }
func (u *upperPtr) MarshalText() ([]byte, error) { return []byte(strings.ToUpper(u.text)), nil }
func (m Money) MarshalJSON() ([]byte, error)     { return fmt.Appendf(nil, "%q", fmt.Sprint(m.cents)), nil }
func (Money) JSONSchema() map[string]any {
	return map[string]any{"type": "string", "pattern": "^-?[0-9]+$"}
}
func (everything) MessageType() string { return "everything" }
func validator(t testing.TB, of reflect.Type) *jsonschema.Schema {
	t.Helper()
	s := newSchemas()
	body, err := s.body(of)
	if err != nil {
		t.Fatal(err)
	}
	all, err := compileAll(schema{"it": body}, s.made)
	if err != nil {
		t.Fatal(err)
	}
	return all["it"]
}

// fill sets a value to something at random. With depth 0 what can be nil stays nil.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(4e9), r.Int64N(1e9)).In(time.FixedZone("", 3600*r.IntN(12)))))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{byte(r.IntN(256)), 2, 3, 4})))
		return
	case json.Number:
		v.SetString(fmt.Sprint(r.Int64()))
		return
	case json.RawMessage:
		v.SetBytes([]byte(`{"a": [null, 1e3]}`))
		return
	case *big.Int:
		v.Set(reflect.ValueOf(big.NewInt(r.Int64())))
		return
	case Color:
		v.SetString([]string{"red", ""}[r.IntN(2)])
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(int8(r.IntN(256))))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(r.IntN(256)))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(r.NormFloat64())
	case reflect.String:
		v.SetString([]string{"", "a", "ü\x00\"", "Ω"}[r.IntN(4)])
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(r, v.Field(i), depth)
			} else if v.Type().Field(i).Anonymous && v.Field(i).Kind() == reflect.Struct {
				for _, inside := range v.Field(i).Fields() {
					fill(r, inside, depth)
				}
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i), depth)
		}
	case reflect.Interface:
		if v.NumMethod() == 0 && depth > 0 {
			v.Set(reflect.ValueOf([]any{1.5, "x", nil}))
		}
	default:
		if depth == 0 || r.IntN(5) == 0 {
			return
		}
		fillParts(r, v, depth-1)
	}
}

func fillParts(r *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			fill(r, v.Index(i), depth)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, key, depth)
			fill(r, value, depth)
			v.SetMapIndex(key, value)
		}
	}
}

// TestSchemaOfWhatGoWrites: whatever encoding/json writes of a type fits the schema of the type: of zero values, and of
// values at random.
func TestSchemaOfWhatGoWrites(t *testing.T) {
	t.Parallel()
	for _, of := range []reflect.Type{
		reflect.TypeFor[everything](), reflect.TypeFor[*everything](), reflect.TypeFor[Node](), reflect.TypeFor[Tree](), reflect.TypeFor[Chain](),
		reflect.TypeFor[Pair[Pair[int, Node], []byte]](), reflect.TypeFor[map[string]*Node](), reflect.TypeFor[[]any](), reflect.TypeFor[Money](),
	} {
		t.Run(of.String(), func(t *testing.T) {
			t.Parallel()
			check := validator(t, of)
			for seed := range uint64(300) {
				v := reflect.New(of).Elem()
				if of.Kind() == reflect.Pointer {
					v.Set(reflect.New(of.Elem()))
				}
				if seed > 0 {
					fill(rand.New(rand.NewPCG(seed, 1)), reflect.Indirect(v), int(seed%5))
				}
				hold(t, check, v.Interface())
			}
		})
	}
}

// hold holds what the codec writes of a value against a schema.
func hold(t *testing.T, of *jsonschema.Schema, value any) {
	t.Helper()
	body, err := harebus.JSON{}.Encode(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := fits(of, body); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
}

// TestSchemaRefuses: a body that Go cannot decode, or that lacks a field, does not fit.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	check := validator(t, reflect.TypeFor[everything]())
	good, err := harebus.JSON{}.Encode(everything{})
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"Bool":false`, `"Bool":"false"`}, {`"int_8":0`, `"int_8":0.5`}, {`"Uint":"0"`, `"Uint":0`}, {`"text":""`, `"text":"green"`},
		{`"Fixed":[0,0]`, `"Fixed":[0]`}, {`"winner":0`, `"winner":"0"`}, {`"Inner":"",`, ``}, {`"Money":"0"`, `"Money":"x"`},
		{`"Time":"0001-01-01T00:00:00Z"`, `"Time":"yesterday"`}, {`"Bin":[0,0,0]`, `"Bin":"AAAA"`}, {`"Addr":""`, `"Addr":null`}, {`"Bool":false,`, ``},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) {
			t.Errorf("%s is not in %s", change[0], good)
		} else if err := fits(check, []byte(bad)); err == nil {
			t.Errorf("%s fits", change[1])
		}
	}
}

// TestSchemaHidesFields: of fields with one name the same one counts as for encoding/json.
func TestSchemaHidesFields(t *testing.T) {
	t.Parallel()
	type (
		Deep struct{ A, B, C int }
		Left struct {
			Deep
			B string
			X int
		}
		Right struct {
			C bool
			X int
		}
		Top struct {
			Left
			*Right
			A string
		}
	)
	s := newSchemas()
	one, err := s.body(reflect.TypeFor[Top]())
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s.made[strings.TrimPrefix(one["$ref"].(string), where)])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"properties":{"A":{"type":"string"},"B":{"type":"string"},"C":{"type":"boolean"}},"required":["A","B"],"type":"object"}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// TestSchemaFaults: what JSON has nothing for is an error that names the field.
func TestSchemaFaults(t *testing.T) {
	t.Parallel()
	type Inner struct{ Notify chan int }
	for of, want := range map[reflect.Type]string{
		reflect.TypeFor[struct{ In []Inner }]():     "field In: asyncapi.Inner: field Notify: JSON has nothing for a chan int",
		reflect.TypeFor[struct{ M map[bool]int }](): "keys of type bool",
		reflect.TypeFor[struct{ F func() }]():       "JSON has nothing for a func()",
		reflect.TypeFor[complex128]():               "complex128",
		reflect.TypeFor[struct {
			A int `jsonschema:"minimum=x"`
		}](): `minimum="x" is no number`,
		reflect.TypeFor[struct {
			A int `jsonschema:"required"`
		}](): `there is no "required"; use title`,
		reflect.TypeFor[struct {
			A [2]func(int) string `json:"a,omitempty"`
		}](): "field a:",
	} {
		if _, err := newSchemas().body(of); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", of, err, want)
		}
	}
}
