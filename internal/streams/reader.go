// Package streams reads a stream on a session: whose turn it is (group.go), where to begin (probe.go), and up to where
// everything is handled (place.go). What is done with a message is the business of internal/consume.
package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/stream"
)

// Config is what a reader needs. No field is optional.
type Config struct {
	stream.Config
	// Name is that of the stream.
	Name string
	// Send publishes a token to a queue, and returns when it is confirmed.
	Send func(ctx context.Context, queue string, token []byte) error
	Log  *zap.Logger
}

// Reader reads a stream for one endpoint.
type Reader struct {
	Config
	id     string        // of this instance
	asking chan struct{} // holds a token while the store is called

	mu   sync.Mutex // guards what follows
	kept mark       // of a private reader without a store: up to here everything is handled
}

// mark is an offset up to which everything is handled, if there is one.
type mark struct {
	offset int64
	known  bool
}

// New makes a reader, with an id that no other instance has; nil without a configuration.
func New(cfg *stream.Config, name, id string, send func(context.Context, string, []byte) error, log *zap.Logger) *Reader {
	if cfg == nil {
		return nil
	}
	return &Reader{Config: Config{Config: *cfg, Name: name, Send: send, Log: log.Named("stream").With(zap.String("stream", name))}, id: id, asking: make(chan struct{}, 1)}
}

// FaultError is a reason not to read that somebody has to remove. No other attempt ends differently before.
type FaultError struct{ text string }

// Error is the reason, with what to do.
func (f *FaultError) Error() string { return f.text }

func fault(format string, args ...any) error { return &FaultError{fmt.Sprintf(format, args...)} }

// Attach waits until it is the turn of this instance, and says where to read. standBy is called when that takes long, because
// another instance reads. on is the session that will read.
func (r *Reader) Attach(ctx context.Context, on *session.Session, standBy func()) (*Place, error) {
	p := newPlace(r)
	if r.Group != "" {
		g, err := r.join(ctx, on, standBy)
		if err != nil {
			return nil, err
		}
		p.group = g
	}
	if err := p.begin(ctx, on); err != nil {
		p.group.quit()
		return nil, err
	}
	p.saved.Go(p.keepSaving)
	p.saved.Go(p.endWhenLost)
	return p, nil
}

// load returns the place that is kept.
func (r *Reader) load(ctx context.Context, g *group) (mark, error) {
	if r.Store != nil {
		kept, err := r.askPlace(ctx)
		if err != nil {
			return mark{}, fmt.Errorf("cannot load the place in the stream %s: %w", field.Quote(r.Name), err)
		}
		if kept.known && kept.offset < 0 {
			return mark{}, fault("the store returned the offset %d for the stream %s; the first one is 0", kept.offset, field.Quote(r.Name))
		}
		return kept, nil
	}
	if g != nil {
		return g.stored(), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept, nil
}

// save keeps a place.
func (r *Reader) save(ctx context.Context, g *group, offset int64) error {
	switch {
	case r.Store != nil && offset < 0:
		return nil // nothing is handled
	case r.Store != nil:
		return r.ask(ctx, func(ctx context.Context) error { return r.Store.Save(ctx, offset) })
	case g != nil:
		return g.store(ctx, offset)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = mark{offset, true}
	return nil
}

// NoReplica says that the node has no replica of the stream, so that another one has to be asked.
func NoReplica(err error) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Code == amqp.PreconditionFailed && strings.Contains(broker.Reason, "replica on the local node")
}

// refused is the error of a basic.consume, with what it means.
func (r *Reader) refused(err error) error {
	var broker *amqp.Error
	if !errors.As(err, &broker) {
		return err
	}
	name := field.Quote(r.Name)
	switch {
	case NoReplica(err):
		return fmt.Errorf("this node has no replica of the stream %s; trying another address: %w", name, err)
	case broker.Code == amqp.NotFound:
		return fmt.Errorf("the stream %s does not exist; declare it with topology.EventLog: %w", name, err)
	case broker.Code == amqp.PreconditionFailed && strings.Contains(broker.Reason, stream.Header):
		return fmt.Errorf("the queue %s is no stream, so it cannot be read as one; leave Consume.Stream out: %w", name, err)
	}
	return err
}

// saving is how often a place is kept while it changes.
const saving = 200 * time.Millisecond
