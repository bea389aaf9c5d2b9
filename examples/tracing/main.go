// Command tracing follows one message through two services with an Observer, the
// interface for OpenTelemetry and metrics. This one passes an id from sender to
// receiver in a header, and records what it sees.
//
//	go run ./examples/tracing     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// Ping is a command.
type Ping struct{}

// MessageType is the wire name.
func (Ping) MessageType() string { return "Ping" }

// Pong is the reply.
type Pong struct{}

// MessageType is the wire name.
func (Pong) MessageType() string { return "Pong" }

const traceHeader = "trace-id"

type traceKey struct{}

// recorder notes each finished operation under its trace.
type recorder struct {
	mu     sync.Mutex // guards traces
	traces map[string][]string
}

// ObserveStart puts the trace of an incoming message into the context, and the
// trace of the context into an outgoing message.
func (r *recorder) ObserveStart(ctx context.Context, event harebus.Observation) context.Context {
	if event.Incoming != nil {
		return context.WithValue(ctx, traceKey{}, event.Incoming.Headers[traceHeader])
	}
	if trace := ctx.Value(traceKey{}); trace != nil && event.Headers != nil {
		event.Headers[traceHeader] = trace
	}
	return ctx
}

// ObserveEnd notes the operation.
func (r *recorder) ObserveEnd(ctx context.Context, event harebus.Observation, err error) {
	trace, ok := ctx.Value(traceKey{}).(string)
	if !ok {
		return // connecting belongs to no message
	}
	what := event.Operation.String()
	if event.Incoming != nil {
		what += " " + event.Incoming.Type
	}
	if err != nil {
		what += ": " + err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.traces[trace] = append(r.traces[trace], what)
}

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	rec := &recorder{traces: map[string][]string{}}
	cfg.Observers = []harebus.Observer{rec}

	cfg.Queue = "examples.pong"
	ponger, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	harebus.Handle(ponger, func(ctx context.Context, bus *harebus.Bus, _ Ping) error {
		return bus.Reply(ctx, Pong{})
	})
	if err := ponger.Start(ctx); err != nil {
		return err
	}

	cfg.Queue = "examples.ping"
	pinger, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	answered := make(chan struct{})
	harebus.Handle(pinger, func(context.Context, *harebus.Bus, Pong) error {
		close(answered)
		return nil
	})
	if err := pinger.Start(ctx); err != nil {
		return err
	}

	ctx = context.WithValue(ctx, traceKey{}, "trace-1")
	if err := pinger.Bus().Send(ctx, "examples.pong", Ping{}); err != nil {
		return err
	}
	<-answered
	if err := pinger.Close(); err != nil {
		return err
	}
	if err := ponger.Close(); err != nil {
		return err
	}
	steps := rec.traces["trace-1"] // no goroutine uses it any more
	slices.Sort(steps)
	fmt.Fprintln(out, strings.Join(steps, ", "))
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	logger := zap.Must(zap.NewProduction(zap.IncreaseLevel(zap.WarnLevel)))
	err := run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
