package publish

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// The head of a message that is stored, all numbers big-endian: a version, the operation,
// two bytes of flags, eight of the time when it is due, in nanoseconds since 1970 (0 is at
// once), and the AMQP properties as they stand in a content header frame.
const (
	headVersion = 1
	headFixed   = 1 + 1 + 2 + 8
)

// headFlags are the bits of the flags, in the order of their fields. New ones come last.
func (m *Message) headFlags() []*bool {
	return []*bool{&m.Mandatory, &m.ViaDefault, &m.Several, &m.Foreign, &m.Copied, &m.Cancels, &m.Ticket, &m.Fanout}
}

// Head is everything of a message but its exchange, key and body, in a form that every
// later version reads.
func (m *Message) Head() ([]byte, error) {
	head := []byte{headVersion, byte(m.Op)} //nolint:gosec // a small number
	var flags uint16
	for bit, set := range m.headFlags() {
		if *set {
			flags |= 1 << bit
		}
	}
	head = binary.BigEndian.AppendUint16(head, flags)
	var due int64
	if !m.Due.IsZero() {
		due = m.Due.UnixNano()
	}
	head = binary.BigEndian.AppendUint64(head, uint64(due)) //nolint:gosec // two's complement
	return wire.AppendProperties(head, &m.Publishing)
}

// OpenHead makes a message of its head. The caller checks the operation.
func OpenHead(head []byte) (*Message, error) {
	if len(head) < headFixed {
		return nil, fmt.Errorf("the head has %d bytes, fewer than %d", len(head), headFixed)
	}
	if head[0] != headVersion {
		return nil, fmt.Errorf("the head has version %d; this harebus reads %d", head[0], headVersion)
	}
	m := &Message{Op: int8(head[1])} //nolint:gosec // the caller checks it
	flags, fields := binary.BigEndian.Uint16(head[2:]), m.headFlags()
	for bit, set := range fields {
		*set = flags&(1<<bit) != 0
	}
	if flags>>len(fields) != 0 {
		return nil, fmt.Errorf("the head has the unknown flags %#x", flags)
	}
	if due := int64(binary.BigEndian.Uint64(head[4:])); due != 0 { //nolint:gosec // two's complement
		m.Due = time.Unix(0, due)
	}
	var d amqp.Delivery
	if err := wire.ReadProperties(head[headFixed:], &d); err != nil {
		return nil, err
	}
	m.Publishing = wire.FromDelivery(&d)
	if m.Cancels && m.Publishing.MessageId == "" {
		return nil, errors.New("the head is of a cancellation without a message id")
	}
	return m, nil
}
