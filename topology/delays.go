package topology

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DefaultDelayPrefix starts the names of all delay objects when
// [Delays.Prefix] is empty.
const DefaultDelayPrefix = "harebus.delay"

// Delays is the infrastructure that holds messages until they are due, made of
// ordinary queues: no plugin, no database.
//
// Each of a fixed number of quorum queues keeps a message for one fixed time and
// passes it on. A message visits a few of them one after the other, chosen so
// that their times add up to the delay asked for, then the exit queue of its
// destination. Its way is written into its CC header, so nothing is declared or
// bound per message, and a destination that takes nothing holds up only itself.
//
// Use:
//   - declare [Delays.Topology] once per broker,
//   - declare [Delays.Exit] once per destination,
//   - publish, mandatory and confirmed, as [Delays.Route] says.
//
// The zero value is ready to use. docs/delays.md has the guarantees and figures.
type Delays struct {
	// Prefix starts the name of every exchange and queue, so that one pattern
	// grants the permissions. Defaults to DefaultDelayPrefix. Two prefixes on
	// one virtual host are two independent sets of queues.
	Prefix string
}

// Route says how to publish a message so that it is delivered after Delay.
//
// The message must be persistent and mandatory. It must have no expiration,
// which would fire inside a delay queue and deliver early, and no header that a
// broker wrote on an earlier journey (x-death and its like), by which the
// broker takes the second visit to a queue for a cycle and drops the message.
// Leave [HeaderRoom] bytes of the header frame free.
type Route struct {
	// Exchange and Key are those to publish with.
	Exchange string
	Key      string
	// CC is the value of the message's CC header; no header when empty.
	CC []string
	// Delay is what will really elapse: the delay asked for, rounded up. Zero
	// means that Exchange and Key are the destination itself.
	Delay time.Duration
}

// HeaderRoom is the number of bytes by which the headers of a message grow at
// most on its way: the broker records every queue it came through.
const HeaderRoom = 8 << 10

// level is a set of delay queues whose times are the multiples 1…digits of unit.
type level struct {
	unit   time.Duration
	digits int
}

const day = 24 * time.Hour

// levels are the delay queues, finest first. Each unit is a multiple of the one
// before it, and the digits of a level fill the gap up to the next unit.
var levels = []level{
	{4 * time.Millisecond, 24},
	{100 * time.Millisecond, 49},
	{5 * time.Second, 11},
	{time.Minute, 9},
	{10 * time.Minute, 5},
	{time.Hour, 5},
	{6 * time.Hour, 3},
	{day, 9},
	{10 * day, 9},
	{100 * day, 9},
}

// MaxDelay is the longest delay there is: one millisecond for each of the
// queues on the way less than all of them together.
const MaxDelay = 999 * day

// precision is the part of a delay by which it may be rounded up.
const precision = 1000

func (d Delays) name(parts ...string) string {
	prefix := d.Prefix
	if prefix == "" {
		prefix = DefaultDelayPrefix
	}
	return prefix + "." + strings.Join(parts, ".")
}

func (d Delays) queue(k, digit int) string {
	return d.name(shortDuration(levels[k].unit * time.Duration(digit)))
}

// Topology returns the exchanges and queues that all destinations share. It is
// the same for every service and never grows.
func (d Delays) Topology() Topology {
	lost := map[string]any{"alternate-exchange": d.name("lost")}
	t := Topology{
		Exchanges: []Exchange{
			{Name: d.name("lost"), Kind: Fanout},
			{Name: d.name("out"), Kind: Direct, Arguments: lost},
		},
		Queues:   []Queue{{Name: d.name("lost")}},
		Bindings: []Binding{{Exchange: d.name("lost"), Queue: d.name("lost")}},
	}
	below := d.name("out")
	for k, l := range levels {
		exchange := d.name("level", strconv.Itoa(k))
		t.Exchanges = append(t.Exchanges, Exchange{Name: exchange, Kind: Direct, Arguments: lost})
		for digit := 1; digit <= l.digits; digit++ {
			queue := d.queue(k, digit)
			t.Queues = append(t.Queues, Queue{Name: queue, Arguments: map[string]any{
				"x-message-ttl":          (l.unit * time.Duration(digit)).Milliseconds(),
				"x-dead-letter-exchange": below,
				"x-dead-letter-strategy": "at-least-once",
				"x-overflow":             "reject-publish",
			}})
			t.Bindings = append(t.Bindings,
				Binding{Exchange: d.name("in"), Key: "in." + d.label(k, digit), Queue: queue},
				Binding{Exchange: exchange, Key: d.label(k, digit), Queue: queue})
		}
		if k > 0 {
			t.Bindings = append(t.Bindings, Binding{Exchange: exchange, Key: d.label(k, 0), ToExchange: below})
		}
		t.Bindings = append(t.Bindings, Binding{Exchange: exchange, Key: d.end(k), ToExchange: d.name("out")})
		below = exchange
	}
	t.Exchanges = append(t.Exchanges, Exchange{Name: d.name("in"), Kind: Direct})
	return t
}

