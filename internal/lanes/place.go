package lanes

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// Config is that of an ordered queue.
type Config struct {
	order.Config

	// Parking is the name of the parking queue.
	Parking string
	// Names are those of the headers.
	Names Names
}

// Of is the config of a queue; nil unless it is an ordered one.
func Of(c *order.Config, queue, prefix string) *Config {
	if c == nil {
		return nil
	}
	of := &Config{Config: *c, Parking: order.ParkingQueue(queue), Names: NamesOf(prefix)}
	if of.Header == "" {
		of.Header = prefix + KeyHeader
	}
	return of
}

// Settings is what all instances must have in common, as text.
func (c *Config) Settings() string {
	settings := fmt.Sprintf(ours+"%s, GiveUp %d, MaxParked %d", field.Quote(c.Header), c.GiveUp, c.MaxParked)
	if c.Divided() {
		settings += partitions + strconv.Itoa(c.Partitions)
	}
	return settings
}

// PartitionsIn is the number of partitions that settings say; 0 for an undivided queue.
func PartitionsIn(settings string) (n int) {
	if at := strings.LastIndex(settings, partitions); at >= 0 {
		n, _ = strconv.Atoi(settings[at+len(partitions):]) // 0 in what nobody of ours has written
	}
	return n
}

const ours, partitions = "Header ", ", Partitions "

// Redivided is the fault of an instance whose predecessor had another number of partitions. Messages of a key may still be in the partition that
// it had, so those behind them must not go to another one.
func (c *Config) Redivided(queue, settings string) error {
	mine, theirs := 0, PartitionsIn(settings)
	if c.Divided() {
		mine = c.Partitions
	}
	if !strings.HasPrefix(settings, ours) { // nobody of ours has written it
		return nil
	}
	if mine == theirs {
		return nil
	}
	return fmt.Errorf("the queue %s is divided into %d partitions by the instances that run, or ran before, and Consume.Order of this one says %d (0 is an undivided queue);"+
		" to change that see \"The number of partitions\" in docs/ordering.md", field.Quote(queue), theirs, mine)
}

// KeyHeader is the header of the key, after the prefix.
const KeyHeader = "Key"

// Names are the headers of a message in the parking queue.
type Names struct {
	// Key is that of the message as text, Content the id by which it is known again if that is not its own, Place its place, and Route how it
	// came into a partition.
	Key, Content, Place, Route string
	// These are headers of every message: its id and type, how often it has failed, why, and since when.
	ID, Type, Retries, Details, FirstFailed string
	// Note says that it is no message of a sender but a note of the instances to themselves, or the
	// word of an operator.
	Note string
}

// NamesOf are those of a dialect.
func NamesOf(prefix string) Names {
	return Names{Key: prefix + "OrderKey", Content: prefix + "OrderContent", Place: prefix + "OrderPlace", Route: prefix + "OrderRoute", Note: prefix + "OrderNote",
		ID: prefix + "MessageId", Type: prefix + "MessageType", Retries: prefix + "ErrorRetries", Details: prefix + "ErrorDetails",
		FirstFailed: prefix + "FirstFailed"}
}

// Strip removes them.
func (n *Names) Strip(headers amqp.Table) {
	delete(headers, n.Key)
	delete(headers, n.Content)
	delete(headers, n.Place)
	delete(headers, n.Route)
	delete(headers, n.Note)
}

// longestKey is how long a key may be. A sender that does not use harebus can send a longer one.
const longestKey = 255

// KeyOf is the key in a header, as text. A value of another type counts as it is printed, and of a
// long one its beginning and its hash, so that those with the same one are in order all the same.
func KeyOf(headers amqp.Table, name string) string {
	value, ok := headers[name]
	if !ok || value == nil {
		return ""
	}
	key, text := field.Text(value)
	if !text {
		key = strings.ToValidUTF8(fmt.Sprintf("%v", value), "\uFFFD")
	}
	if len(key) > longestKey {
		sum := sha256.Sum256([]byte(key))
		key = strings.ToValidUTF8(key[:64], "") + "…" + hex.EncodeToString(sum[:])
	}
	return key
}

