package jsontext_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/jsontext"
)

// members takes a document apart.
func members(doc string) (map[string]string, error) {
	all := map[string]string{}
	err := jsontext.Object([]byte(doc), func(key []byte, v jsontext.Value) error {
		all[string(key)] = string(v)
		return nil
	})
	return all, err
}

// TestObject: every member is found, whatever is in it.
func TestObject(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]int{
		`{}`: 0, ` { } `: 0, `{"a":1}`: 1, "{\n \"a\" : \"}\\\"\" , \"b\":[{\"c\":\"]\"},[]]}": 2, `{"a\u0062":null,"é":-1.5e3}`: 2,
		`{"a":"\\\\"}`: 1, `{"a":"\\\""}`: 1,
	} {
		got, err := members(doc)
		var decoded map[string]json.RawMessage
		if err := json.Unmarshal([]byte(doc), &decoded); err != nil {
			t.Fatal(err)
		}
		if err != nil || len(got) != want {
			t.Errorf("%s: %v, %v", doc, got, err)
		}
		for key, value := range decoded {
			if got[key] != string(value) {
				t.Errorf("%s: %s is %s, want %s", doc, key, got[key], value)
			}
		}
	}
	for _, doc := range []string{
		"", "[]", "null", `{`, `{"a"}`, `{"a":}`, `{"a":1`, `{"a":1,}`, `{"a":1 "b":2}`, `{"a":"x}`, `{"a":{"b":1}`, `{a:1}`, `{"a":1}x`, `{1:2}`, "\uFEFF{}", `{"a":"\"}`,
		strings.Repeat("[", 1<<20), strings.Repeat(`{"a":`, 1<<18),
	} {
		if got, err := members(doc); err == nil {
			t.Errorf("%.40s: %v", doc, got)
		}
	}
}

// FuzzObject: what encoding/json reads is read alike.
func FuzzObject(f *testing.F) {
	for _, doc := range []string{`{"a":1}`, `{"a":"\\\"","b":[1,{"c":"]"}]}`, `{"a":{"b":null}}`, "{", `{"a":1,"a":2}`} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		got, err := members(doc)
		var want map[string]json.RawMessage
		if json.Unmarshal([]byte(doc), &want) != nil || want == nil {
			return
		}
		if err != nil || len(got) != len(want) {
			t.Fatalf("%q: %v, %v; want %v", doc, got, err, want)
		}
		for key, value := range want {
			if got[key] != string(value) {
				t.Errorf("%q: %q is %q, want %q", doc, key, got[key], value)
			}
		}
	})
}

// TestEncoded: a content encoding is the reason only for what does not begin as JSON does.
func TestEncoded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body, encoding string
		want           bool
	}{
		{"\x1f\x8b\b", "gzip", true}, {"\x1f\x8b\b", "GZIP, utf-8", true}, {"\xfe\xff\x00{", "UTF-16", true}, {"{\x00}\x00", "utf-16le", true}, {"b", "br", true},
		{"\x1f\x8b\b", "", false}, {"x", " UTF-8 ", false}, {"x", "utf_8", false}, {"x", "binary", false}, {"", "gzip", false}, {" \n", "gzip", false},
		{"{", "gzip", false}, {"\uFEFF [", "gzip", false}, {`{"a":1}`, "iso-8859-1", false},
	} {
		if err := jsontext.Encoded([]byte(c.body), c.encoding); (err != nil) != c.want || err != nil && !strings.Contains(err.Error(), `"`+c.encoding+`"`) {
			t.Errorf("%q in %q: %v", c.body, c.encoding, err)
		}
	}
}
