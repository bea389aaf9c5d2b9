package harebus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/guard"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// Setup is one service on the bus: its topology, its connections, its handlers
// and its consumers. Make one with [New] and, usually, one for each process.
type Setup struct {
	cfg       Config
	dialer    *session.Dialer
	codecs    *codecs
	dialect   dialect
	sendChain SendFunc
	observers *observers
	log       *zap.Logger
	waits     wait.Teller
	counters  counters
	retries   atomic.Int64 // the largest number among the retry policies

	declarer *declare.Declarer
	parking  parking
	// complained is when it was last logged that a message cannot be sent on, in
	// nanoseconds.
	complained atomic.Int64

	// latestFrameMax is the frame_max of the latest connection; 0 before the first.
	latestFrameMax atomic.Int64

	// handlers is replaced, with mu held, and never changed: messages are looked up
	// without a lock.
	handlers atomic.Pointer[map[string]*handler]

	mu       sync.Mutex // guards what follows
	faults   []error    // faults of registrations; Start reports them
	late     []error    // faults of registrations after Start; Ready reports them
	subs     []string
	eng      *engine // what runs; nil before the first use and after Stop
	started  bool
	stopping *stopping // the Stop under way
	stopped  bool
}

// stopping is a Stop that others may wait for.
type stopping struct {
	done chan struct{}
	err  error // set before done is closed
}

// engine holds connections, consumers and goroutines. It exists from the first use,
// or Start, until Stop.
type engine struct {
	setup     *Setup
	publish   *session.Link
	consume   *session.Link
	publisher *publish.Publisher
	groups    []*consume.Group        // the consumers
	group     sync.WaitGroup          // the goroutines that serve them all
	halt      context.CancelFunc      // ends the latter
	abandon   context.CancelCauseFunc // ends the contexts of the handlers
	operator  *operator               // nil without a Transactor
}

var errShutdownTimeout = errors.New("harebus: the shutdown timeout has passed")

// New checks cfg and returns a setup. It reports every fault at once and does
// not connect.
func New(cfg Config) (*Setup, error) {
	logger := cfg.Logger
	cfg = cfg.withDefaults()
	if cfg.QueueOptions.PerInstance && cfg.Queue != "" {
		cfg.Queue = forInstance(cfg.Queue)
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	addresses, err := cfg.addresses()
	if err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	registry, codecsErr := guard.Apart(context.Background(), func() (*codecs, error) {
		return newCodecs(cfg.Payload.Codecs, cfg.Payload.TypeCodecs), nil
	})
	sendChain, err := chainSend(cfg.Publish.Middleware)
	if err = errors.Join(codecsErr, err); err != nil {
		return nil, fmt.Errorf("harebus: new setup: %w", err)
	}
	s := &Setup{
		cfg:       cfg,
		codecs:    registry,
		dialect:   dialect{cfg.Payload.HeaderPrefix, newHeaderNames(cfg.Payload.HeaderPrefix), cfg.Payload.TimeFormat},
		sendChain: sendChain,
		log:       safeLogger(cfg.Logger),
		subs:      slices.Clone(cfg.Subscriptions),
	}
	s.retries.Store(int64(cfg.Retry.most()))
	s.handlers.Store(&map[string]*handler{})
	s.waits = teller(logger)
	s.observers = newObservers(cfg.Observers, &s.dialect, s.frameMax, s.log)
	s.dialer = session.NewDialer(s.dialing(addresses))
	s.declarer = declare.New(s.declaring())
	return s, nil
}

// Bus returns the bus that sends at once. It connects when it is first used. A
// setup that only sends need not be started; end it with Close.
func (s *Setup) Bus() *Bus { return &Bus{sender{setup: s}} }

// engine returns what runs, starting it if nothing has been used yet.
func (s *Setup) engine() (*engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eng == nil && s.stopped {
		return nil, ErrStopped
	}
	return s.makeEngine(), nil
}

// makeEngine is called with s.mu held.
func (s *Setup) makeEngine() *engine {
	if s.eng == nil {
		// Beside the permanent channels these are needed: one for a message that is
		// tried alone, one to declare, one to check, and one for a consumer that
		// changes its prefetch.
		connection := session.NewLink("publish", s.dialer, s.cfg.Publish.Channels+3)
		consume := session.NewLink("consume", s.dialer, s.cfg.Consume.Consumers+2)
		s.eng = &engine{setup: s, publish: connection, consume: consume, publisher: publish.New(s.publishing(connection))}
	}
	return s.eng
}

// Init connects, declares everything the setup may need – all 142 delay queues
// included – and disconnects: Call it in a deployment, for services that run with
// fewer permissions or with CheckOnly. Other services declare the few delay queues
// that they use when they need them. With CheckOnly it only checks. As Start does,
// it waits for a broker that is not there yet and starts again when the connection
// is lost, until ctx ends, and it fails at once when the broker refuses.
func (s *Setup) Init(ctx context.Context) error {
	const channels = 2
	l := session.NewLink("init", s.dialer, channels)
	defer l.Close()
	if err := s.initOver(ctx, l); err != nil {
		return fmt.Errorf("harebus: init: %w", err)
	}
	return nil
}

// initOver declares everything, and starts again on a new session when the
// connection is lost.
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
	t := delays.Topology()
	if s.cfg.Queue != "" {
		t = topology.Join(t, s.cfg.exitTopology("", s.cfg.Queue))
	}
	cfg := s.publishing(nil)
	return cfg.EstablishDelays(ctx, on, t)
}

