package errorqueue

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/wire"
)

// key is what tells messages of an error queue apart: a hash of parking, id and body. A message
// without ErrorId has its properties and headers in it, too: two services may have parked the
// same event. Two messages with the same key are copies of one.
type key [16]byte

// keyOf is the key of a message.
func keyOf(c *Content, m *queue.Message) (k key) {
	h := sha256.New()
	h.Write(c.id[:])
	h.Write([]byte(c.MessageID))
	h.Write([]byte{0})
	h.Write(m.Body)
	if c.id == uuid.Nil {
		out := m.Without("", wire.OfOneDelivery)
		p := &out.Message
		fmt.Fprintf(h, "%q %q %q %q %q %q %q %d %d", p.ContentType, p.ContentEncoding, p.CorrelationId, p.ReplyTo, p.MessageId, p.Type, p.AppId,
			p.Priority, p.Timestamp.Unix())
		hashValue(h, p.Headers)
		h.Write(out.Table)
	}
	copy(k[:], h.Sum(nil))
	return k
}

// hashValue writes the value of a header in a form that is the same each time and on each machine.
func hashValue(h hash.Hash, value any) {
	switch v := value.(type) {
	case amqp.Table:
		fmt.Fprintf(h, "table %d ", len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			fmt.Fprintf(h, "%q ", name)
			hashValue(h, v[name])
		}
	case []any:
		fmt.Fprintf(h, "list %d ", len(v))
		for _, element := range v {
			hashValue(h, element)
		}
	case time.Time:
		fmt.Fprintf(h, "time %d ", v.Unix())
	default:
		fmt.Fprintf(h, "%T %q ", v, fmt.Sprint(v))
	}
}
