// Package tally counts what becomes of the messages of a queue, by their type, without a
// lock and without an allocation for a message.
package tally

import (
	"maps"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// MostTypes is how many types are counted apart, because types come from the network.
	MostTypes = 200
	// Other stands for all further types.
	Other = "other"
	// longest is the most bytes of a name of a type that a handler can have.
	longest = 255
)

// Queue counts the messages of one queue. The zero Queue is ready.
type Queue struct {
	Delivered, Redelivered atomic.Uint64
	InFlight               atomic.Int64

	mu    sync.Mutex // held by those who add a type
	types atomic.Pointer[map[string]*Type]
}

// Type counts the messages of one type.
type Type struct {
	Handled, Failed, Retried, Parked, Postponed, Discarded, Ignored atomic.Uint64
	// HandlingTime is of all attempts that had a handler, CriticalTime of those that
	// were a success.
	HandlingTime, CriticalTime Histogram
}

// Types returns the counts by type. The map never changes.
func (q *Queue) Types() map[string]*Type {
	if all := q.types.Load(); all != nil {
		return *all
	}
	return nil
}

// Type returns the counts of a type, or of Other if there are too many types.
func (q *Queue) Type(name string) *Type {
	if t := q.Types()[name]; t != nil {
		return t
	}
	if t := q.Types()[Other]; t != nil && len(q.Types()) > MostTypes {
		return t
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.Types()
	if all[name] == nil && len(all) >= MostTypes || !utf8.ValidString(name) || len(name) > longest {
		name = Other
	}
	if t := all[name]; t != nil {
		return t
	}
	more := make(map[string]*Type, len(all)+1)
	maps.Copy(more, all)
	more[name] = &Type{}
	q.types.Store(&more)
	return more[name]
}
