package topology

import (
	"fmt"
	"strconv"
	"time"
)

const day = 24 * time.Hour

// MaxDelay is the longest delay that [Delays.Route] accepts: five years.
const MaxDelay = 5 * 366 * day

// Route says how to publish a message so that it is delivered after Delay.
//
// The message must be persistent and mandatory. It must have no expiration, because it
// would expire inside a delay queue and come early. It must have no header that a broker
// wrote during an earlier delay (x-death, x-first-death-*, x-last-death-*), because the
// broker would take the route for a cycle and drop the message. Leave [Route.HeaderRoom]
// bytes of the header frame free: clients cannot read a frame that is longer than the
// connection's frame_max.
//
// The receiver sees the exchange and key of the destination. RabbitMQ 4 leaves the
// CC header on the message, and 3.10 removes it: remove it before you send a
// received message on.
type Route struct {
	// Exchange and Key are those to publish with.
	Exchange string
	Key      string
	// CC is the value of the message's CC header; no header when empty.
	CC []string
	// Queues are the delay queues on the route, in this order; [Delays.Queue]
	// describes each.
	Queues []string
	// Delay is the time for which the queues on the route hold the message: the
	// requested delay, rounded up. Zero means that Exchange and Key are the
	// destination itself.
	Delay time.Duration

	exit int // the length of the exit's name, if the message can be cancelled
}

// Route returns the route to exchange and key that takes delay, rounded up by at
// most 2 ms, a two-thousandth of it and a millisecond for each queue from 2.5 s. A
// delay of zero or less leads directly to the destination. Route fails for a delay
// above [MaxDelay] and for an invalid destination.
func (d Delays) Route(delay time.Duration, exchange, key string) (Route, error) {
	return d.route(delay, exchange, key, roundUp)
}

// RouteRoughly is Route for delays that need not be exact, such as retries: it
// rounds up by at most a fifth, in round steps, so that delays which differ a
// little each time share few queues. Round delays – 2 s, 90 s, 10 min – stay as
// they are.
func (d Delays) RouteRoughly(delay time.Duration, exchange, key string) (Route, error) {
	return d.route(delay, exchange, key, roundUpRoughly)
}

func (d Delays) route(delay time.Duration, exchange, key string, rounded func(time.Duration) time.Duration) (Route, error) {
	route, err := d.way(delay, exchange, key, rounded)
	if len(route.CC) > 0 {
		route.Key = d.exit(exchange, key)
	}
	return route, err
}

// way is a route without the key that leads to the exit.
func (d Delays) way(delay time.Duration, exchange, key string, rounded func(time.Duration) time.Duration) (Route, error) {
	if err := d.validate(); err != nil {
		return Route{}, err
	}
	if err := validDestination(exchange, key); err != nil {
		return Route{}, err
	}
	if delay <= 0 {
		return Route{Exchange: exchange, Key: key}, nil
	}
	if delay > MaxDelay {
		return Route{}, fmt.Errorf("topology: route delay %v: longer than %v", delay, MaxDelay)
	}
	route := Route{Exchange: d.name("in")}
	visited := steps(rounded(delay))
	route.CC, route.Delay = itinerary(visited)
	route.Queues = make([]string, len(visited))
	for i, s := range visited {
		route.Queues[i] = s.name()
	}
	return route, nil
}

