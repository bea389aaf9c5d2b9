package declare

import (
	"maps"
	"slices"
	"sync"

	"github.com/harebus/harebus/internal/session"
)

// Doubt notes that a queue may have been deleted, and its bindings with it.
func (d *Declarer) Doubt(queue string) {
	d.doubts.mu.Lock()
	defer d.doubts.mu.Unlock()
	d.doubts.queues[queue] = struct{}{}
}

// Undeclared is what may be missing on the broker, because it was refused when a queue
// had to be declared again.
func (d *Declarer) Undeclared() error {
	d.doubts.mu.Lock()
	defer d.doubts.mu.Unlock()
	var missing []refused
	for _, r := range d.doubts.all() {
		if _, ok := d.doubts.queues[r.queue]; ok || (r.queue == "" && len(d.doubts.queues) > 0) {
			missing = append(missing, r)
		}
	}
	return joined(missing)
}

// UndeclaredOf is Undeclared for one queue.
func (d *Declarer) UndeclaredOf(queue string) error {
	d.doubts.mu.Lock()
	defer d.doubts.mu.Unlock()
	if _, ok := d.doubts.queues[queue]; !ok {
		return nil
	}
	return joined(d.doubts.of(queue))
}

// doubts are the queues that may be missing on the broker, or lack a binding, and what the
// broker refused to declare.
type doubts struct {
	mu      sync.Mutex          // guards what follows
	queues  map[string]struct{} // not declared completely since they were doubted
	refused []refused           // by the latest declaration
	// exclusive is what was refused of exclusive queues, which are declared apart from the rest.
	exclusive []refused
}

// note remembers the refusals of a complete declaration. The queues that it declared
// without one are not doubted any more.
func (d *doubts) note(list []refused) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = list
	for _, r := range list {
		if session.Unreachable(r.err) {
			d.queues[r.queue] = struct{}{}
		}
	}
	maps.DeleteFunc(d.queues, func(queue string, _ struct{}) bool { return len(d.of(queue)) == 0 })
}

// of is what was refused of a queue, and of what several queues share.
func (d *doubts) of(queue string) []refused {
	var list []refused
	for _, r := range d.all() {
		if r.queue == queue || r.queue == "" {
			list = append(list, r)
		}
	}
	return list
}

func (d *doubts) all() []refused { return slices.Concat(d.refused, d.exclusive) }

func (d *doubts) noteExclusive(list []refused) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.exclusive = list
	maps.DeleteFunc(d.queues, func(queue string, _ struct{}) bool { return len(d.of(queue)) == 0 })
}
