package lanes

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// Parked is a key whose messages are parked, as an operator sees it.
type Parked struct {
	Key string `json:"key"`
	// Held says that the first message waits for an operator. Else it is retried, at the time Due.
	Held bool      `json:"held"`
	Due  time.Time `json:"due,omitzero"`
	// Waiting is how many messages are parked, the first one included.
	Waiting int `json:"waiting"`
	// ID, Type, Failures and Error are those of the first one.
	ID       string `json:"id"`
	Type     string `json:"type,omitempty"`
	Failures int    `json:"failures"`
	Error    string `json:"error,omitempty"`
}

// Describe describes a key by the headers of its first message.
func Describe(k Key, headers amqp.Table, n *Names) Parked {
	p := Parked{Key: k.Key, Held: k.First.Held, Due: k.First.Due, Waiting: k.Waiting, ID: k.First.ID}
	p.Failures, _ = field.ParseCount(headers[n.Retries])
	p.Error, _ = field.Text(headers[n.Details])
	return p
}
