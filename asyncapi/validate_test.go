package asyncapi

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// validating is a setup whose handler counts, behind the middleware.
func validating(t testing.TB) (*harebus.Setup, *int) {
	t.Helper()
	validate, err := Validate(placeOrder{}, &orderPlaced{})
	if err != nil {
		t.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: brokertest.New().Dial,
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{validate}},
	})
	if err != nil {
		t.Fatal(err)
	}
	handled := new(int)
	setup.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, _ *harebus.Message) error { *handled++; return nil })
	return setup, handled
}

const goodOrder = `{"id": "7", "lines": [{"sku": "secret", "amount": 1}], "total": 1.5, "unknown": null}`

// TestValidate: what does not fit is parked at once with the field and the rule, and never with the value.
func TestValidate(t *testing.T) {
	t.Parallel()
	setup, handled := validating(t)
	for name, row := range map[string]struct {
		message harebus.Message
		want    string // in the reason; empty for a message that is handled
	}{
		"good":                  {harebus.Message{Type: "PlaceOrder", Body: []byte(goodOrder)}, ""},
		"with a mark":           {harebus.Message{Type: "PlaceOrder", Body: []byte("\ufeff" + goodOrder)}, ""},
		"with a charset":        {harebus.Message{Type: "PlaceOrder", ContentType: "application/json; charset=utf-8", Body: []byte(`{}`)}, "breaks the rule required"},
		"null lines":            {harebus.Message{Type: "PlaceOrder", Body: []byte(`{"id": "7", "lines": null, "total": 0}`)}, ""},
		"no id":                 {harebus.Message{Type: "PlaceOrder", Body: []byte(`{"lines": [], "total": 0}`)}, `"/" breaks the rule required`},
		"a bound":               {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, `"amount": 1`, `"amount": 0`, 1))}, `"/lines/0/amount" breaks the rule minimum`},
		"a text for a number":   {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, "1.5", `"secret"`, 1))}, `"/total" breaks the rule type`},
		"null":                  {harebus.Message{Type: "PlaceOrder", Body: []byte(`null`)}, `"/" breaks the rule type`},
		"no JSON":               {harebus.Message{Type: "PlaceOrder", Body: []byte(`secret`)}, "the body is not JSON"},
		"nothing":               {harebus.Message{Type: "PlaceOrder"}, "the body is not JSON"},
		"two values":            {harebus.Message{Type: "PlaceOrder", Body: []byte(`{} {}`)}, "the body is not JSON"},
		"a pointer type":        {harebus.Message{Type: "OrderPlaced", Body: []byte(`{"id": 7}`)}, `"/id" breaks the rule type`},
		"another type":          {harebus.Message{Type: "Other", Body: []byte(`secret`)}, ""},
		"text":                  {harebus.Message{Type: "PlaceOrder", ContentType: "text/plain", Body: []byte(`{"lines": [], "total": 0}`)}, "breaks the rule required"},
		"bytes":                 {harebus.Message{Type: "PlaceOrder", ContentType: "application/octet-stream", Body: []byte(`{}`)}, "breaks the rule required"},
		"another name of JSON":  {harebus.Message{Type: "PlaceOrder", ContentType: "text/json", Body: []byte(`{}`)}, "breaks the rule required"},
		"text that is none":     {harebus.Message{Type: "PlaceOrder", ContentType: "text/plain", Body: []byte(`secret`)}, "the body is not JSON"},
		"text that fits":        {harebus.Message{Type: "PlaceOrder", ContentType: "text/plain", Body: []byte(goodOrder)}, ""},
		"another content type":  {harebus.Message{Type: "PlaceOrder", ContentType: "application/x-protobuf", Body: []byte(goodOrder)}, "content type is not that of JSON"},
		"no content type":       {harebus.Message{Type: "PlaceOrder", ContentType: "json/;", Body: []byte(goodOrder)}, "content type is not that of JSON"},
		"a name twice":          {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, `"amount": 1`, `"amount": -5, "amount": 1`, 1))}, `"/lines/0/amount" is there twice`},
		"a name in capitals":    {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, `"amount": 1`, `"amount": 1, "AMOUNT": -5`, 1))}, `"/lines/0/AMOUNT" differs from the name of the field only in case`},
		"an optional one":       {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, `"unknown"`, `"Note"`, 1))}, `"/Note" differs`},
		"half":                  {harebus.Message{Type: "PlaceOrder", Body: []byte(`{"id": "7",`)}, "the body is not JSON"},
		"a long number":         {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, "1.5", strings.Repeat("9", 401), 1))}, `"/total" is a number with too many digits`},
		"a large exponent":      {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, "1.5", "1e1000001", 1))}, `"/total" is a number with too many digits`},
		"a huge exponent":       {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, `"unknown": null`, `"unknown": [1e-99999999999999999999]`, 1))}, `"/unknown/0" is a number with too many digits`},
		"a large number":        {harebus.Message{Type: "PlaceOrder", Body: []byte(strings.Replace(goodOrder, "1.5", "1e300", 1))}, ""},
		"a hundred violations":  {harebus.Message{Type: "PlaceOrder", Body: []byte(`{"id": "7", "total": 0, "lines": [` + strings.Repeat("1,", 99) + `1]}`)}, `"/lines/4" breaks the rule type`},
		"1 MB":                  {harebus.Message{Type: "PlaceOrder", Body: bytes.Repeat([]byte("["), 1<<20)}, "the body is not JSON"},
		"a name that is a text": {harebus.Message{Type: "PlaceOrder", Body: []byte(`{"id": "7", "total": 0, "lines": {"` + strings.Repeat("a", 500) + `": 1}}`)}, `"/lines" breaks the rule type`},
	} {
		*handled = 0
		done, err := setup.Invoke(t.Context(), &row.message)
		if err != nil {
			t.Fatal(err)
		}
		var rejected *harebus.RejectError
		switch {
		case row.want == "":
			if done.Err != nil || *handled != 1 {
				t.Errorf("%s: %v, handled %d times", name, done.Err, *handled)
			}
		case !errors.As(done.Err, &rejected) || rejected.Reason != "bad-payload" || !done.Decision.Parks() || *handled != 0:
			t.Errorf("%s: %v, %v, handled %d times", name, done.Err, done.Decision, *handled)
		default:
			if text := done.Err.Error(); !strings.Contains(text, row.want) || strings.Contains(text, "secret") || len(text) > 1000 {
				t.Errorf("%s: %s, want %s", name, text, row.want)
			}
		}
	}
}

