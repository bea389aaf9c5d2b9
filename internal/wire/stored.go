package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// AppendProperties appends the properties of a message as they stand in a content
// header frame, behind the size of the body (AMQP 0-9-1, 2.3.5.2).
func AppendProperties(b []byte, p *amqp.Publishing) ([]byte, error) {
	e := encoder{buf: append(b, 0, 0)}
	mask := e.properties(p)
	binary.BigEndian.PutUint16(e.buf[len(b):], mask)
	if e.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnencodable, e.err)
	}
	return e.buf, nil
}

// ReadProperties reads what AppendProperties has written, and nothing else.
func ReadProperties(b []byte, to *amqp.Delivery) error {
	const unknown = hasClusterID | hasClusterID>>1 | hasClusterID>>2 // nobody writes them
	if len(b) > 1 && b[1]&unknown != 0 {
		return errProperties
	}
	in := decoder{b: b, text: string(b)}
	switch err := in.properties(to); {
	case err != nil:
		return err
	case in.raw != nil:
		return &UnreadableError{Raw: in.raw}
	case in.at != len(b):
		return errors.New("something stands behind the properties")
	}
	return nil
}
