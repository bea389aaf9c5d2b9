package wire

import (
	"encoding/binary"
	"iter"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RawTable is a header table as it came, with its length. A value that clients cannot
// read has a length too, so entries can be kept or left out without decoding them.
type RawTable []byte

// Readable decodes the entries that can be read. whole is false if the bytes are no table.
func (t RawTable) Readable() (headers amqp.Table, whole bool) {
	d := t.decoder()
	headers = make(amqp.Table)
	for key, value := range d.entries() {
		one := decoder{b: value}
		if v := one.field(0); !one.bad {
			headers[key] = v
		}
	}
	return headers, !d.bad
}

// Without is a copy of a whole table that lacks some entries. The others are as they came.
func (t RawTable) Without(drop func(key string) bool) RawTable {
	d := t.decoder()
	kept := make(RawTable, prefix, max(prefix, len(t)))
	for key, value := range d.entries() {
		if !drop(key) {
			kept = append(append(append(kept, byte(len(key))), key...), value...)
		}
	}
	binary.BigEndian.PutUint32(kept, uint32(len(kept)-prefix)) //nolint:gosec // no longer than t
	return kept
}

// decoder is for the entries of the table.
func (t RawTable) decoder() *decoder {
	d := &decoder{b: t}
	if d.number(prefix) != uint64(len(d.b)-d.at) {
		d.bad = true
	}
	return d
}

// entries are the keys and the values, each with its kind, of what is left in d.
func (d *decoder) entries() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for !d.bad && d.at < len(d.b) {
			key, start := d.string(d.number(1)), d.at
			d.skip()
			if d.bad || !yield(key, d.b[start:d.at]) {
				return
			}
		}
	}
}

// skip passes over a value.
func (d *decoder) skip() {
	var size uint64
	switch kind := d.number(1); kind {
	case 'S', 'x', 'A', 'F':
		size = d.number(4)
	case 'V':
	default:
		if size = uint64(sizes[kind]); size == 0 { //nolint:gosec // not negative
			d.bad = true
		}
	}
	if d.has(size) {
		d.at += int(size) //nolint:gosec // no more than len(b)
	}
}
