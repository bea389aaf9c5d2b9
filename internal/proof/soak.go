package proof

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Soak is a run against a broker of the user's own.
type Soak struct {
	// Config has the connection; queues, exchanges and retries are set by Run.
	Config harebus.Config
	// Broker is the same, for the plain client that reads what is left and cleans up.
	Broker access.Broker
	// Duration is how long messages are sent, Rate how many a second.
	Duration time.Duration
	Rate     int
	// Publishers and Consumers are how many of each work at once.
	Publishers, Consumers int
	// QueueType is the type of the queue messages go through.
	QueueType topology.QueueType
	// Progress, if any, is called about once a second.
	Progress func(Progress)
}

// Progress is a moment of a soak.
type Progress struct {
	Elapsed time.Duration
	ledger.Counts
	// InFlight is the number of confirmed messages that have not ended.
	InFlight int
	// Gap is the longest pause between confirms so far.
	Gap time.Duration
}

// soakRetries is short, so that a soak ends soon after its last message.
const (
	soakRetries = 2
	soakPause   = time.Second
	// soakPatience is how long a soak waits for messages while none ends.
	soakPatience = 30 * time.Second
)

// Run sends, waits until all is quiet, reads what is left with a plain client
// and removes what it declared. When ctx ends it stops sending and concludes.
func (s Soak) Run(ctx context.Context) (verdict *ledger.Verdict, err error) {
	name := fmt.Sprintf("harebus.soak.%d", time.Now().UnixNano())
	cfg := s.Config
	cfg.Queue, cfg.QueueOptions.Type = name, s.QueueType
	cfg.ErrorQueue = harebus.ErrorQueueConfig{Name: name + ".error"}
	cfg.Exchanges.Direct, cfg.Exchanges.Topic = name+".direct", name+".topic"
	cfg.Consume.Consumers = s.Consumers
	cfg.Retry = harebus.RetryConfig{MaxRetries: soakRetries, BackOff: func() backoff.BackOff {
		return backoff.NewConstantBackOff(soakPause)
	}}
	service, err := NewService(cfg, ledger.NewBook(), Options{Pause: soakPause, Linger: 2 * time.Second})
	if err != nil {
		return nil, err
	}
	fresh, err := s.delaysAreMissing(ctx)
	if err != nil {
		return nil, err
	}
	// Handlers and the last messages outlive ctx: it only ends the sending.
	background := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, s.cleanUp(background, cfg, fresh)) }()
	if err := service.Setup.Init(ctx); err != nil { // now, not in the middle of the first deferral
		return nil, err
	}
	if err := service.Setup.Start(ctx); err != nil {
		return nil, err
	}
	s.send(ctx, service, name)
	settleErr := service.Settle(background, soakPatience)
	stopErr := service.Setup.Stop(background)
	drain := service.drainer()
	drained := s.use(background, func(on *session.Session) error {
		return on.RPCs(background, func(next func()) error { return drain(on.Channel, next) })
	})
	if err := errors.Join(settleErr, stopErr, drained); err != nil {
		return nil, err
	}
	expect := service.Expect()
	expect.Slack = 5 * time.Millisecond
	return service.Book.Verdict(expect), nil
}

func (s Soak) send(ctx context.Context, service *Service, run string) {
	ctx, cancel := context.WithTimeout(ctx, s.Duration)
	defer cancel()
	began := time.Now()
	report := func() { s.report(service, began) }
	Load{Service: service, Run: run, Rate: s.Rate, Publishers: s.Publishers, EverySecond: report}.Send(ctx)
	report()
}

func (s Soak) report(service *Service, began time.Time) {
	if s.Progress == nil {
		return
	}
	s.Progress(Progress{
		Elapsed: time.Since(began), Counts: service.Book.Counts(),
		InFlight: len(service.Book.Pending(service.attempts)), Gap: service.Book.Gap(),
	})
}

// delaysAreMissing says whether the delay infrastructure has to be declared by
// this run, which then removes it.
func (s Soak) delaysAreMissing(ctx context.Context) (bool, error) {
	missing := false
	err := s.plainly(ctx, func(ch *amqp.Channel) error {
		exchanges := topology.Delays{}.Topology().Exchanges
		err := ch.ExchangeDeclarePassive(exchanges[0].Name, string(exchanges[0].Kind), true, false, false, false, nil)
		var broker *amqp.Error
		if errors.As(err, &broker) && broker.Code == amqp.NotFound {
			missing = true
			return nil
		}
		return err
	})
	return missing, err
}

// cleanUp removes everything the run declared.
func (s Soak) cleanUp(ctx context.Context, cfg harebus.Config, delays bool) error {
	gone := topology.Delays{}.Exit("", cfg.Queue)
	if delays {
		gone = topology.Join(topology.Delays{}.Topology(), topology.Delays{}.Cancelled(), gone)
	}
	queues := []string{cfg.Queue, cfg.ErrorQueue.Name}
	for _, q := range gone.Queues {
		queues = append(queues, q.Name)
	}
	exchanges := []string{cfg.Exchanges.Direct, cfg.Exchanges.Topic}
	for _, e := range gone.Exchanges {
		exchanges = append(exchanges, e.Name)
	}
	return s.plainly(ctx, func(ch *amqp.Channel) error {
		for _, q := range queues { // deleting what is not there is no error
			if _, err := ch.QueueDelete(q, false, false, false); err != nil {
				return fmt.Errorf("clean up: %w", err)
			}
		}
		for _, e := range exchanges {
			if err := ch.ExchangeDelete(e, false, false); err != nil {
				return fmt.Errorf("clean up: %w", err)
			}
		}
		return nil
	})
}

// soakWait is how long the plain client waits for a broker that is away.
const soakWait = time.Minute

// plainly runs fn on a channel beside the service.
func (s Soak) plainly(ctx context.Context, fn func(*amqp.Channel) error) error {
	return s.use(ctx, func(on *session.Session) error { return on.WithChannel(ctx, fn) })
}

// use runs fn with a session beside the service, and again when the connection is cut meanwhile.
func (s Soak) use(ctx context.Context, fn func(*session.Session) error) error {
	ctx, cancel := context.WithTimeout(ctx, soakWait)
	defer cancel()
	link, err := s.Broker.Link("soak")
	if err == nil {
		defer link.Close()
		err = link.With(ctx, fn)
	}
	if err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return nil
}
