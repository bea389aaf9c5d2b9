package saga

import (
	"context"
	"errors"

	"github.com/harebus/harebus/outbox"
)

// Record is an instance as a [Store] keeps it.
type Record struct {
	// Version counts how often the instance was saved. It is 0 if there is none.
	Version int64
	// Run is the id of the message that started the instance. A key can have one run after
	// another.
	Run string
	// Done says that the instance was completed. Its record is kept for a while: a message for
	// a completed instance is late and is dropped, and one for an unknown key may be early and
	// is retried.
	Done bool
	// Format is the Config.Version that the state was written with.
	Format int
	// State is JSON; empty if the instance is done.
	State []byte
}

// Store keeps instances. Its methods are called in the transaction of a handler: the context
// leads to it, and what Save writes must be kept only if that transaction is committed. [SQL]
// is the store for an outbox; sagatest has one in memory. Names and keys have 1 to 255 bytes
// of valid UTF-8 without the byte 0; those that differ in case only are different.
type Store interface {
	// Load returns an instance, and locks its key until the end of the transaction: another
	// Load of the key waits. Start says that the message can start an instance. Then the key
	// must be locked also if there is no instance; else nothing needs to be done for a key that
	// has none.
	Load(ctx context.Context, saga, key string, start bool) (Record, error)
	// Save writes an instance whose Version is the one that Load returned, and raises it. If
	// the stored version is a different one, it returns an error that matches ErrConflict: the
	// message is handled again soon, and that does not count as a failure. A store that cannot
	// lock in Load needs only this check. A record that is Done must be kept for some days.
	Save(ctx context.Context, saga, key string, r Record) error
}

// ErrConflict says that somebody else has saved the instance since it was loaded.
var ErrConflict = errors.New("somebody else has saved the instance since it was loaded")

// SQL is the store in the database of the outbox that is the endpoint's Handling.Transactor:
// the table harebus_saga, which is a part of [outbox.Schema]. With [outbox.Route] each tenant
// has its own. What is left of completed instances is removed after Config.Keep of the outbox.
func SQL() Store { return table{} }

type table struct{}

func (table) Load(ctx context.Context, saga, key string, start bool) (Record, error) {
	row, err := outbox.LoadSaga(ctx, saga, key, start)
	return Record(row), err
}

func (table) Save(ctx context.Context, saga, key string, r Record) error {
	saved, err := outbox.SaveSaga(ctx, saga, key, outbox.SagaRow(r))
	if err == nil && !saved {
		err = ErrConflict
	}
	return err
}
