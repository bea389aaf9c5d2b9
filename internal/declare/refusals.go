package declare

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/session"
)

// refused is an object that the broker refuses to declare.
type refused struct {
	queue string // the queue that it is, or to which it leads; empty for an exchange, and for a check
	err   error
}

// refusals collects the objects that the broker refuses to declare. A nil one collects
// nothing: then the first refusal is an error.
type refusals struct {
	list  []refused
	ended int // connections that a declaration has ended
}

func (r *refusals) take(queue string, err error) error {
	if r == nil || err == nil || (!session.Permanent(err) && !session.Unreachable(err)) {
		return err
	}
	return r.add(queue, err)
}

func (r *refusals) add(queue string, err error) error {
	r.list = append(r.list, refused{queue, err})
	return nil
}

// note logs and remembers what was refused. The caller has the turn.
func (d *Declarer) note(r *refusals) {
	var list []refused
	if r != nil {
		list = r.list
	}
	d.doubts.note(list)
	if err := joined(list); err != nil {
		d.warn(textOf(r), err)
	}
}

// textOf is what a log says of refusals.
func textOf(r *refusals) string {
	if r != nil && r.ended > 0 {
		return "the connection ends when objects of this service are declared; it continues with the existing ones, and declares" +
			" on connections of their own, after growing pauses. See the broker's log for the reason, and remove these objects from Config or repair the broker"
	}
	return "the broker refuses to declare objects of this service; it continues to consume from the existing ones," +
		" and tries to declare again every minute. Give the user the permissions back, or remove the refused objects from Config"
}

// warn logs once a minute at most.
func (d *Declarer) warn(text string, err error) {
	const pause = time.Minute
	now := time.Now()
	if until := d.quiet.Load(); now.UnixNano() > until && d.quiet.CompareAndSwap(until, now.Add(pause-time.Second).UnixNano()) {
		d.cfg.Log.Warn(text, zap.Error(err))
	}
}

// joined joins the errors, and counts those that would make the text too long.
func joined(list []refused) error {
	const most = 5
	var errs []error
	for _, r := range list[:min(most, len(list))] {
		errs = append(errs, r.err)
	}
	if len(list) > most {
		errs = []error{errors.Join(errs...), fmt.Errorf("and %d more", len(list)-most)}
	}
	return errors.Join(errs...)
}

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
