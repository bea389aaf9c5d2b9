package cloudevents

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/harebus/harebus/dialect"
)

// A client of AMQP 1.0 may send its body as data, or as a value with a type, such as text. RabbitMQ hands the former on as it is, and the latter encoded, with the
// property type below.
const encodedBody = "amqp-1.0"

var errSection = errors.New("its body is a value of AMQP 1.0 and neither data, nor text: have the sender use a data section")

// content is the body of a message: also that of one whose body is a text or bytes of AMQP 1.0.
func content(w *dialect.Wire) ([]byte, error) {
	const (
		binary8, text8   = 0xa0, 0xa1 // and a byte with the length
		binary32, text32 = 0xb0, 0xb1 // and four
	)
	value, ok := bytes.CutPrefix(w.Body, []byte{0x00, 0x53, 0x77}) // amqp-value
	if w.Properties.Type != encodedBody || !ok && !bytes.HasPrefix(w.Body, []byte{0x00, 0x53}) {
		return w.Body, nil
	}
	if !ok || len(value) == 0 {
		return nil, errSection
	}
	length, rest := -1, value[1:]
	switch value[0] {
	case binary8, text8:
		if len(rest) > 0 {
			length, rest = int(rest[0]), rest[1:]
		}
	case binary32, text32:
		const word = 4
		if len(rest) >= word {
			length, rest = int(binary.BigEndian.Uint32(rest)), rest[word:]
		}
	}
	if length != len(rest) {
		return nil, errSection
	}
	return rest, nil
}