// label is the routing key of a digit of a level; digit 0 skips the level.
func (d Delays) label(k, digit int) string { return fmt.Sprintf("%d.%d", k, digit) }

// end is the routing key that leaves the levels from level k on.
func (d Delays) end(k int) string { return fmt.Sprintf("%d.e", k) }

// Exit returns the queue through which due messages reach one destination, and
// its binding: the queue named key when exchange is empty (the default
// exchange), otherwise whatever exchange does with key. Neither is declared here
// nor has to exist yet; messages that are due wait in the exit queue until the
// destination takes them.
func (d Delays) Exit(exchange, key string) Topology {
	name := d.exit(exchange, key)
	return Topology{
		Queues: []Queue{{Name: name, Arguments: map[string]any{
			"x-message-ttl":             int64(0),
			"x-dead-letter-exchange":    exchange,
			"x-dead-letter-routing-key": key,
			"x-dead-letter-strategy":    "at-least-once",
			"x-overflow":                "reject-publish",
		}}},
		Bindings: []Binding{{Exchange: d.name("out"), Key: name, Queue: name}},
	}
}

// exit is the name of an exit queue and the key messages travel under. The
// destination can be read from it unless it is too long for a name.
func (d Delays) exit(exchange, key string) string {
	readable := d.name("due/" + strings.NewReplacer("%", "%25", "/", "%2F").Replace(exchange) + "/" + key)
	if len(readable) <= maxShortString {
		return readable
	}
	sum := sha256.Sum256([]byte(exchange + "\x00" + key))
	return d.name("due#" + hex.EncodeToString(sum[:]))
}

// Route returns the way to exchange and key that takes delay, rounded up by at
// most a thousandth or the finest grain, whichever is more. A delay of zero or
// less leads straight to the destination. It fails for a delay beyond MaxDelay
// and for a destination no message can be sent to.
func (d Delays) Route(delay time.Duration, exchange, key string) (Route, error) {
	if err := validDestination(exchange, key); err != nil {
		return Route{}, err
	}
	if delay <= 0 {
		return Route{Exchange: exchange, Key: key}, nil
	}
	if delay > MaxDelay {
		return Route{}, fmt.Errorf("topology: route delay %v: longer than %v", delay, MaxDelay)
	}
	r := Route{Exchange: d.name("in"), Key: d.exit(exchange, key)}
	rest := roundUp(delay)
	r.Delay = rest
	first := true
	for k := len(levels) - 1; k >= 0; k-- {
		digit := int(rest / levels[k].unit)
		rest -= levels[k].unit * time.Duration(digit)
		switch {
		case first && digit == 0:
			continue
		case first:
			r.CC = append(r.CC, "in."+d.label(k, digit))
			first = false
		default:
			r.CC = append(r.CC, d.label(k, digit))
		}
		if rest == 0 {
			if k > 0 {
				r.CC = append(r.CC, d.end(k-1))
			}
			break
		}
	}
	return r, nil
}

// roundUp rounds to the coarsest unit that is late by no more than the
// precision allows.
func roundUp(delay time.Duration) time.Duration {
	for k := len(levels) - 1; k > 0; k-- {
		unit := levels[k].unit
		if up := (delay + unit - 1) / unit * unit; up-delay <= delay/precision {
			return up
		}
	}
	unit := levels[0].unit
	return (delay + unit - 1) / unit * unit
}

func validDestination(exchange, key string) error {
	if exchange == "" {
		return existingName("queue", key)
	}
	if err := existingName("exchange", exchange); err != nil {
		return err
	}
	return shortString("routing key", key)
}

// shortDuration writes a delay without its zero parts: 5s, 10m, 24h.
func shortDuration(d time.Duration) string {
	switch {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	default:
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
}
