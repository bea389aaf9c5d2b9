package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Ticket names one deferred message, to cancel it before it is due. It can be stored
// as text: see [Ticket.String] and [ParseTicket].
type Ticket struct {
	// ID is the message id. Every copy of the message has it, and all of them are
	// cancelled.
	ID string
	// Due is when the message is due, by the clock of the process that deferred it.
	Due time.Time
}

// ticketTime is how a ticket begins: a time in UTC, cut to whole milliseconds.
const ticketTime = "20060102T150405.000Z"

// String is the ticket as text, such as 20261129T060000.000Z-0193a7c2: the time when
// the message is due, and the message id.
func (t Ticket) String() string { return t.Due.UTC().Format(ticketTime) + "-" + t.ID }

// ParseTicket reads what [Ticket.String] has written.
func ParseTicket(text string) (Ticket, error) {
	if len(text) <= len(ticketTime) || text[len(ticketTime)] != '-' {
		return Ticket{}, fmt.Errorf("topology: parse ticket %s: it does not begin with a time such as %s-", quoted(text), ticketTime)
	}
	due, err := time.Parse(ticketTime, text[:len(ticketTime)])
	if err != nil {
		return Ticket{}, fmt.Errorf("topology: parse ticket %s: %w", quoted(text), err)
	}
	t := Ticket{ID: text[len(ticketTime)+1:], Due: due}
	err = t.Validate()
	if err == nil && t.String() != text { // time.Parse takes a comma for the point
		err = fmt.Errorf("its time is not written as %s", ticketTime)
	}
	if err != nil {
		return Ticket{}, fmt.Errorf("topology: parse ticket %s: %w", quoted(text), err)
	}
	return t, nil
}

// MarshalText is String, for JSON and databases. It fails for a ticket that is not valid.
func (t Ticket) MarshalText() ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("topology: marshal ticket: %w", err)
	}
	return []byte(t.String()), nil
}

