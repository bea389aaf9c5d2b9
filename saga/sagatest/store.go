package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/saga"
)

// Store keeps the instances of sagas in memory, as an outbox and [saga.SQL] keep them in a
// database: it is the endpoint's Transactor and the store of the saga at the same time. Instances, messages
// and the note that a message was handled are kept together or not at all. It is safe for
// concurrent use.
type Store struct {
	// Keep is how long handled messages and completed instances are remembered. Default: 7 days.
	Keep time.Duration

	woken chan struct{}

	mu       sync.Mutex              // guards what follows
	records  map[entry]record        // of instances
	handled  map[entry]time.Time     // by message id and queue
	locks    map[entry]chan struct{} // held by a transaction; closed at its end
	messages []harebus.Envelope      // stored and not published
	failure  error                   // of the last attempt to publish them
}

// entry is the name and the key of an instance, or the id and the queue of a message.
type entry struct{ kind, one, two string }

type record struct {
	saga.Record

	done time.Time
}

var (
	_ harebus.Transactor = (*Store)(nil)
	_ saga.Store         = (*Store)(nil)
)

// NewStore makes an empty store.
func NewStore() *Store {
	return &Store{woken: make(chan struct{}, 1), records: map[entry]record{}, handled: map[entry]time.Time{}, locks: map[entry]chan struct{}{}}
}

// transaction is what a handler does.
type transaction struct {
	store   *Store
	locked  []entry
	records map[entry]record
}

type transactionKey struct{}

// Check implements [harebus.Transactor].
func (s *Store) Check(context.Context) error { return nil }

// Transact implements [harebus.Transactor].
func (s *Store) Transact(ctx context.Context, m *harebus.Message, run func(ctx context.Context) ([]harebus.Envelope, error)) error {
	t := &transaction{store: s, records: map[entry]record{}}
	defer t.end()
	inbox := entry{"message", m.ID, m.Queue}
	if err := t.lock(ctx, inbox); err != nil {
		return err
	}
	s.mu.Lock()
	handled, ok := s.handled[inbox]
	s.mu.Unlock()
	if ok && !s.expired(handled) {
		return nil
	}
	envelopes, err := run(context.WithValue(ctx, transactionKey{}, t))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handled[inbox] = time.Now()
	maps.Copy(s.records, t.records)
	s.messages = append(s.messages, envelopes...)
	select {
	case s.woken <- struct{}{}:
	default:
	}
	return nil
}

// Run implements [harebus.Transactor].
func (s *Store) Run(ctx context.Context, bus *harebus.Bus) error {
	for {
		var again <-chan time.Time
		if !s.publish(ctx, bus) {
			again = time.After(time.Second)
		}
		select {
		case <-s.woken:
		case <-again:
		case <-ctx.Done():
			s.publish(context.WithoutCancel(ctx), bus)
			return nil
		}
	}
}

// publish publishes what is stored. It returns false if something is left.
func (s *Store) publish(ctx context.Context, bus *harebus.Bus) bool {
	s.mu.Lock()
	messages := s.messages
	s.messages = nil
	s.mu.Unlock()
	if len(messages) == 0 {
		return true
	}
	var left []harebus.Envelope
	var failure error
	for i, err := range bus.Forward(ctx, messages) {
		if err != nil {
			left, failure = append(left, messages[i]), err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages, s.failure = slices.Concat(left, s.messages), failure
	return len(left) == 0
}

// unpublished is how many messages are left, and why.
func (s *Store) unpublished() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.messages), s.failure
}

func (s *Store) expired(t time.Time) bool {
	keep := s.Keep
	if keep == 0 {
		keep = 7 * 24 * time.Hour
	}
	return time.Since(t) > keep
}

// Load implements [saga.Store].
func (s *Store) Load(ctx context.Context, name, key string, _ bool) (saga.Record, error) {
	t, err := s.transaction(ctx)
	if err != nil {
		return saga.Record{}, err
	}
	at := entry{"instance", name, key}
	if err := t.lock(ctx, at); err != nil {
		return saga.Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[at]
	if r.Done && s.expired(r.done) {
		delete(s.records, at)
		r = record{}
	}
	r.State = slices.Clone(r.State)
	return r.Record, nil
}

// Save implements [saga.Store].
func (s *Store) Save(ctx context.Context, name, key string, r saga.Record) error {
	t, err := s.transaction(ctx)
	if err != nil {
		return err
	}
	at := entry{"instance", name, key}
	s.mu.Lock()
	version := s.records[at].Version
	s.mu.Unlock()
	if version != r.Version {
		return fmt.Errorf("save %q %q: %w", name, key, saga.ErrConflict)
	}
	r.Version++
	r.State = slices.Clone(r.State)
	t.records[at] = record{r, time.Now()}
	return nil
}

func (s *Store) transaction(ctx context.Context) (*transaction, error) {
	t, ok := ctx.Value(transactionKey{}).(*transaction)
	if !ok || t.store != s {
		return nil, errors.New("sagatest: the context leads to no transaction of this store; make the store the Handling.Transactor")
	}
	return t, nil
}

// lock waits until no other transaction has the entry.
func (t *transaction) lock(ctx context.Context, at entry) error {
	if slices.Contains(t.locked, at) {
		return nil
	}
	for {
		t.store.mu.Lock()
		held := t.store.locks[at]
		if held == nil {
			t.store.locks[at] = make(chan struct{})
			t.locked = append(t.locked, at)
		}
		t.store.mu.Unlock()
		if held == nil {
			return nil
		}
		select {
		case <-held:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *transaction) end() {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	for _, at := range t.locked {
		close(t.store.locks[at])
		delete(t.store.locks, at)
	}
}

// State reads the state of an instance into what target points to. It returns false if there
// is none, or if it is completed.
func (s *Store) State(name, key string, target any) (bool, error) {
	s.mu.Lock()
	r, ok := s.records[entry{"instance", name, key}]
	s.mu.Unlock()
	if !ok || r.Done {
		return false, nil
	}
	return true, json.Unmarshal(r.State, target)
}
