package topology_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/harebus/harebus/topology"
)

// What a service has written can be compared and declared.
func ExampleRead() {
	t, err := topology.Read(strings.NewReader(`{"queues": [{"name": "audit.log", "arguments": {"x-max-length": 1000}}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Queues[0].Name, t.Queues[0].Arguments)
	// Output:
	// audit.log map[x-max-length:1000]
}

func TestReadNumbers(t *testing.T) {
	t.Parallel()
	got, err := topology.Read(strings.NewReader(`{"exchanges":[{"name":"e","kind":"headers"}],"bindings":[
		{"exchange":"e","key":"","queue":"q","arguments":{"a":7,"b":1.5,"c":"7","d":[1,{"e":9007199254740993}],"f":true}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": int64(7), "b": 1.5, "c": "7", "d": []any{int64(1), map[string]any{"e": int64(9007199254740993)}}, "f": true}
	if !reflect.DeepEqual(got.Bindings[0].Arguments, want) {
		t.Errorf("read %#v", got.Bindings[0].Arguments)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                   "EOF",
		`[]`:                                 "cannot unmarshal",
		`{"queue":[]}`:                       `unknown field "queue"`,
		`{"queues":[{"name":"amq.x"}]}`:      "belong to the broker",
		`{} {}`:                              "a file holds one",
		`{"queues":[{"name":"q","type":1}]}`: "cannot unmarshal number",
		`{"queues":[{"name":"q","arguments":{"x-max-length":1e400}}]}`: "x-max-length",
	} {
		if _, err := topology.Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
