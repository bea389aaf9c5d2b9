package pulse

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// The exchanges. Whoever may write to the first can ask the instances of all services, and
// whoever may write to the second can give orders to those that take some.
const (
	Exchange        = "harebus.pulse"
	ControlExchange = "harebus.control"
)

// Config says what an instance says about itself.
type Config struct {
	// Service is the name of the service. Default: Config.Queue of the service.
	Service string
	// Version is that of the program. Default: Config.Payload.Build of the service, else the
	// version of the main module.
	Version string
	// Control has the instance take orders: pause, resume, concurrency, rate and, with LogLevel,
	// log. Default: it only answers.
	Control bool
	// LogLevel, if not nil, is the level of the logger of the program. An order may change it for
	// a time, at most a day; then it is again what it was, as it is when Serve ends.
	LogLevel *zap.AtomicLevel
}

// Pulse answers for one instance of a service.
type Pulse struct {
	cfg      Config
	broker   access.Broker
	log      *zap.Logger
	instance string
	started  time.Time
	level    level

	mu       sync.Mutex // guards what follows
	used     bool
	digest   []string // what the digest is made of
	limiters []*limiter
}

// New returns a Pulse for one setup.
func New(c Config) (*Pulse, error) {
	if len(c.Service) > mostText || len(c.Version) > mostText {
		return nil, fmt.Errorf("pulse: new: Config.Service or Config.Version has more than %d bytes", mostText)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	id := harebus.NewMessageID()
	return &Pulse{cfg: c, log: zap.NewNop(), instance: fmt.Sprintf("%.100s-%d-%s", host, os.Getpid(), id[len(id)-6:]), started: time.Now(), level: level{of: c.LogLevel}}, nil
}

// Instance is the name of this instance in answers.
func (p *Pulse) Instance() string { return p.instance }

// Use takes over from the config of a setup how to connect. With Control it adds a middleware
// in front of the others, which limits the rate when that is ordered.
func (p *Pulse) Use(cfg *harebus.Config) {
	c := cfg.Connect
	urls := slices.Clone(c.URLs)
	if cfg.URL != "" {
		urls = append([]string{cfg.URL}, urls...)
	}
	if len(urls) == 0 {
		urls = []string{"amqp://guest:guest@localhost:5672/"} // as the setup has it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = true
	p.cfg.Service = cmp.Or(p.cfg.Service, cfg.Queue)
	p.cfg.Version = cmp.Or(p.cfg.Version, cfg.Payload.Build, mainVersion())
	if cfg.Logger != nil {
		p.log = cfg.Logger.Named("pulse")
	}
	p.broker = access.Broker{
		URLs: urls, Username: c.Username, Password: c.Password, Credentials: c.Credentials, ExternalAuth: c.ExternalAuth, TLS: c.TLS,
		Dial: cfg.Dial, Name: cmp.Or(c.Name, p.cfg.Service), Version: p.cfg.Version, RequestTimeout: c.RequestTimeout, Log: p.log,
	}
	p.describe(cfg.String(), cfg.Exchanges, cfg.Publish.Channels, cfg.Publish.Window, cfg.Payload.Environment)
	e := harebus.EndpointConfig{Queue: cfg.Queue, QueueOptions: cfg.QueueOptions, Subscriptions: cfg.Subscriptions, Consume: cfg.Consume, Handling: cfg.Handling, Retry: cfg.Retry, ErrorQueue: cfg.ErrorQueue}
	p.endpoint(&e)
	cfg.Handling.Middleware = e.Handling.Middleware
}

// UseEndpoint is for each further endpoint of the setup what Use is for Config.Queue. Without
// it the endpoint is shown and can be paused, but it has no rate.
func (p *Pulse) UseEndpoint(cfg *harebus.EndpointConfig) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endpoint(cfg)
}

// endpoint is called with mu held.
func (p *Pulse) endpoint(e *harebus.EndpointConfig) {
	p.describe(e.Queue, e.QueueOptions, e.Subscriptions, e.Consume, e.Handling.Timeout, e.Handling.Unhandled, e.Retry.MaxRetries, e.Retry.GiveUpAfter, e.ErrorQueue)
	if !p.cfg.Control || e.Queue == "" {
		return
	}
	l := newLimiter(e)
	p.limiters = append(p.limiters, l)
	e.Handling.Middleware = append([]harebus.Middleware{l.limit}, e.Handling.Middleware...)
}

// describe adds to the digest.
func (p *Pulse) describe(values ...any) { p.digest = append(p.digest, fmt.Sprintf("%q", values)) }

// configDigest is short, to be compared by eye.
func (p *Pulse) configDigest() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	const digits = 8
	sum := sha256.Sum256(fmt.Append(nil, p.digest))
	return hex.EncodeToString(sum[:])[:digits]
}

