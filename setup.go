package harebus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/engine"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/replies"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/travel"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// Setup is one service on the bus: its topology, its connections, its handlers and its consumers. Make one with [New]
// and, usually, one for each process.
type Setup struct {
	*endpoint // of Config.Queue

	cfg       Config
	dialer    *session.Dialer
	codecs    *codecs
	codings   map[string]Compression // that can be read
	dialect   header.Dialect
	peers     *peer.Peers // how other buses write
	travels   travel.List
	routing   routing.Exchanges
	sendChain SendFunc
	observers *observers
	log       *zap.Logger
	waits     wait.Teller
	counters  counters
	declarer  *declare.Declarer

	// latestFrameMax is the frame_max of the latest connection; 0 before the first.
	latestFrameMax atomic.Int64

	mu        sync.Mutex // guards what follows
	endpoints []*endpoint
	eng       *engine.Engine // what runs; nil before the first use and after Stop
	started   bool
	stopping  *stopping // the Stop under way
	stopped   bool
}

// stopping is a Stop that others may wait for.
type stopping struct {
	done chan struct{}
	err  error // set before done is closed
}

// New checks cfg and returns a setup. It reports every fault at once and does not connect.
func New(cfg Config) (*Setup, error) {
	logger := cfg.Logger
	cfg = cfg.withDefaults()
	cfg.nameInstance()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	addresses, err := cfg.addresses()
	if err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	registry, codecsErr := foreign.Apart(context.Background(), func() (*codecs, error) {
		return newCodecs(cfg.Payload.Codecs, cfg.Payload.TypeCodecs), nil
	})
	sendChain, err := chainSend(cfg.Publish.Middleware)
	if err = errors.Join(codecsErr, err); err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	s := &Setup{
		cfg:       cfg,
		codecs:    registry,
		codings:   cfg.Payload.Compress.all(),
		dialect:   newDialect(&cfg.Payload),
		travels:   cfg.Payload.travels(),
		routing:   routing.Exchanges(cfg.Exchanges),
		sendChain: sendChain,
		log:       safeLogger(cfg.Logger),
	}
	s.peers = peer.New(&s.dialect, cfg.Payload.Dialects, cfg.Publish.Peers, addresses, cfg.Payload.mostOnTheWire())
	s.endpoint = newEndpoint(s, cfg.first())
	s.endpoints = []*endpoint{s.endpoint}
	s.waits = teller(logger)
	s.observers = newObservers(cfg.Observers, &s.dialect, s.frameMax, s.log)
	s.dialer = session.NewDialer(s.dialing(addresses))
	s.declarer = declare.New(s.declaring())
	if err := s.endpoint.divide(); err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	return s, nil
}

// Bus returns the bus that sends at once. It connects when it is first used. A setup that only sends need not be
// started; end it with Close.
func (s *Setup) Bus() *Bus { return &Bus{sender{endpoint: s.endpoint}} }

// engine returns what runs, starting it if nothing has been used yet.
func (s *Setup) engine() (*engine.Engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eng == nil && s.stopped {
		return nil, ErrStopped
	}
	return s.makeEngine(), nil
}

// publisher is that of the engine.
func (s *Setup) publisher() (*publish.Publisher, error) {
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	return e.Publisher, nil
}

// makeEngine is called with s.mu held.
func (s *Setup) makeEngine() *engine.Engine {
	if s.eng == nil {
		// Beside the permanent channels these are needed: one for a message that is tried alone, one to declare, and
		// one to check.
		link := session.NewLink("publish", s.dialer, s.cfg.Publish.Channels+3)
		consume := session.NewLink("consume", s.dialer, 0) // begin knows how many
		s.eng = &engine.Engine{
			Publish: link, Consume: consume, Publisher: publish.New(s.publishing(link)), Replies: replies.New(s.replying(consume)),
		}
	}
	return s.eng
}

// Init connects, declares everything the setup may need – all 145 delay queues included – and disconnects. Call it in a
// deployment, for services that run with fewer permissions or with CheckOnly. Other services declare the few delay
// queues that they use when they need them. With CheckOnly it only checks. As Start does, it waits for a broker that is
// not there yet and starts again when the connection is lost, until ctx ends, and it fails at once when the broker
// refuses.
func (s *Setup) Init(ctx context.Context) error {
	const channels = 2
	l := session.NewLink("init", s.dialer, channels)
	defer l.Close()
	if err := s.initOver(ctx, l); err != nil {
		return fmt.Errorf("harebus: init: %w", err)
	}
	return nil
}

