package routing

import (
	"strings"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/topology"
)

// Replies is a reply queue with its binding. It is not exclusive: a PikaBus service binds the
// queue that it replies to, and the broker refuses that for the exclusive queue of another
// connection.
func (x Exchanges) Replies(queue string) topology.Topology {
	return topology.Topology{
		Queues:   []topology.Queue{{Name: queue, Type: topology.Classic, Arguments: map[string]any{"x-expires": repliesExpire.Milliseconds()}}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: queue, Queue: queue}},
	}
}

// repliesMark stands in the name of a reply queue, between that of its owner and random
// digits.
const repliesMark = ".replies."

// ReplyQueue makes the name of a reply queue. An owner with a long name is cut.
func ReplyQueue(owner string) string {
	id := messageid.New()
	digits := repliesMark + id[len(id)-randomDigits:]
	if most := field.MaxShortString - len(digits); len(owner) > most {
		owner = strings.ToValidUTF8(owner[:most], "")
	}
	return owner + digits
}

// Owner is the owner of a reply queue. For any other address the address itself is returned.
func Owner(address string) string {
	at := strings.LastIndex(address, repliesMark)
	if at < 0 || len(address)-at-len(repliesMark) != randomDigits {
		return address
	}
	return address[:at]
}

const randomDigits = 12
