package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// delayer sends messages into the delay queues. It declares the queues on the route
// of a message when the first message needs them.
type delayer struct {
	cfg    Config
	delays topology.Delays

	declaring chan struct{} // held while declaring
	endings   session.Endings
	exits     session.Endings // for keepExit, on another connection
	cancels   cancels
	// destinations have endings of their own; of whoever holds declaring
	destinations map[string]*session.Endings
	full         time.Time // until when a broker without room is left alone; of whoever holds declaring

	mu       sync.Mutex           // guards what follows
	expiring map[string]bool      // own queues whose exits have been declared and expire; true: the user may not read it, and has been told
	on       *session.Session     // the session everything below has been declared on
	declared map[string]time.Time // until when it is believed to exist: delay queues by name, exits by exitKey, delayBase
}

const (
	// maxDeclared limits the memory of a program that always defers to new queues.
	maxDeclared = 10_000
	baseAge     = 1000 * time.Hour // a missing exchange is noticed at once
	queueAge    = 5 * time.Minute
	exitAge     = time.Minute
	// fullPause is how long no trial is made after one that found no room for
	// queues, because each trial keeps new connections out for a few seconds.
	fullPause = 10 * time.Second
	// delayBase stands for the objects that all routes share.
	delayBase = ""
)

func newDelayer(cfg Config) *delayer {
	return &delayer{cfg: cfg, declaring: make(chan struct{}, 1), endings: session.Endings{What: "delay queues are declared"}, exits: session.Endings{What: "exits of delay queues are declared"}, cancels: newCancels()}
}

// route makes the routed form of a message that waits, and sees to it that everything on
// its way exists. It returns false if the message is due by then: the first time, declaring
// takes a while.
func (d *delayer) route(ctx context.Context, s *session.Session, out *Message) (routed, bool, error) {
	wait := out.wait()
	if wait <= 0 {
		return routed{}, false, nil
	}
	way, err := d.way(out, wait)
	if err != nil { // nothing here depends on the broker: it ends the same way each time
		return routed{}, false, &finalError{session.NotSent, err}
	}
	exit := exitKey(out.finalExchange(), out.Key)
	if !d.known(s, way.Queues, exit) {
		if err := d.prepare(ctx, s, out, way); err != nil {
			return routed{}, false, err
		}
		if wait = out.wait(); wait <= 0 {
			return routed{}, false, nil
		}
		// What is left is shorter now, and may have a way that is known as well.
		if shorter, err := d.way(out, wait); err == nil && d.known(s, shorter.Queues, exit) {
			way = shorter
		}
	}
	return d.along(s, out, way), true, nil
}

// wait is for how long a message must be in the delay queues. One with a ticket is there
// for a moment however late it is: it may be a copy of one that was cancelled, and only its
// gate catches it.
func (o *Message) wait() time.Duration {
	wait := time.Until(o.Due)
	if o.Ticket {
		return max(wait, time.Millisecond)
	}
	return wait
}

// way is the route of a message that is due after wait. The pause of a retry is
// rounded, because pauses that differ a little each time would need ever new
// queues. What was handled before cannot be cancelled: it has the id of the message, and
// a cancellation that came too late for the message would catch its retry.
func (d *delayer) way(out *Message, wait time.Duration) (topology.Route, error) {
	if out.Rough {
		return d.delays.RouteRoughly(wait, out.finalExchange(), out.Key)
	}
	if out.Handled {
		return d.delays.Route(wait, out.finalExchange(), out.Key)
	}
	return d.delays.RouteTicket(wait, out.finalExchange(), out.Key, out.Publishing.MessageId)
}