// HeaderRoom is by how many bytes at most the headers of a message grow on this
// route: by CC, and by what the broker records about each queue.
func (r Route) HeaderRoom() int {
	if len(r.CC) == 0 {
		return 0
	}
	const (
		once  = 200 // the names of all headers, and the reasons of the first and the last death
		fixed = 110 // of an entry of x-death
		value = 5   // what goes before a text
		names = 16  // by how much the name of a queue or exchange is longer than that of the first
	)
	name := len(r.Exchange) + names
	keys := value + len(r.Key)
	for _, label := range r.CC {
		keys += value + len(label)
	}
	entry := fixed + 2*name + keys
	if r.exit > 0 {
		// The gate leads to the exit, or to the three queues of the cancelled.
		gated := max(fixed+name+r.exit+keys, entry+2*(fixed+3*name))
		return once + keys + (len(r.CC)-2)*entry + gated + 4*name
	}
	exit := fixed + name + len(r.Key) + value + len(r.Key)
	return once + keys + len(r.CC)*entry + exit + 4*name
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

// level is a set of queues that wait 1, 2, … digits times its unit.
type level struct {
	unit   time.Duration
	digits int
}

// levels are the delay queues, finest first. Each unit is a multiple of the one
// before it, and the digits of a level reach up to the next unit.
//
// Every queue on the way costs one to three milliseconds. Below 2.5 s, where
// that counts, two wide levels suffice. Above, where a thousandth of the delay
// is more than a queue costs, narrow levels save queues. The units are those
// people write delays in, so that most delays in practice take one queue.
var levels = []level{
	{time.Millisecond, 49},
	{50 * time.Millisecond, 49},
	{2500 * time.Millisecond, 3},
	{10 * time.Second, 5},
	{time.Minute, 4},
	{5 * time.Minute, 2},
	{15 * time.Minute, 3},
	{time.Hour, 5},
	{6 * time.Hour, 3},
	{day, 4},
	{5 * day, 4},
	{25 * day, 3},
	{100 * day, 3},
	{400 * day, 4},
}

// name of a level in the name of its exchange.
func (l level) name() string { return shortDuration(l.unit) }

// step is one queue of a route: a digit of a level. Digit 0 skips the level.
type step struct{ level, digit int }

func (s step) nominal() time.Duration { return levels[s.level].unit * time.Duration(s.digit) }

// wait is the time the queue holds a message. The broker counts in whole
// milliseconds and drops the fraction of the moment a message came in, so that a
// queue under load may let it go up to one millisecond early. Queues from 2.5 s
// up make this good with a millisecond more than their share. The two finest
// levels do without: passing a message on takes the broker longer than they can
// be early, and routes of one queue of the finest are rounded up instead.
func (s step) wait() time.Duration {
	if s.level < 2 {
		return s.nominal()
	}
	return s.nominal() + time.Millisecond
}

// name of the queue, after the share it waits: "250ms", "10m", "25d".
func (s step) name() string { return texts[s.level][s.digit].name }

// key is the label by which an exchange of its level finds the queue.
func (s step) key() string { return texts[s.level][s.digit].key }

// first is the label by which the entry exchange finds the queue.
func (s step) first() string { return texts[s.level][s.digit].first }

// stepTexts are the texts of a step, made once: every deferred message needs some.
type stepTexts struct{ name, key, first string }

var texts, stepsByName = func() ([][]stepTexts, map[string]step) {
	texts, byName := make([][]stepTexts, len(levels)), map[string]step{}
	for k, l := range levels {
		for digit := range l.digits + 1 {
			s := step{k, digit}
			key := strconv.Itoa(k) + "." + strconv.Itoa(digit)
			t := stepTexts{name: shortDuration(s.nominal()), key: key, first: "in." + key}
			texts[k] = append(texts[k], t)
			if digit > 0 {
				byName[t.name] = s
			}
		}
	}
	return texts, byName
}()

// end is the label by which the exchange of level k lets a message leave.
func end(k int) string { return strconv.Itoa(k) + ".end" }

// steps splits a delay into the queues to visit, coarsest first. What is below
// the finest unit must be rounded before.
func steps(delay time.Duration) []step {
	var visited []step
	for k := len(levels) - 1; k >= 0; k-- {
		if digit := int(delay / levels[k].unit); digit > 0 {
			visited = append(visited, step{k, digit})
			delay -= step{k, digit}.nominal()
		}
	}
	return visited
}

// visits is the number of queues that steps returns.
func visits(delay time.Duration) (n int) {
	for k := len(levels) - 1; k >= 0; k-- {
		if delay >= levels[k].unit {
			delay %= levels[k].unit
			n++
		}
	}
	return n
}

// itinerary labels every level from the first step on, and sums up the waits.
func itinerary(visited []step) (labels []string, wait time.Duration) {
	labels = append(make([]string, 0, visited[0].level+4), visited[0].first()) // with the two of a ticket
	wait = visited[0].wait()
	k := visited[0].level - 1
	for _, s := range visited[1:] {
		for ; k > s.level; k-- {
			labels = append(labels, step{k, 0}.key())
		}
		labels = append(labels, s.key())
		wait += s.wait()
		k--
	}
	if k >= 0 {
		labels = append(labels, end(k))
	}
	return labels, wait
}

// precision is the part of a delay by which it may be rounded up to save queues.
// It is half of what docs/delays.md promises; the other half pays for the queues.
const precision = 2000

// roundUp returns the delay that takes the fewest queues among those that are
// late by no more than the precision allows.
func roundUp(delay time.Duration) time.Duration {
	best := ceil(delay, levels[0].unit)
	if best < levels[1].unit {
		return best + time.Millisecond // see wait
	}
	for _, l := range levels[1:] {
		up := ceil(delay, l.unit)
		if up-delay > delay/precision {
			continue
		}
		if visits(up) < visits(best) {
			best = up
		}
	}
	return best
}

// roughUnits are the steps of roundUpRoughly. Each is a multiple of the one
// before it and fits into the units of the levels, so that a rounded delay takes
// few queues.
var roughUnits = []time.Duration{
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	2500 * time.Millisecond, 10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour,
	day, 5 * day, 25 * day, 100 * day,
}

// roundUpRoughly rounds up to a multiple of the largest step that is no more
// than a fifth of the delay.
func roundUpRoughly(delay time.Duration) time.Duration {
	const fifth = 5
	if delay < levels[1].unit {
		delay += time.Millisecond // see wait
	}
	unit := roughUnits[0]
	for _, u := range roughUnits {
		if u > delay/fifth {
			break
		}
		unit = u
	}
	return ceil(delay, unit)
}

func ceil(delay, unit time.Duration) time.Duration { return (delay + unit - 1) / unit * unit }

// shortDuration writes a duration in its largest whole unit: 2500ms, 5s, 10m.
func shortDuration(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