// TestValidateIsBounded: small bodies of a stranger do not cost much memory.
func TestValidateIsBounded(t *testing.T) {
	all, err := compile([]any{placeOrder{}})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"exponents":  `{"id": "7", "total": 0, "lines": [` + strings.Repeat(`{"sku": "a", "amount": -1e1000000},`, 1800) + `{}]}`,
		"violations": `{"id": "7", "total": 0, "lines": [` + strings.Repeat("1,", 2<<20) + `1]}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := fits(all["PlaceOrder"], []byte(body))
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; err == nil || used > 64<<20 {
			t.Errorf("%s: %v, %d MB", name, err, used>>20)
		}
	}
}

// TestValidateFaults: what has no schema is refused at the call.
func TestValidateFaults(t *testing.T) {
	t.Parallel()
	for want, values := range map[string][]any{
		"a string has no method MessageType": {"x"}, "a <nil> has no method": {nil}, "a *asyncapi.orderPlaced has no": {(*orderPlaced)(nil)},
		`two types have the wire name "PlaceOrder"`: {placeOrder{}, &placeOrder{}}, "JSON has nothing for a chan int": {wrong{}},
		"message \"badPattern\"": {badPattern{}},
	} {
		if _, err := Validate(values...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Validate(); err != nil {
		t.Error(err)
	}
}

type badPattern struct {
	A string `jsonschema:"pattern=("`
}

func (badPattern) MessageType() string { return "badPattern" }

// BenchmarkValidate has a body of 256 bytes.
func BenchmarkValidate(b *testing.B) {
	all, err := compile([]any{placeOrder{}})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"id": "7", "lines": [{"sku": "` + strings.Repeat("a", 170) + `", "amount": 1}], "total": 1.5, "note": "abc"}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := fits(all["PlaceOrder"], body); err != nil {
			b.Fatal(err)
		}
	}
}
