package seal

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Wrapper is a key service that encrypts and decrypts keys with a key that never leaves it. It
// is safe for concurrent use; at most four calls run at once, for at most ten seconds each.
type Wrapper interface {
	// Wrap encrypts a key of 32 bytes, to at most 768 bytes.
	Wrap(ctx context.Context, key []byte) ([]byte, error)
	// Unwrap decrypts it. wrapped comes from a message and may be anything: allow only the
	// master keys that you use. If the service does not know it, the error wraps
	// [ErrUnknownKey]. Every other error means that the service cannot be used now.
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

const (
	dataKeyAge      = time.Hour
	dataKeyUses     = 1 << 20
	dataKeyEnd      = 24 * time.Hour // while the service is away
	openedKeys      = 1000
	openedAge       = 24 * time.Hour
	failedKeys      = 1000
	unknownFor      = time.Minute
	wrapperCalls    = 4
	wrapperPatience = 10 * time.Second
	maxWrapped      = maxKeyID * 3 / 4
)

// Envelope returns Keys whose data keys a key service wraps. The wrapped key travels with
// each message as its key id. A process makes a data key when it first needs one, and another one after an
// hour or a million messages; if the service is away then, the old one is used for up to a
// day. Up to 1,000 keys of received messages are kept for a day. Failures are remembered for a while, so that
// neither an outage nor foreign key ids cause many calls.
func Envelope(w Wrapper) Keys {
	return &envelope{wrapper: w, calls: make(chan struct{}, wrapperCalls), opened: map[string]*openedKey{}, failed: map[string]*failedKey{}, flights: map[string]*flight{}}
}

type envelope struct {
	wrapper Wrapper
	calls   chan struct{} // one for each call under way

	mu      sync.Mutex // guards what follows
	current *Key
	made    time.Time
	uses    int
	opened  map[string]*openedKey
	failed  map[string]*failedKey // the id "" is the making of a data key
	flights map[string]*flight
}

type openedKey struct {
	key          *Key
	since, asked time.Time
}

type failedKey struct {
	err   error
	count int
	until time.Time
}

// flight is a call under way, for which everybody who needs the same key waits.
type flight struct {
	done chan struct{}
	key  *Key
	err  error
}

// Current returns the data key of this process.
func (e *envelope) Current(ctx context.Context) (*Key, error) {
	e.mu.Lock()
	age := time.Since(e.made)
	if e.current != nil && age < dataKeyAge && e.uses < dataKeyUses {
		defer e.mu.Unlock()
		e.uses++
		return e.current, nil
	}
	old := e.current
	if old != nil && age >= dataKeyEnd {
		old = nil
	}
	if old != nil && e.flights[""] != nil {
		e.mu.Unlock()
		return old, nil
	}
	key, err := e.fetch(ctx, "", e.make)
	if err != nil && old != nil {
		return old, nil //nolint:nilerr // the old key is as good until its end
	}
	return key, err
}

// Key returns the key that was wrapped to the id.
func (e *envelope) Key(ctx context.Context, id string) (*Key, error) {
	wrapped, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || len(wrapped) == 0 || len(wrapped) > maxWrapped {
		return nil, fmt.Errorf("%w: the id is no wrapped key", ErrUnknownKey)
	}
	e.mu.Lock()
	if o := e.opened[id]; o != nil {
		if now := time.Now(); now.Sub(o.since) < openedAge {
			defer e.mu.Unlock()
			o.asked = now
			return o.key, nil
		}
		delete(e.opened, id)
	}
	return e.fetch(ctx, id, func(ctx context.Context) (*Key, error) {
		secret, err := e.wrapper.Unwrap(ctx, wrapped)
		if err != nil {
			return nil, fmt.Errorf("unwrap a key: %w", err)
		}
		if len(secret) != secretSize {
			return nil, fmt.Errorf("%w: unwrapped, it has %d bytes", ErrUnknownKey, len(secret))
		}
		return NewKey(id, secret)
	})
}

// fetch makes one call for all who need the same key, unless a call has failed a short time
// ago. It is called with the lock and returns without it.
func (e *envelope) fetch(ctx context.Context, id string, call func(context.Context) (*Key, error)) (*Key, error) {
	if f := e.failed[id]; f != nil && time.Now().Before(f.until) {
		e.mu.Unlock()
		return nil, f.err
	}
	if f := e.flights[id]; f != nil {
		e.mu.Unlock()
		select {
		case <-f.done:
			return f.key, f.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	f := &flight{done: make(chan struct{}), err: errors.New("the key service panicked")}
	e.flights[id] = f
	e.mu.Unlock()
	defer e.land(id, f)
	// The others must not fail because the context of this one ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wrapperPatience)
	defer cancel()
	select {
	case e.calls <- struct{}{}:
		defer func() { <-e.calls }()
		f.key, f.err = call(ctx)
	case <-ctx.Done():
		f.err = errors.New("too many calls of the key service are under way")
	}
	return f.key, f.err
}

// land keeps the result of a call.
func (e *envelope) land(id string, f *flight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(f.done)
	delete(e.flights, id)
	now := time.Now()
	if f.err != nil {
		e.fail(id, f.err, now)
		return
	}
	delete(e.failed, id)
	if id == "" {
		e.current, e.made, e.uses = f.key, now, 1
		id = f.key.id
	}
	if len(e.opened) >= openedKeys {
		drop(e.opened, func(o *openedKey) time.Time { return o.asked })
	}
	e.opened[id] = &openedKey{f.key, now, now}
}

// fail remembers a failure: an unknown key for a minute, an outage for a second at first and
// for half a minute when it lasts.
func (e *envelope) fail(id string, err error, now time.Time) {
	f := e.failed[id]
	if f == nil {
		if len(e.failed) >= failedKeys {
			drop(e.failed, func(f *failedKey) time.Time { return f.until })
		}
		f = &failedKey{}
		e.failed[id] = f
	}
	pause := min(time.Second<<min(f.count, 5), 30*time.Second)
	if errors.Is(err, ErrUnknownKey) {
		pause = unknownFor
	}
	f.err, f.until = err, now.Add(pause)
	f.count++
}

// make makes a data key.
func (e *envelope) make(ctx context.Context) (*Key, error) {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails: it ends the process instead
	wrapped, err := e.wrapper.Wrap(ctx, secret)
	switch {
	case err != nil:
		return nil, fmt.Errorf("wrap a new key: %w", err)
	case len(wrapped) == 0 || len(wrapped) > maxWrapped:
		return nil, fmt.Errorf("wrap a new key: the service returned %d bytes; an id can hold %d", len(wrapped), maxWrapped)
	}
	return NewKey(base64.RawURLEncoding.EncodeToString(wrapped), secret)
}

// drop removes the entry with the earliest time.
func drop[V any](m map[string]V, when func(V) time.Time) {
	var oldest string
	var earliest time.Time
	for id, v := range m {
		if t := when(v); oldest == "" && earliest.IsZero() || t.Before(earliest) {
			oldest, earliest = id, t
		}
	}
	delete(m, oldest)
}