// initOver declares everything, and starts again on a new session when the connection is lost.
func (s *Setup) initOver(ctx context.Context, l *session.Link) error {
	pauses := wait.NewPauses(s.log, s.cfg.Connect.BackOff)
	for {
		on, err := l.Session(ctx)
		if err != nil {
			return err
		}
		err = s.declareForInit(ctx, on)
		if err == nil || session.Permanent(err) || on.Alive() && !session.Unreachable(err) {
			return err
		}
		s.log.Warn("cannot declare; trying again", zap.Error(err))
		if !wait.Sleep(ctx, wait.Next(pauses)) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (s *Setup) declareForInit(ctx context.Context, on *session.Session) error {
	if err := s.declarer.All(ctx, on); err != nil {
		return err
	}
	var delays topology.Delays
	t := topology.Join(delays.Topology(), delays.Cancelled())
	for _, one := range s.all() {
		if one.queue != "" && one.of == one { // nothing is sent to the others with a delay
			t = topology.Join(t, s.exit("", one.queue))
		}
	}
	cfg := s.publishing(nil)
	return cfg.EstablishDelays(ctx, on, t)
}

// Start connects, declares the topology and begins to consume. It returns when every consumer consumes, or stands by
// for its turn: the first messages come one at a time (see ConsumeConfig.Prefetch). It waits for a broker that is not
// there yet, and logs that, until ctx ends. If the broker refuses (wrong credentials, no such vhost, no permission, an
// object that exists with other properties), or a registered handler is faulty, Start fails at once. After Start the
// end of ctx has no effect; handlers see its values.
func (s *Setup) Start(ctx context.Context) error {
	if err := checkTransactors(ctx, s.all()); err != nil {
		return fmt.Errorf("harebus: start: %w", err)
	}
	e, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("harebus: start: %w", err)
	}
	for _, g := range e.Groups {
		if err := g.Await(ctx); err != nil {
			return fmt.Errorf("harebus: start: %w", errors.Join(err, s.Stop(context.Background())))
		}
	}
	return nil
}

// begin marks the setup as started and starts the consumers while it holds the lock, so that a concurrent Stop sees
// both or neither.
func (s *Setup) begin(ctx context.Context) (*engine.Engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.started || s.stopping != nil:
		return nil, ErrStarted
	case !slices.ContainsFunc(s.endpoints, (*endpoint).works):
		return nil, ErrNoQueue
	}
	var faults []error
	for _, one := range s.endpoints {
		faults = append(faults, one.registered())
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	for _, overlap := range s.peers.Overlaps() {
		s.log.Warn("two of Config.Payload.Dialects read the same messages, and their order decides", zap.String("overlap", overlap))
	}
	e := s.makeEngine()
	s.started, s.stopped = true, false
	handling, serving := e.Begin(ctx)
	e.Tasks = operators(context.WithoutCancel(ctx), s.endpoints)
	s.consumeFrom(handling, e)
	if len(e.Groups) > 0 {
		e.Serve(func() { s.declarer.Refresh(serving, e.Consume.Up, s.keepExit(e.Publisher)) })
	}
	return e, nil
}

// consumeFrom starts the consumers. mu is held.
func (s *Setup) consumeFrom(handling context.Context, e *engine.Engine) {
	// Beside those of the consumers these channels are needed: one to declare, one for replies to requests, and one for
	// each consumer that changes its prefetch; and one to count the instances that share a divided queue.
	channels, queues := 2, 0
	for _, one := range s.endpoints {
		if one.late = nil; one.queue != "" {
			queues++
			channels += one.cfg.Consume.Consumers + 1 + min(len(one.parts), 1)
		}
	}
	e.Consume.Need(channels)
	for _, one := range s.endpoints {
		if one.queue != "" {
			one.group = consume.Start(handling, one.consumption(e.Consume, queues))
			e.Groups = append(e.Groups, one.group)
		}
	}
}

// consumes says whether the setup has been started and has a queue to consume from.
func (s *Setup) consumes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started && slices.ContainsFunc(s.endpoints, (*endpoint).consumes)
}

// Run starts, consumes until ctx ends, then stops within the shutdown timeout. It returns nil after a clean stop, so a
// service's main needs nothing else. Its connections are closed when it returns.
func (s *Setup) Run(ctx context.Context) error {
	if err := s.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Stop(context.Background())
}

// Pause stops consuming without stopping the setup: deliveries whose handler has not begun go back to the queue, and
// Pause returns when no handler runs any more. Messages stay in the queue until [Setup.Resume], or go to other
// instances; sending goes on, and so does everything in the background. It is for an operator or a service that has to
// wait for something else, such as a database that is away.
//
// When ctx ends first, Pause returns its cause; the pause stays, and handlers that were running finish. A setup that is
// paused is ready, as far as [Setup.Ready] goes; [Setup.Stats] says that it is paused. A Stop ends the pause. Pause
// fails with [ErrNotStarted] when the setup is not started, and with [ErrInHandler] inside a handler, for which it
// would have to wait. Pausing a setup that is paused waits for the same.
func (s *Setup) Pause(ctx context.Context) error { return s.pause(ctx, s.all()...) }

