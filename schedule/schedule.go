package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// Config configures the schedules of a service. The zero value of every field means the default
// that its comment gives.
type Config struct {
	// Queue is the queue that holds the schedules' tokens. All instances of the service use the
	// same one, and no other service does. Default: the listener queue with ".schedules".
	Queue string
	// Type is the type of that queue. Default: topology.Quorum.
	Type topology.QueueType
	// ErrorQueue receives messages of that queue that are none of ours. Default: as that of
	// harebus.Config, the queue "error".
	ErrorQueue harebus.ErrorQueueConfig
	// Logger is the log. Default: nothing is logged.
	Logger *zap.Logger
}

// Schedules are the schedules of a service. Its methods may be called from many goroutines.
type Schedules struct {
	setup    *harebus.Setup
	endpoint *harebus.Endpoint
	queue    string // of the tokens
	instance string
	log      *zap.Logger
	clock    func() time.Time

	mu     sync.Mutex // guards what follows
	leader *leader
	known  map[string]bool // the schedules that have had a token
	warned map[string]time.Time
	counts Stats
}

// Due is a due time that is handled.
type Due struct {
	// Schedule is the name of the schedule.
	Schedule string
	// At is the due time, in the time zone of the schedule. It is not changed by delays, retries
	// and Jitter.
	At time.Time
	// Previous is the due time that was fired before; zero if there was none.
	Previous time.Time
	// Missed is how many due times between Previous and At were left out.
	Missed int
}