// along returns the message as it is published into the delay queues.
func (d *delayer) along(s *session.Session, out *Message, way topology.Route) routed {
	room := delayRoom(s.FrameMax(), way.HeaderRoom()) + deathRoom(out.Exchange, out.Key)
	if out.Copied {
		d.cfg.Fit(&out.Publishing, s.FrameMax(), room)
		room = 0 // whatever there is
	}
	msg := out.Publishing
	msg.Headers = maps.Clone(out.Publishing.Headers)
	if len(way.CC) > 0 {
		cc := make([]any, len(way.CC))
		for i, key := range way.CC {
			cc[i] = key
		}
		msg.Headers["CC"] = cc
	}
	return routed{session.Publishing{Exchange: way.Exchange, Key: way.Key, Mandatory: true, Room: room, Message: msg}, route{delayed: true}}
}

// finalExchange is the exchange to which a delayed message goes in the end: the
// default exchange, unless the caller named another.
func (o *Message) finalExchange() string {
	if o.Foreign {
		return o.Exchange
	}
	return ""
}

// prepare declares everything on the route of a delayed message.
func (d *delayer) prepare(ctx context.Context, s *session.Session, out *Message, way topology.Route) error {
	select { // one at a time: the others find it done
	case d.declaring <- struct{}{}:
		defer func() { <-d.declaring }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	e := d.suspect(s, out)
	if err := e.Paused(); err != nil {
		return &finalError{session.NotSent, err}
	}
	return e.Try(ctx, s, func() error { return d.prepareOn(ctx, s, out, way) })
}

// suspect is what is blamed when the connection ends: the destination while its exit is not
// known, else the delay queues, which all destinations share.
func (d *delayer) suspect(s *session.Session, out *Message) *session.Endings {
	exit := exitKey(out.finalExchange(), out.Key)
	if d.known(s, nil, exit) {
		return &d.endings
	}
	if d.destinations == nil || len(d.destinations) > maxDeclared {
		d.destinations = map[string]*session.Endings{}
	}
	if d.destinations[exit] == nil {
		d.destinations[exit] = &session.Endings{What: "delay queues are declared for " + field.Quote(out.Key)}
	}
	return d.destinations[exit]
}

// prepareOn is prepare while declaring is held.
func (d *delayer) prepareOn(ctx context.Context, s *session.Session, out *Message, way topology.Route) error {
	exchange, key := out.finalExchange(), out.Key
	if exit := exitKey(exchange, key); !d.known(s, nil, exit) {
		if err := d.checkDestination(ctx, s, out, exchange, key); err != nil {
			return err
		}
	}
	if time.Now().Before(d.full) {
		return &finalError{session.NotSent, errNoRoom}
	}
	names, err := d.declare(ctx, s, exchange, key, way)
	if refusal.Missing(err) && !session.Unreachable(err) {
		// Something that was known to exist has been deleted: everything on the way again.
		d.forget()
		names, err = d.declare(ctx, s, exchange, key, way)
	}
	if errors.Is(err, errNoRoom) {
		d.full = time.Now().Add(fullPause)
	}
	if err != nil {
		return fmt.Errorf("delay queues: %w", err)
	}
	d.remember(s, names...)
	if exchange == "" && d.cfg.Expires(key) {
		d.keep(key)
	}
	return nil
}

// declare declares what is not known to exist, and returns its names.
func (d *delayer) declare(ctx context.Context, s *session.Session, exchange, key string, way topology.Route) (names []string, err error) {
	var parts []topology.Topology
	need := func(name string, part func() topology.Topology) {
		if !d.known(s, nil, name) {
			parts, names = append(parts, part()), append(names, name)
		}
	}
	need(delayBase, d.delays.Base)
	for _, queue := range way.Queues {
		need(queue, func() topology.Topology { return d.delays.Queue(queue) })
	}
	need(exitKey(exchange, key), func() topology.Topology { return d.cfg.Exit(exchange, key) })
	all := topology.Join(parts...)
	err = d.cfg.EstablishDelays(ctx, s, all)
	if last := len(all.Queues) - 1; refusal.Differs(err) && !d.known(s, nil, exitKey(exchange, key)) {
		// An exit that expires, or does not where we would have it: as it is.
		all.Queues = all.Queues[:last]
		err = d.cfg.EstablishDelays(ctx, s, all)
	}
	return names, err
}

// exitKey is the key of an exit in delayer.declared. No delay queue has it.
func exitKey(exchange, key string) string { return exchange + exitMark + key }

const exitMark = "\x00"

// checkDestination refuses a deferral that could never arrive. A destination
// that is deleted later makes its messages wait in its exit queue.
func (d *delayer) checkDestination(ctx context.Context, s *session.Session, out *Message, exchange, key string) error {
	var err error
	if exchange != "" {
		err = d.cfg.exchange(ctx, s, out)
	} else {
		err = s.WithChannel(ctx, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(key, true, false, false, false, nil)
			return err
		})
	}
	if session.Unreachable(err) || refusal.Forbidden(err) || refusal.Locked(err) {
		return nil // it is there, or may be, and takes the message later
	}
	if refusal.Missing(err) {
		return &finalError{session.Returned, err}
	}
	return err
}