// Place is that of a message in the parking queue. A message keeps its number for as long as it is
// there; each copy of it that replaces another has a higher Copy. Owner is the tenure that has sent it.
type Place struct {
	Number, Copy int64
	Owner        string
	Due          time.Time
	Held         bool
}

// Write puts the place and the key into the headers of a copy.
func (p Place) Write(n *Names, key string, headers amqp.Table) {
	due := int64(0)
	if !p.Due.IsZero() {
		due = p.Due.UnixMicro()
	}
	headers[n.Key] = key
	headers[n.Place] = fmt.Sprintf("%d %d %d %t %s", p.Number, p.Copy, due, p.Held, p.Owner)
}

var errPlace = errors.New("not a place")

// Most is the highest number in a note or a place that is taken for one of ours. It leaves room for further ones.
const Most = 1 << 61

func within(n, least int64) bool { return least <= n && n <= Most }

// ReadPlace reads what Write has written.
func ReadPlace(n *Names, headers amqp.Table) (p Place, err error) {
	text, _ := headers[n.Place].(string)
	parts := strings.Fields(text)
	if len(parts) != 5 {
		return p, errPlace
	}
	number, err1 := strconv.ParseInt(parts[0], 10, 64)
	copied, err2 := strconv.ParseInt(parts[1], 10, 64)
	due, err3 := strconv.ParseInt(parts[2], 10, 64)
	held, err4 := strconv.ParseBool(parts[3])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return p, fmt.Errorf("%w: %w", errPlace, err)
	}
	if !within(number, 1) || !within(copied, 0) || !within(due, 0) {
		return p, errPlace
	}
	p = Place{Number: number, Copy: copied, Held: held, Owner: parts[4]}
	if due != 0 { // no message is put off for longer than MaxDelay
		p.Due = time.UnixMicro(min(due, time.Now().Add(topology.MaxDelay).UnixMicro()))
	}
	return p, nil
}

// Note is a message of the instances of a service to themselves, or of an operator.
type Note struct {
	// Kind is one of those below, and About what it is about: see there.
	Kind, About string
	Owner       string
	// Fence is the fencing number of the owner; 0 in what is no note of an owner.
	Fence int64
	// Ended is how many tenures in a row have ended well, up to that of an owner that leaves; 0 in what is no note of such a one.
	Ended int64
}

// The kinds of notes.
const (
	// Join is left by whoever waits for the parking queue; About are its settings. The owner keeps one of its
	// own, with its fencing number, so that the next owner gets it and knows by it that it is the owner.
	Join = "join"
	// Barrier comes back to the owner that has sent it, when everything before it has come.
	Barrier = "barrier"
	// Trial says that a message is about to be handled that perhaps ends the process; About is its id.
	Trial = "trial"
	// Retry and Discard are the words of an operator about the message that holds a key; About is
	// the key. All has them be about all keys that are held. The reply is the number of messages; that to List
	// is a list of what is parked.
	Retry   = "retry"
	Discard = "discard"
	List    = "list"
	// All is About in a word that is for every key: no key is empty.
	All = ""
)

// Write makes the headers of a note. A key is its own header, because it may be any text.
func (n Note) Write(names *Names) amqp.Table {
	return amqp.Table{names.Note: fmt.Sprintf("%s %s %d %d", n.Kind, n.Owner, n.Fence, n.Ended), names.Key: n.About}
}

// ReadNote reads a note; false if the message is none.
func ReadNote(n *Names, headers amqp.Table) (Note, bool) {
	text, ok := headers[n.Note].(string)
	kind, rest, _ := strings.Cut(text, " ")
	owner, numbers, _ := strings.Cut(rest, " ")
	fence, ended, _ := strings.Cut(numbers, " ")
	about, _ := headers[n.Key].(string)
	number, _ := strconv.ParseInt(fence, 10, 64)  // 0 in what is no note of an owner
	tenures, _ := strconv.ParseInt(ended, 10, 64) // likewise
	return Note{Kind: kind, About: about, Owner: owner, Fence: min(max(number, 0), Most), Ended: min(max(tenures, 0), Most)}, ok
}
