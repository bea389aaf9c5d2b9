package otelbus

import "sync"

// mostNames is how many values of one kind are told apart. Each is a series of a metric, and
// a series costs memory here, in the exporter and in the database.
const mostNames = 200

// table remembers what was made for a key. If there are too many keys, the others share
// those that fold gives.
type table[K comparable, V any] struct {
	create func(K) V
	fold   func(K) K

	mu    sync.RWMutex // guards what follows
	known map[K]V
}

func newTable[K comparable, V any](create func(K) V, fold func(K) K) *table[K, V] {
	return &table[K, V]{create: create, fold: fold, known: map[K]V{}}
}

// get returns the value for a key.
func (t *table[K, V]) get(key K) V {
	t.mu.RLock()
	value, ok := t.known[key]
	full := len(t.known) >= mostNames
	if !ok && full {
		key = t.fold(key)
		value, ok = t.known[key]
	}
	t.mu.RUnlock()
	if ok {
		return value
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if value, ok = t.known[key]; ok {
		return value
	}
	if len(t.known) >= mostNames {
		key = t.fold(key) // there are few of these
		if value, ok = t.known[key]; ok {
			return value
		}
	}
	value = t.create(key)
	t.known[key] = value
	return value
}