// known says whether everything on a route is believed to exist: the base, the
// delay queues, and one object more.
func (d *delayer) known(s *session.Session, queues []string, name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, queue := range queues {
		if !d.declared[queue].After(now) {
			return false
		}
	}
	return d.on == s && d.declared[delayBase].After(now) && d.declared[name].After(now)
}

func (d *delayer) remember(s *session.Session, names ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.on != s {
		d.on, d.declared = s, map[string]time.Time{}
	}
	now := time.Now()
	if len(d.declared)+len(names) > maxDeclared {
		d.declared = map[string]time.Time{delayBase: now.Add(baseAge)}
	}
	for _, name := range names {
		d.declared[name] = now.Add(age(name))
	}
}

// age is for how long something is believed to exist. A message that finds a
// queue on its way deleted is kept, but not delivered.
func age(name string) time.Duration {
	switch {
	case name == delayBase:
		return baseAge
	case strings.Contains(name, exitMark):
		return exitAge
	default:
		return queueAge
	}
}

// forget makes the next delayed message declare everything again.
func (d *delayer) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.on, d.declared = nil, nil
}

// keep notes that the exit of an own queue exists, for KeepExits.
func (d *delayer) keep(queue string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.expiring[queue]; known {
		return
	}
	if d.expiring == nil {
		d.expiring = map[string]bool{}
	}
	d.expiring[queue] = false
}

// kept are the queues that keep has noted.
func (d *delayer) kept() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.expiring))
}

// told notes whether the user may not read the exit of a queue, and returns what was noted
// before.
func (d *delayer) told(queue string, forbidden bool) (before bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = d.expiring[queue]
	d.expiring[queue] = forbidden
	return before
}

// KeepExits restarts the expiry (x-expires) of the exits of the service's own queues. For a
// quorum queue only a consumer or basic.get does that. An exit is nearly always empty;
// a message that is in it is given back. If the user may not read an exit, it returns
// an error once, and again only after it has worked in between.
func (p *Publisher) KeepExits(ctx context.Context, s *session.Session) error {
	var faults []error
	for _, queue := range p.delays.kept() {
		err := p.delays.exits.Try(ctx, s, func() error { return p.delays.keepExit(ctx, s, queue) })
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func (d *delayer) keepExit(ctx context.Context, s *session.Session, queue string) error {
	t := d.cfg.Exit("", queue)
	err := s.WithChannel(ctx, func(ch *amqp.Channel) error {
		m, ok, err := ch.Get(t.Queues[0].Name, false)
		if ok {
			err = m.Nack(false, true)
		}
		return err
	})
	if refusal.Missing(err) && !session.Unreachable(err) {
		return d.cfg.Establish(ctx, s, t)
	}
	if refusal.Forbidden(err) {
		if d.told(queue, true) {
			return nil
		}
		return fmt.Errorf("%w: give the user the read permission on %q; without it that queue goes some minutes after x-expires of the listener queue",
			err, t.Queues[0].Name)
	}
	d.told(queue, false)
	return err
}