// Start connects, declares the topology and begins to consume. It returns when
// every consumer consumes. It waits for a broker that is not there yet, and logs
// that, until ctx ends. If the broker refuses (wrong credentials, no such vhost, no
// permission, an object that exists with other properties), or a registered handler
// is faulty, Start fails at once. After Start the end of ctx has no effect;
// handlers see its values.
func (s *Setup) Start(ctx context.Context) error {
	if err := checkTransactor(ctx, s.cfg.Handling.Transactor); err != nil {
		return fmt.Errorf("harebus: start: %w", err)
	}
	e, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("harebus: start: %w", err)
	}
	for _, g := range e.groups {
		if err := g.Await(ctx); err != nil {
			return fmt.Errorf("harebus: start: %w", errors.Join(err, s.Stop(context.Background())))
		}
	}
	return nil
}

// begin marks the setup as started and starts the consumers while it holds the
// lock, so that a concurrent Stop sees both or neither.
func (s *Setup) begin(ctx context.Context) (*engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cfg.Queue == "" && s.cfg.Handling.Transactor == nil:
		return nil, ErrNoQueue
	case s.started || s.stopping != nil:
		return nil, ErrStarted
	case len(s.faults) > 0:
		return nil, errors.Join(s.faults...)
	case s.cfg.Queue != "" && len(*s.handlers.Load()) == 0:
		return nil, errors.New("no handler is registered; use Handle or HandleMessage")
	}
	e := s.makeEngine()
	s.started, s.stopped, s.late = true, false, nil
	handling, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	e.abandon = abandon
	serving, halt := context.WithCancel(handling)
	e.halt = halt
	e.operate(context.WithoutCancel(ctx))
	if s.cfg.Queue == "" {
		return e, nil
	}
	e.group.Go(func() { s.declarer.Refresh(serving, e.consume.Up, e.keepExit) })
	e.groups = append(e.groups, consume.Start(handling, s.consumption(e.consume)))
	return e, nil
}

// consumes says whether the setup has been started and has a queue to consume from.
func (s *Setup) consumes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started && s.cfg.Queue != ""
}

// Run starts, consumes until ctx ends, then stops within the shutdown timeout. It
// returns nil after a clean stop, so a service's main needs nothing else. Its
// connections are closed when it returns.
func (s *Setup) Run(ctx context.Context) error {
	if err := s.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Stop(context.Background())
}

// Pause stops consuming without stopping the setup: deliveries whose handler has not
// begun go back to the queue, and Pause returns when no handler runs any more. Messages
// stay in the queue until [Setup.Resume], or go to other instances; sending goes on, and
// so does everything in the background. It is for an operator or a service that has to
// wait for something else, such as a database that is away.
//
// When ctx ends first, Pause returns its cause; the pause stays, and handlers that were
// running finish. A setup that is paused is ready, as far as [Setup.Ready] goes;
// [Setup.Stats] says that it is paused. A Stop ends the pause. Pause fails with
// [ErrNotStarted] when the setup is not started, and with [ErrInHandler] inside a
// handler, for which it would have to wait. Pausing a setup that is paused waits for the
// same.
func (s *Setup) Pause(ctx context.Context) error {
	e, err := s.consuming(ctx)
	if err != nil {
		return fmt.Errorf("harebus: pause: %w", err)
	}
	for _, g := range e.groups {
		err = errors.Join(err, g.Pause(ctx))
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("harebus: pause: %w: %w", e.busy(), err)
	default:
		return fmt.Errorf("harebus: pause: %w", err)
	}
}