// UnmarshalText is [ParseTicket].
func (t *Ticket) UnmarshalText(text []byte) error {
	parsed, err := ParseTicket(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// Validate says what is wrong with the ticket. The zero Ticket is not valid.
func (t Ticket) Validate() error {
	switch {
	case t.ID == "" || t.Due.IsZero():
		return errors.New("the ticket is empty")
	case len(t.ID) > maxShortString || !utf8.ValidString(t.ID):
		return fmt.Errorf("the message id %s is longer than %d bytes or not valid UTF-8", quoted(t.ID), maxShortString)
	case t.Due.Year() > 9999 || t.Due.Year() < 1:
		return fmt.Errorf("the year %d is out of range", t.Due.Year())
	}
	return nil
}

// gates is the number of gates. RabbitMQ 3.10 searches all bindings of an exchange for a
// message with several keys, so the cancellations are spread over a few exchanges.
const gates = 16

// gateKeys are the routing keys that lead to the gates.
var gateKeys = func() (keys [gates]string) {
	for n := range keys {
		keys[n] = fmt.Sprintf("gate.%d", n)
	}
	return keys
}()

// gateOf is the number of the gate that a message passes. It is FNV-1a, which must never
// change: messages and cancellations with another one would miss each other.
func gateOf(id string) int {
	const offset, prime = 2166136261, 16777619
	hash := uint32(offset)
	for i := range len(id) {
		hash = (hash ^ uint32(id[i])) * prime
	}
	return int(hash % gates)
}

// label is the key in the CC header by which a cancellation finds a message.
func (t Ticket) label() string {
	const longest = 64 // the broker repeats it for each queue on the way
	if len(t.ID) <= longest {
		return "id:" + t.ID
	}
	sum := sha256.Sum256([]byte(t.ID))
	return "id#" + hex.EncodeToString(sum[:])
}

// RouteTicket is [Delays.Route] for a message that can be cancelled: it passes a gate
// when it is due. id is its message id. See [Delays.Cancellation].
func (d Delays) RouteTicket(delay time.Duration, exchange, key, id string) (Route, error) {
	route, err := d.way(delay, exchange, key, roundUp)
	if err != nil || len(route.CC) == 0 {
		return route, err
	}
	due := d.dueLabel(exchange, key)
	route.exit = d.prefixed(due)
	route.Key = gateKeys[gateOf(id)]
	route.CC = append(route.CC, due, Ticket{ID: id}.label())
	return route, nil
}

// gateTopology is what lies between the delay queues and the exits. A message for a gate
// carries three keys: that of the gate, that of its exit, and its id. Nothing is bound to
// a gate but cancellations, so a message that is not cancelled takes the alternate
// exchange, to which the exits are bound.
func (d Delays) gateTopology() Topology {
	exits := d.name("exits")
	t := Topology{Exchanges: []Exchange{{Name: exits, Kind: Direct, Arguments: map[string]any{"alternate-exchange": d.name("lost")}}}}
	for _, key := range gateKeys {
		gate := d.name(key)
		t.Exchanges = append(t.Exchanges, Exchange{Name: gate, Kind: Direct, Arguments: map[string]any{"alternate-exchange": exits}})
		t.Bindings = append(t.Bindings, Binding{Exchange: d.name("out"), Key: key, ToExchange: gate})
	}
	return t
}

// dueLabel is the key in the CC header by which the exchange of the exits finds an exit:
// the name of the exit without the prefix. The destination can be read from it unless it
// is too long for a name.
func (d Delays) dueLabel(exchange, key string) string {
	if readable := "due/" + escape.Replace(exchange) + "/" + key; d.prefixed(readable) <= maxShortString {
		return readable
	}
	sum := sha256.Sum256([]byte(exchange + "\x00" + key))
	return "due#" + hex.EncodeToString(sum[:])
}

// prefixed is the length of a name with the prefix.
func (d Delays) prefixed(suffix string) int {
	return len(cmp.Or(d.Prefix, DefaultDelayPrefix)) + len(".") + len(suffix)
}

// Cancellation returns the binding that cancels the message with this id: when the
// message is due, its gate leads it to the queue of the cancelled instead of to its
// destination. It works for a message that the broker has not let go of yet, and needs
// [Delays.Base] and [Delays.Cancelled]. Remove it when the message has been caught:
// each costs the broker 2 to 6 kB. To remove it before the message is due takes the
// cancellation back.
func (d Delays) Cancellation(id string) Binding {
	return Binding{Exchange: d.name(gateKeys[gateOf(id)]), Key: Ticket{ID: id}.label(), Queue: d.name(cancelled)}
}

// The queues of the cancelled.
const (
	cancelled         = "cancelled"
	cancelledSettled  = "cancelled.settled"
	cancelledKept     = "cancelled.kept"
	cancelledTime     = 10 * time.Minute
	cancelledKeptTime = 7 * day
)

// Cancelled returns the three queues of cancelled messages, in the order in which a
// message comes through them. In the first one it waits for ten minutes, in which the
// gate still catches copies of it. In the second one it waits until somebody removes its
// binding and rejects it. The third keeps it for seven days.
func (d Delays) Cancelled() Topology {
	passing := func(name, next string) Queue {
		arguments := passingOn(cancelledTime, "")
		arguments["x-dead-letter-routing-key"] = d.name(next)
		return Queue{Name: d.name(name), Arguments: arguments}
	}
	settled := passing(cancelledSettled, cancelledKept)
	delete(settled.Arguments, "x-message-ttl")
	kept := Queue{Name: d.name(cancelledKept), Arguments: map[string]any{
		"x-message-ttl": cancelledKeptTime.Milliseconds(), "x-delivery-limit": LookLimit,
	}}
	return Topology{Queues: []Queue{passing(cancelled, cancelledSettled), settled, kept}}
}