func (s *Setup) pause(ctx context.Context, of ...*endpoint) error {
	groups, err := s.consuming(of)
	if err == nil && inHandler(ctx, groups) {
		err = ErrInHandler
	}
	if err != nil {
		return fmt.Errorf("harebus: pause: %w", err)
	}
	switch err := groups.Pause(ctx); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("harebus: pause: %w: %w", groups.Handling(), context.Cause(ctx))
	default:
		return fmt.Errorf("harebus: pause: %w", ErrStopped)
	}
}

// Resume ends a pause. It returns at once: consuming begins as soon as the connection allows. Resuming a setup that is
// not paused does nothing. It fails with [ErrNotStarted] when the setup is not started.
func (s *Setup) Resume() error { return s.resume(s.all()...) }

func (s *Setup) resume(of ...*endpoint) error {
	groups, err := s.consuming(of)
	if err != nil {
		return fmt.Errorf("harebus: resume: %w", err)
	}
	groups.Resume()
	return nil
}

// consuming returns the consumers of endpoints, if the setup consumes.
func (s *Setup) consuming(of []*endpoint) (groups engine.Groups, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eng == nil || !s.started || s.stopping != nil {
		return nil, ErrNotStarted
	}
	for _, one := range of {
		if one.group != nil {
			groups = append(groups, one.group)
		}
	}
	return groups, nil
}

// Stop ends consuming: consumers are cancelled, deliveries that no handler has begun go back to their queue, handlers
// finish, their messages are confirmed and acknowledged, then the connections are closed. When ctx ends or the shutdown
// timeout passes, the contexts of the handlers are cancelled; messages that they do not complete are delivered again
// later. The error says how many handlers had not returned two seconds after that.
//
// Afterwards every Bus of the setup returns [ErrStopped] until Start is called again, also if the setup was not in use.
// If another Stop is running, Stop waits for it and returns its error. Called inside a handler, Stop stops nothing and
// returns [ErrInHandler].
func (s *Setup) Stop(ctx context.Context) error {
	s.mu.Lock()
	if s.eng != nil && inHandler(ctx, s.eng.Groups) {
		s.mu.Unlock()
		return fmt.Errorf("harebus: stop: %w", ErrInHandler)
	}
	if under := s.stopping; under != nil { // another call of Stop
		s.mu.Unlock()
		select {
		case <-under.done:
			return under.err
		case <-ctx.Done():
			return fmt.Errorf("harebus: stop: %w", context.Cause(ctx))
		}
	}
	e := s.eng
	s.stopped = true
	if e == nil {
		s.mu.Unlock()
		return nil
	}
	under := &stopping{done: make(chan struct{})}
	s.stopping = under
	s.mu.Unlock()

	under.err = s.halt(ctx, e)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.eng, s.started, s.stopping = nil, false, nil
	for _, one := range s.endpoints {
		one.group = nil
	}
	close(under.done)
	return under.err
}

// Close is Stop with the shutdown timeout as its only limit.
func (s *Setup) Close() error { return s.Stop(context.Background()) }

// halt stops an engine, and says what has not ended.
func (s *Setup) halt(ctx context.Context, e *engine.Engine) error {
	var faults []error
	handlers, ended := e.Stop(ctx, s.cfg.ShutdownTimeout, s.waits)
	if handlers > 0 {
		faults = append(faults, fmt.Errorf("harebus: stop: %d handlers have not returned; their messages will be delivered again", handlers))
	}
	if !ended {
		faults = append(faults, errors.New("harebus: stop: the Run of Config.Handling.Transactor has not returned"))
	}
	return errors.Join(faults...)
}

// inHandler says whether the caller is inside a handler of some consumers: ctx carries a message that is being handled,
// or the goroutine is that of a busy worker. The goroutine is needed because Close has no context.
func inHandler(ctx context.Context, groups engine.Groups) bool {
	m := Incoming(ctx)
	handles := func(t consume.Task) bool {
		d, ok := t.(*delivery)
		return ok && m != nil && d.shown.Load() == m
	}
	return groups.Inside(handles)
}

// String names the config of the setup, without anything that may be a secret.
func (s *Setup) String() string { return "harebus.Setup of " + s.cfg.String() }

// Format writes String for every verb.
func (s *Setup) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }
