package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/harebus/harebus"
)

// An Option changes how [Run] runs.
type Option func(*options)

type options struct {
	listener net.Listener
	pause    time.Duration
	timeout  time.Duration
}

// WithListener has the server take its connections from l, which Run closes, instead
// of listening on the address of the server.
func WithListener(l net.Listener) Option { return func(o *options) { o.listener = l } }

// WithPause lets Run continue to serve for d after readiness has begun to fail, so that
// load balancers notice it before the server stops accepting connections. Default: no
// pause.
func WithPause(d time.Duration) Option { return func(o *options) { o.pause = d } }

// WithRequestTimeout is how long running requests may take to finish once the server
// accepts no new ones; then their connections are closed. Default: 15 s.
func WithRequestTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// Run serves HTTP and consumes until ctx ends, then stops both; a service's main needs
// nothing else. It serves HTTP before the setup has started, so that [Probes] answer while
// the setup waits for the broker. A server with a TLSConfig serves TLS. A setup without a
// queue only sends.
//
// When ctx ends, /ready of [Probes] fails; after the pause the server accepts no new
// requests, and running ones finish, which may still publish; then the setup stops,
// within its shutdown timeout. A setup that cannot start ends the server, and a server
// that fails ends the setup, without a pause. The result is nil after a clean stop, else
// all errors joined.
//
// When Run returns, all its goroutines have ended; the server cannot be used again.
// The contexts of requests have the values of ctx, unless the server has a
// BaseContext.
func Run(ctx context.Context, setup *harebus.Setup, server *http.Server, opts ...Option) error {
	r := &runner{options: options{timeout: 15 * time.Second}, setup: setup, server: server}
	for _, opt := range opts {
		opt(&r.options)
	}
	if err := r.listen(ctx); err != nil {
		return fmt.Errorf("service: listen: %w", err)
	}
	r.running, r.stop = context.WithCancel(ctx)
	r.markRequests(ctx)
	r.parts.Go(r.serve)
	r.parts.Go(r.start)
	<-r.running.Done()
	return r.end()
}

// runner is one call of Run.
type runner struct {
	options
	setup   *harebus.Setup
	server  *http.Server
	running context.Context // ends when stopping begins
	stop    context.CancelFunc
	parts   sync.WaitGroup // serve and start

	mu       sync.Mutex // guards failures
	failures []error    // of the parts, before stopping began
}

func (r *runner) listen(ctx context.Context) error {
	if r.listener != nil {
		return nil
	}
	address := r.server.Addr
	if address == "" {
		address = ":http"
		if r.server.TLSConfig != nil {
			address = ":https"
		}
	}
	var lc net.ListenConfig
	var err error
	r.listener, err = lc.Listen(ctx, "tcp", address)
	return err
}

// runningKey is the key of the runner's context in those of its requests.
type runningKey struct{}

// markRequests lets Probes see whether stopping has begun.
func (r *runner) markRequests(ctx context.Context) {
	base := r.server.BaseContext
	if base == nil {
		base = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	}
	r.server.BaseContext = func(l net.Listener) context.Context {
		return context.WithValue(base(l), runningKey{}, r.running)
	}
}

func (r *runner) serve() {
	var err error
	if r.server.TLSConfig != nil {
		err = r.server.ServeTLS(r.listener, "", "")
	} else {
		err = r.server.Serve(r.listener)
	}
	if !errors.Is(err, http.ErrServerClosed) || r.running.Err() == nil {
		r.fail(fmt.Errorf("service: serve: %w", err))
	}
}

func (r *runner) start() {
	err := r.setup.Start(r.running)
	if err != nil && !errors.Is(err, harebus.ErrNoQueue) && r.running.Err() == nil {
		r.fail(err)
	}
}

// fail has both end because one cannot go on.
func (r *runner) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, err)
	r.stop()
}

func (r *runner) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.failures...)
}

// end stops what runs: whoever publishes first, the bus last.
func (r *runner) end() error {
	if r.failed() == nil {
		<-time.After(r.pause)
	}
	finish, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	err := r.server.Shutdown(finish)
	if err != nil {
		err = fmt.Errorf("service: requests have not finished within %v: %w", r.timeout, errors.Join(err, r.server.Close()))
	}
	r.parts.Wait()
	return errors.Join(r.failed(), err, r.setup.Close())
}