// limiter is that of a queue, or nil.
func (p *Pulse) limiter(queue string) *limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.limiters {
		if l.of(queue) {
			return l
		}
	}
	return nil
}

// Serve answers on a connection of its own until ctx ends, and returns nil then. It waits for a
// broker that is away. If the broker refuses what it needs, such as when the user may not use
// the exchange harebus.pulse, Serve logs that once and returns the error. The service does not
// depend on it: let Serve run in a goroutine and go on without it.
func (p *Pulse) Serve(ctx context.Context, setup *harebus.Setup) error {
	defer p.level.end()
	err := p.serve(ctx, setup)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that was wanted
	}
	p.log.Warn("nobody can ask this instance how it is; the service goes on", zap.Error(err))
	return fmt.Errorf("pulse: serve: %w", err)
}

var errNotUsed = errors.New("call Use with the config of the setup before harebus.New")

func (p *Pulse) serve(ctx context.Context, setup *harebus.Setup) error {
	p.mu.Lock()
	used := p.used
	p.mu.Unlock()
	if !used {
		return errNotUsed
	}
	link, err := p.broker.Link("pulse")
	if err != nil {
		return err
	}
	defer link.Close()
	pauses := wait.NewPauses(p.log, wait.Default)
	for {
		began := time.Now()
		err := p.attend(ctx, link, setup)
		if ctx.Err() != nil || session.Permanent(err) {
			return err
		}
		p.log.Debug("not served for a moment", zap.Error(err))
		if time.Since(began) > session.Stable {
			pauses.Reset()
		}
		wait.Sleep(ctx, wait.Next(pauses))
	}
}

// answer is what the instance says now.
func (p *Pulse) answer(setup *harebus.Setup) *Answer {
	stats := setup.Stats()
	a := &Answer{
		Instance: p.instance, Service: p.cfg.Service, Version: p.cfg.Version, Config: p.configDigest(), Started: p.started.UTC(), Clock: time.Now().UTC(),
		Control: p.cfg.Control, Connections: stats.Connections, Published: stats.Published, Unpublished: stats.Unpublished, Republished: stats.Republished,
	}
	if err := setup.Ready(); err != nil {
		a.NotReady = shorten(err.Error())
	}
	a.LogLevel, a.LogUntil = p.level.now()
	for _, e := range setup.Endpoints() {
		s := e.Stats()
		q := Queue{
			Name: e.Queue(), Paused: s.Paused, Concurrency: s.Consume.Concurrency, Prefetch: s.Consume.Prefetch, Consumers: s.Consume.Consumers,
			InHand: s.InFlight, Oldest: s.OldestInFlight, Delivered: s.Delivered, Redelivered: s.Redelivered, All: s.MessageStats, Types: s.Types,
		}
		if l := p.limiter(q.Name); l != nil {
			q.Rate = l.rate()
		}
		a.Queues = append(a.Queues, q)
	}
	return a
}

// mainVersion is that of the main module.
func mainVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}
