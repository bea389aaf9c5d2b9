package saga

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// handling is one message and the step that handles it.
type handling[S any] struct {
	saga    *saga
	bus     *harebus.Bus
	kind    kind
	message *harebus.Message
	key     string
	run     string // of a timeout
	step    func(ctx context.Context, i *Instance[S]) error
}

// timeout handles a message of Timeout: its headers name the instance and the run.
func (r *handling[S]) timeout(ctx context.Context) error {
	header := func(name string) string {
		text, _ := r.message.Headers[name].(string)
		return text
	}
	r.key, r.run = header(headerKey), header(headerRun)
	if header(headerSaga) != r.saga.name || r.run == "" {
		return harebus.NoRetry(fmt.Errorf("saga: %s: a message of type %q was not sent by Timeout of this saga", r.saga.name, r.message.Type))
	}
	return r.handle(ctx)
}

// handle loads the instance, runs the step, and saves.
func (r *handling[S]) handle(ctx context.Context) error {
	if err := checkText(r.key); err != nil {
		return harebus.NoRetry(r.failed("the key of a message of type %q %w", r.message.Type, err))
	}
	record, err := r.saga.Store.Load(ctx, r.saga.name, r.key, r.kind == start)
	if err != nil {
		return r.failed("%w", err)
	}
	if why := r.dropReason(record); why != "" {
		r.saga.Logger.Info("saga: a message is dropped", zap.String("saga", r.saga.name), zap.String("reason", why),
			zap.String("type", r.message.Type), zap.String("message_id", r.message.ID))
		return nil
	}
	if record.Version == 0 && r.kind != start {
		if r.saga.Unknown != nil {
			return r.saga.Unknown(ctx, r.bus, r.message)
		}
		return r.failed("key %q: %w", r.key, ErrUnknown)
	}
	return r.proceed(ctx, record)
}

// dropReason is why a message is dropped without its step; empty if it is not.
func (r *handling[S]) dropReason(record Record) string {
	switch {
	case r.kind == times && (record.Done || record.Run != r.run):
		return "the instance that has sent this timeout has ended"
	case r.kind == goes && record.Done:
		return "the instance has ended"
	case r.kind == start && record.Version > 0 && record.Run == runID(r.message):
		return "this message has started the instance already"
	}
	return ""
}

// runID makes the id of a run: that of the message that starts it, in a form that databases
// can keep.
func runID(m *harebus.Message) string {
	if checkText(m.ID) == nil {
		return m.ID
	}
	sum := sha256.Sum256([]byte(m.ID))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// proceed runs the step of an instance that exists or begins.
func (r *handling[S]) proceed(ctx context.Context, record Record) error {
	i := &Instance[S]{Sender: r.bus, Key: r.key, saga: r.saga, queue: r.message.Queue}
	if record.Version == 0 || record.Done {
		i.New = true
		record.Run = runID(r.message)
	} else if err := decode(record, r.saga.Version, &i.State); err != nil {
		return r.failed("key %q: %w", r.key, err)
	}
	i.run = record.Run
	if err := r.step(ctx, i); err != nil {
		return err
	}
	record.Done, record.Format, record.State = i.complete, r.saga.Version, nil
	if !i.complete {
		var err error
		if record.State, err = encode(i.State); err != nil {
			return harebus.NoRetry(r.failed("key %q: the state cannot be written: %w", r.key, err))
		}
	}
	err := r.saga.Store.Save(ctx, r.saga.name, r.key, record)
	if errors.Is(err, ErrConflict) {
		const soon = 100 * time.Millisecond
		return harebus.Postpone(soon, r.failed("key %q: %w", r.key, err))
	}
	if err != nil {
		return r.failed("%w", err)
	}
	return nil
}

func (r *handling[S]) failed(format string, args ...any) error {
	return fmt.Errorf("saga: %s: %w", r.saga.name, fmt.Errorf(format, args...))
}
