package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// watch is what the last looks at the backlog have found. Outbox.mu guards it.
type watch struct {
	looked time.Time // when the table was last read, or checked
	failed error     // why it could not be read since
	behind error     // nil while the relay keeps up
	lag    time.Duration
}

// lookEvery is the pause between two looks at the backlog.
func (c *Config) lookEvery() time.Duration {
	const most, looks = 5 * time.Second, 4 // looks in the time of Behind
	if c.Behind < 0 {
		return most
	}
	return min(c.Behind/looks, most)
}

// keepWatching looks at the backlog until over ends, and tells the observers.
func (r *relay) keepWatching(over context.Context) {
	tick := time.NewTicker(r.outbox.cfg.lookEvery())
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.look(over)
		case <-over.Done():
			return
		}
	}
}

func (r *relay) look(ctx context.Context) {
	limited, cancel := r.limited(ctx)
	defer cancel()
	backlog, err := r.measure(limited)
	if ctx.Err() != nil { // stopped
		return
	}
	o := r.outbox
	if err != nil {
		o.blind(err)
		r.bus.Observe(ctx, harebus.Observation{Operation: harebus.OpBacklog}, o.fault("look at the backlog", err))
		return
	}
	refused := r.refusedNames(limited, backlog.Refused)
	behind := o.judge(backlog, refused)
	o.mu.Lock()
	before := o.watch.behind
	o.watch.looked, o.watch.failed, o.watch.behind = time.Now(), nil, behind
	o.mu.Unlock()
	switch {
	case behind != nil && before == nil:
		o.log.Warn("outbox: it has fallen behind", zap.Error(behind))
	case behind == nil && before != nil:
		o.log.Info("outbox: it has caught up")
	}
	if behind == nil && refused != "" {
		behind = errors.New("harebus: outbox" + o.name() + ": " + refused)
	}
	r.bus.Observe(ctx, harebus.Observation{Operation: harebus.OpBacklog, Backlog: &backlog}, behind)
}

// measure counts what waits in the lanes of this process.
func (r *relay) measure(ctx context.Context) (harebus.Backlog, error) {
	o := r.outbox
	o.mu.Lock()
	lanes := slices.Clone(r.lanes)
	b := harebus.Backlog{Name: o.cfg.Name, Lag: o.watch.lag}
	o.watch.lag = 0
	o.mu.Unlock()
	for _, l := range lanes {
		n, oldest, err := o.count(ctx, l.number)
		if err != nil {
			return b, err
		}
		if l.number == refusedLane {
			b.Refused = n
			continue
		}
		b.Waiting, b.Oldest = b.Waiting+n, max(b.Oldest, oldest)
	}
	return b, nil
}

// refusedNames names some of the messages that were set aside.
func (r *relay) refusedNames(ctx context.Context, n int) string {
	if n == 0 {
		return ""
	}
	const most = 3
	some, err := r.outbox.Refused(ctx, most)
	if err != nil {
		return fmt.Sprintf("%d refused messages, which cannot be listed: %v", n, err)
	}
	names := make([]string, len(some))
	for i, one := range some {
		names[i] = fmt.Sprintf("id %d, message %q to exchange %q with key %q, after %d attempts: %s", one.ID, one.MessageID, one.Exchange, one.RoutingKey, one.Attempts, one.Reason)
	}
	return fmt.Sprintf("%d refused messages, the first: %s", n, strings.Join(names, "; "))
}

// judge says whether the relay is behind, and why one should care.
func (o *Outbox) judge(b harebus.Backlog, refused string) error {
	if o.cfg.Behind < 0 || b.Oldest <= o.cfg.Behind {
		return nil
	}
	if refused != "" {
		refused = "; apart from these there are " + refused
	}
	return fmt.Errorf("harebus: outbox%s: %d stored messages wait to be published, the oldest for %v, which is more than %v (Behind)%s",
		o.name(), b.Waiting, b.Oldest.Round(time.Millisecond), o.cfg.Behind, refused)
}

// Ready says whether the outbox keeps up. It fails while a message of this process waits for
// longer than Config.Behind (also one that is published and whose row cannot be deleted), or while the table cannot be read for that time. Messages that
// the broker refuses do not make it fail, because one of them would then stop every instance
// of the service; it names some of them when it fails. [harebus.Setup.Ready] calls it.
func (o *Outbox) Ready() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := &o.watch
	if o.cfg.Behind < 0 || w.looked.IsZero() {
		return nil
	}
	if blind := time.Since(w.looked); blind > o.cfg.Behind+o.cfg.lookEvery() {
		err := w.failed
		if err == nil {
			err = errors.New("the relay does not answer")
		}
		return o.fault(fmt.Sprintf("look at the backlog for %v", blind.Round(time.Second)), err)
	}
	return w.behind
}

// blind notes why the table cannot be read.
func (o *Outbox) blind(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watch.failed = err
}

// seen notes that the table was read.
func (o *Outbox) seen() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watch.looked = time.Now()
}

// confirmed notes how long messages have taken that the broker has confirmed. It is called
// with Outbox.mu held.
func (o *Outbox) confirmed(longest time.Duration) {
	o.watch.lag = max(o.watch.lag, longest)
}

// name is Config.Name behind a space.
func (o *Outbox) name() string {
	if o.cfg.Name == "" {
		return ""
	}
	return " " + o.cfg.Name
}

func (o *Outbox) fault(what string, err error) error {
	return fmt.Errorf("harebus: outbox%s: cannot %s: %w", o.name(), what, err)
}