// Resume ends a pause. It returns at once: consuming begins as soon as the connection
// allows. Resuming a setup that is not paused does nothing. It fails with
// [ErrNotStarted] when the setup is not started.
func (s *Setup) Resume() error {
	e, err := s.consuming(context.Background())
	if err != nil && !errors.Is(err, ErrInHandler) {
		return fmt.Errorf("harebus: resume: %w", err)
	}
	for _, g := range e.groups {
		g.Resume()
	}
	return nil
}

// consuming returns the engine of a setup that consumes. With ErrInHandler it returns
// the engine as well.
func (s *Setup) consuming(ctx context.Context) (*engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eng == nil || !s.started || s.stopping != nil {
		return nil, ErrNotStarted
	}
	if s.eng.inHandler(ctx) {
		return s.eng, ErrInHandler
	}
	return s.eng, nil
}

// Stop ends consuming: consumers are cancelled, deliveries that no handler has
// begun go back to their queue, handlers finish, their messages are confirmed and
// acknowledged, then the connections are closed. When ctx ends or the shutdown
// timeout passes, the contexts of the handlers are cancelled; messages that they do
// not complete are delivered again later. The error says how many handlers had not
// returned two seconds after that.
//
// Afterwards every Bus of the setup returns [ErrStopped] until Start is called
// again, also if the setup was not in use. If another Stop is running, Stop waits
// for it and returns its error. Called inside a handler, Stop stops nothing and
// returns [ErrInHandler].
func (s *Setup) Stop(ctx context.Context) error {
	s.mu.Lock()
	if s.eng != nil && s.eng.inHandler(ctx) {
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

	under.err = e.stop(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.eng, s.started, s.stopping = nil, false, nil
	close(under.done)
	return under.err
}

// Close is Stop with the shutdown timeout as its only limit.
func (s *Setup) Close() error { return s.Stop(context.Background()) }

func (e *engine) stop(ctx context.Context) error {
	err := e.drain(ctx)
	e.consume.Close()
	e.publish.Close()
	return err
}

// busy returns the number of messages that are being handled.
func (e *engine) busy() error {
	return fmt.Errorf("%d messages are being handled", e.setup.counters.queue.InFlight.Load())
}

// drain ends the consumers of an engine that was started.
func (e *engine) drain(ctx context.Context) error {
	if e.abandon == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.setup.cfg.ShutdownTimeout, errShutdownTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { e.abandon(context.Cause(ctx)) })
	defer stop()
	e.halt()
	for _, g := range e.groups {
		g.Halt()
	}
	tell := e.setup.waits.While("handlers to return before stopping", e.busy)
	for _, g := range e.groups {
		g.Wait()
	}
	e.group.Wait()
	tell()
	e.abandon(ErrStopped)
	ended := e.operator.end(ctx)
	var abandoned int64
	for _, g := range e.groups {
		abandoned += g.Busy()
	}
	if abandoned > 0 {
		return errors.Join(fmt.Errorf("harebus: stop: %d handlers have not returned; their messages will be delivered again", abandoned), ended)
	}
	return ended
}

// inHandler says whether the caller is inside a handler of this engine: ctx carries
// a message that is being handled, or the goroutine is that of a busy worker. The
// goroutine is needed because Close has no context.
func (e *engine) inHandler(ctx context.Context) bool {
	m := Incoming(ctx)
	handles := func(t consume.Task) bool {
		d, ok := t.(*delivery)
		return ok && m != nil && d.shown.Load() == m
	}
	return slices.ContainsFunc(e.groups, func(g *consume.Group) bool { return g.Inside(handles) })
}

// paused says whether a pause was asked for.
func (e *engine) paused() bool {
	return slices.ContainsFunc(e.groups, (*consume.Group).Paused)
}

// oldest is the age of the message that has been in a handler for longest.
func (e *engine) oldest() time.Duration {
	var oldest time.Duration
	for _, g := range e.groups {
		oldest = max(oldest, g.Oldest())
	}
	return oldest
}
