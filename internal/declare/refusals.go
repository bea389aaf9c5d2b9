package declare

import (
	"errors"
	"fmt"
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
