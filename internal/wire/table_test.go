package wire_test

import (
	"bytes"
	"slices"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// entries is a table with its length. Each entry is a key, then a kind and a value.
func entries(all ...string) wire.RawTable {
	var t []byte
	for i := 0; i < len(all); i += 2 {
		t = append(append(append(t, byte(len(all[i]))), all[i]...), all[i+1]...)
	}
	return append([]byte{0, 0, byte(len(t) >> 8), byte(len(t))}, t...)
}

// nested is a table as a value, so many levels deep.
func nested(depth int) string {
	value := "V"
	for range depth {
		value = "F" + string(entries("k", value))
	}
	return value
}

// TestRawTable: each kind of value can be passed over, left out and kept, and what can be read is.
func TestRawTable(t *testing.T) {
	t.Parallel()
	deep := nested(40)
	all := []string{
		"deep", deep, "text", "S\x00\x00\x00\x02hi", "bytes", "x\x00\x00\x00\x01\xff", "list", "A\x00\x00\x00\x03b\x07V", "nothing", "V",
		"yes", "t\x01", "int16", "s\x00\x05", "decimal", "D\x02\x00\x00\x00\x07", "long", "l\x00\x00\x00\x00\x00\x00\x00\x09", "", "b\x01",
	}
	table := entries(all...)
	headers, whole := table.Readable()
	if !whole || len(headers) != len(all)/2-1 || headers["text"] != "hi" || headers["long"] != int64(9) || headers[""] != int8(1) ||
		headers["decimal"] != (amqp.Decimal{Scale: 2, Value: 7}) || headers["deep"] != nil {
		t.Errorf("whole %v, read %v", whole, headers)
	}
	if kept := table.Without(func(string) bool { return false }); !bytes.Equal(kept, table) {
		t.Error("nothing was left out and it is another table")
	}
	for i := 0; i < len(all); i += 2 {
		rest := slices.Delete(slices.Clone(all), i, i+2)
		if kept := table.Without(func(key string) bool { return key == all[i] }); !bytes.Equal(kept, entries(rest...)) {
			t.Errorf("without %q it is %q", all[i], kept)
		}
	}
	if none := table.Without(func(string) bool { return true }); !bytes.Equal(none, []byte{0, 0, 0, 0}) {
		t.Errorf("without everything it is %q", none)
	}
}

// TestBrokenTable: bytes that are no table are found out, and never read beyond their end.
func TestBrokenTable(t *testing.T) {
	t.Parallel()
	whole := entries("a", "b\x01", "deep", nested(40))
	for n := range whole {
		if _, ok := whole[:n].Readable(); ok {
			t.Errorf("%d of %d bytes pass for a table", n, len(whole))
		}
		whole[:n].Without(func(string) bool { return false })
	}
	for name, table := range map[string]wire.RawTable{
		"unknown kind": entries("a", "?\x01"), "no value": entries("a", ""), "a value beyond the end": entries("a", "S\xff\xff\xff\xff"),
		"more than it says": append(entries("a", "V"), 0),
	} {
		if _, ok := table.Readable(); ok {
			t.Errorf("%s: it passes for a table", name)
		}
	}
}