// New adds schedules to a setup, which needs a Queue; it adds an endpoint for the queue of the
// tokens. Call it once for each setup, and before Start. It does not connect.
func New(setup *harebus.Setup, cfg Config) (*Schedules, error) {
	if setup == nil {
		return nil, errors.New("schedule: new schedules: the setup is nil")
	}
	if setup.Queue() == "" {
		return nil, fmt.Errorf("schedule: new schedules: %w; set Config.Queue, because due times are messages in it", harebus.ErrNoQueue)
	}
	if cfg.Queue == "" {
		cfg.Queue = setup.Queue() + ".schedules"
	}
	if cfg.Type == "" {
		cfg.Type = topology.Quorum
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Schedules{
		setup: setup, queue: cfg.Queue, instance: harebus.NewMessageID(), log: cfg.Logger.Named("schedule"), clock: clock,
		leader: newLeader(), known: map[string]bool{}, warned: map[string]time.Time{},
	}
	var err error
	s.endpoint, err = setup.Endpoint(harebus.EndpointConfig{
		Queue:        cfg.Queue,
		QueueOptions: harebus.QueueOptions{Type: cfg.Type, Arguments: arguments(cfg.Type)},
		Consume:      harebus.ConsumeConfig{Concurrency: 1, Prefetch: prefetch(0)},
		Handling:     harebus.HandlingConfig{Unhandled: harebus.UnhandledPark, Transactor: &runner{s}},
		ErrorQueue:   cfg.ErrorQueue,
	})
	if err != nil {
		return nil, fmt.Errorf("schedule: new schedules: %w", err)
	}
	s.serve()
	return s, nil
}

// arguments are those of the queue. Marks expire, and nothing of the queue is worth keeping
// elsewhere. Tokens come back with every takeover, which RabbitMQ 4 counts as a delivery.
func arguments(kind topology.QueueType) map[string]any {
	args := map[string]any{"x-single-active-consumer": true}
	if kind == topology.Quorum {
		args["x-delivery-limit"] = topology.LookLimit
		for _, name := range []string{"x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy", "x-overflow"} {
			args[name] = nil
		}
	}
	return args
}

const (
	// most is how many schedules a service may have.
	most = 20_000
	// longestName leaves room in the wire name of the messages.
	longestName = 200
)

// prefetch is how many tokens can be held: twice as many as there are schedules, because another
// version of the service may have others.
func prefetch(schedules int) int { return 1000 + 2*schedules }

// Add adds a schedule. handle is called once for each due time, on one instance of the service, as
// the handler of a message: its error, its retries and what it sends are as for any other. When
// an instance or the broker dies, it may be called again for the same due time, with the same
// message id.
//
// cron has the five fields of cron(8), or six with seconds in front: "0 3 * * 1-5"; or it is
// @yearly, @monthly, @weekly, @daily, @hourly, or an interval that is counted from the due time
// before: "@every 90s". The name identifies the schedule for all versions of the service. A new
// schedule is due for the first time at the next due time after the start of the service. Add
// reports every fault at once. Schedules can also be added after Start; they get their token within a
// minute.
func (s *Schedules) Add(name, cron string, handle func(ctx context.Context, bus *harebus.Bus, due Due) error, opts ...Option) error {
	o := options{definition: definition{name: name, expression: cron, zone: time.UTC, queue: s.setup.Queue()}}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	if handle == nil {
		o.faults = append(o.faults, errors.New("the handler is nil"))
	}
	if err := topology.ValidName("schedule", name); err != nil {
		o.faults = append(o.faults, err)
	} else if len(name) > longestName {
		o.faults = append(o.faults, fmt.Errorf("the name has %d bytes, more than %d", len(name), longestName))
	}
	err := o.complete()
	if err == nil {
		err = s.register(&o)
	}
	if err != nil {
		return fmt.Errorf("schedule: add %.60q: %w", name, err)
	}
	s.setup.HandleMessage(dueType(name), s.run(&o.definition, handle), s.handlerOptions(&o)...)
	return nil
}

// register makes the schedule known to the leader.
func (s *Schedules) register(o *options) error {
	s.mu.Lock()
	all := s.leader.definitions
	_, twice := all[o.name]
	full := len(all) >= most
	if !twice && !full {
		all[o.name] = &o.definition
	}
	n := len(all)
	s.mu.Unlock()
	switch {
	case twice:
		return errors.New("there is a schedule of this name already")
	case full:
		return fmt.Errorf("the service has %d schedules, which is the most", most)
	case n%500 == 0:
		return s.endpoint.SetConcurrency(1, prefetch(n))
	}
	return nil
}

// Destination is where [Schedules.AddMessage] sends to: [Self], [Queue] or [Topic].
type Destination struct {
	queue, topic string
	self         bool
}

// Self is the queue of the service.
func Self() Destination { return Destination{self: true} }

// Queue is another queue, which gets a command.
func Queue(name string) Destination { return Destination{queue: name} }

// Topic is a topic, to which an event is published.
func Topic(name string) Destination { return Destination{topic: name} }

// AddMessage adds a schedule that sends a message for each due time, to another queue, to a topic,
// or to a handler of this service. message makes it. The id of the message is the same whenever
// it is sent again for the same due time. The rest is as for [Schedules.Add].
func (s *Schedules) AddMessage(name, cron string, to Destination, message func(due Due) any, opts ...Option) error {
	var fault error
	switch {
	case message == nil:
		fault = errors.New("the function that makes the message is nil")
	case to.topic != "":
		fault = topology.ValidRoutingKey(to.topic)
	case to.queue != "":
		fault = topology.ValidName("queue", to.queue)
	case !to.self:
		fault = errors.New("the destination is empty; use Self, Queue or Topic")
	}
	if fault != nil {
		return fmt.Errorf("schedule: add %.60q: %w", name, fault)
	}
	if to.self {
		to.queue = s.setup.Queue()
	}
	return s.Add(name, cron, func(ctx context.Context, bus *harebus.Bus, due Due) error {
		if to.topic != "" {
			return bus.Publish(ctx, to.topic, message(due))
		}
		return bus.Send(ctx, to.queue, message(due))
	}, opts...)
}

// run is the handler of a schedule's messages.
func (s *Schedules) run(d *definition, handle func(context.Context, *harebus.Bus, Due) error) harebus.HandlerFunc {
	return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		var in dueMessage
		if err := m.Decode(&in); err != nil {
			return err
		}
		due := Due{Schedule: d.name, At: in.At.In(d.zone), Missed: in.Missed}
		if in.Previous != nil {
			due.Previous = in.Previous.In(d.zone)
		}
		if err := handle(ctx, bus, due); err != nil {
			return err
		}
		return s.ended(ctx, bus, d, &in)
	}
}

// ended tells the leader that a run has ended, before its message is acknowledged or parked.
func (s *Schedules) ended(ctx context.Context, bus *harebus.Bus, d *definition, in *dueMessage) error {
	if d.overlap != Skip || in.Manual {
		return nil
	}
	return bus.Send(ctx, s.queue, done{d.name, in.At}, harebus.WithType(typeDone))
}

func (s *Schedules) handlerOptions(o *options) []harebus.HandlerOption {
	d := &o.definition
	if d.overlap != Skip {
		return o.handler
	}
	return append(o.handler, harebus.WithGivenUp(func(ctx context.Context, bus *harebus.Bus, m *harebus.Message, _ error) error {
		var in dueMessage
		if err := m.Decode(&in); err != nil {
			return err
		}
		return s.ended(ctx, bus, d, &in)
	}))
}
