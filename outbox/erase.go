package outbox

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"
)

// pending notes that a lane has published rows to delete. They are deleted also if another
// process has taken the lane over meanwhile.
func (r *relay) pending(l *lane) {
	r.outbox.mu.Lock()
	r.toErase[l] = true
	r.outbox.mu.Unlock()
	select {
	case r.erasing <- struct{}{}:
	default:
	}
}

// keepErasing deletes published rows until over ends, and then what is left.
func (r *relay) keepErasing(over context.Context) {
	for {
		select {
		case <-r.erasing:
		case <-over.Done():
			r.eraseAll(context.WithoutCancel(over))
			return
		}
		pause := eraseEvery // to delete many at once
		if !r.eraseAll(over) {
			const afterFailure = time.Second
			pause = afterFailure
			select {
			case r.erasing <- struct{}{}:
			default:
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-over.Done():
		}
		t.Stop()
	}
}

// eraseAll deletes what has been published so far. It returns false if it could not; the
// rows stay known, so they are not published again meanwhile.
func (r *relay) eraseAll(ctx context.Context) bool {
	for {
		l, ids := r.someGone()
		if l == nil {
			return true
		}
		text, args := r.outbox.cfg.Dialect.deleteRows(l.number, ids)
		_, err := r.exec(ctx, text, args...)
		r.outbox.mu.Lock()
		if err != nil {
			l.gone = append(l.gone, ids...)
			r.toErase[l] = true
			r.outbox.mu.Unlock()
			r.outbox.log.Warn("outbox: cannot delete published messages; trying again", zap.Error(err))
			return false
		}
		l.erased = append(l.erased, ids...)
		r.outbox.mu.Unlock()
	}
}

func (r *relay) someGone() (*lane, []int64) {
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	for l := range r.toErase {
		n := min(len(l.gone), eraseMost)
		ids := l.gone[:n:n]
		if l.gone = l.gone[n:]; len(l.gone) == 0 {
			l.gone = nil
			delete(r.toErase, l)
		}
		if n > 0 {
			return l, ids
		}
	}
	return nil, nil
}

// mostReason is how many bytes of the reason for a refusal are kept.
const mostReason = 500

// setAside moves a message that the broker has refused into the lane of refused ones, where
// it is tried again after growing pauses, and holds up nobody. With errFull it was not tried,
// so that counts as no attempt.
func (r *relay) setAside(l *lane, refused row, reason error) {
	o, tried := r.outbox, 1
	if errors.Is(reason, errFull) {
		tried = 0
	}
	o.counters.refused.Add(uint64(tried)) //nolint:gosec // 0 or 1
	text := strings.ToValidUTF8(strings.ReplaceAll(reason.Error(), "\x00", ""), "?")
	if len(text) > mostReason {
		text = strings.ToValidUTF8(text[:mostReason], "")
	}
	o.log.Warn("outbox: the broker refuses a message; it is set aside and tried again later", zap.Int64("id", refused.id), zap.String("message_id", refused.envelope.MessageID()), zap.Error(reason))
	err := r.moveAside(l, refused.id, text, tried)
	if err != nil {
		r.redo(l, []row{refused})
		r.failed("cannot set a refused message aside", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l.erased = append(l.erased, refused.id)
}

func (r *relay) moveAside(l *lane, id int64, reason string, tried int) error {
	const least, most, doublings = 2 * time.Second, 10 * time.Minute, 9
	ctx, d := context.WithoutCancel(r.sending), r.outbox.cfg.Dialect
	var attempts int64
	err := r.query(ctx, "select attempts from #outbox where lane = ? and id = ?", []any{l.number, id}, func(scan func(...any) error) error { return scan(&attempts) })
	if err != nil {
		return err
	}
	pause := min(least<<min(attempts, doublings), most).Milliseconds()
	move := func(to int64) error {
		_, err := r.exec(ctx, "update #outbox set lane = -1, id = ?, attempts = attempts + ?, last_error = ?, not_before = "+d.in()+" where lane = ? and id = ?",
			to, tried, reason, pause, l.number, id)
		return err
	}
	if err = move(id); err != nil {
		err = move(r.outbox.nextID(1)) // a row of another lane may have had the same id
	}
	return err
}
