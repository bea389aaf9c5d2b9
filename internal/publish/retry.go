package publish

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus/internal/session"
)

// nextTry says whether and when a message is sent again.
type nextTry int8

const (
	giveUp nextTry = iota
	tryLater
	tryNow
)

// again decides whether and when another attempt makes sense, and by which way.
// round is the number of the pause before it: they double from 30 ms to a second.
func (o *Message) again(r *result, round int) nextTry {
	// A classic queue whose node is down is not routable for a while. Channels
	// nack while a quorum queue has no leader, and those that were opened then until
	// they are replaced. That is a second and five seconds of attempts.
	const few, some = 6, 10
	if r.began == 0 {
		r.began = round
	}
	tries := round - r.began + 1
	switch {
	case r.outcome == session.Confirmed || r.final:
		return giveUp
	case r.outcome == session.Returned && o.Once:
		return giveUp
	case r.outcome == session.Returned && o.Single: // no queue has the name: only the exchange leads anywhere
		o.Single, o.Several = false, true
		return tryNow
	case r.outcome == session.Returned:
		return upTo(few, tries)
	case r.outcome == session.Nacked && o.Several && !r.delayed:
		return sparingly(r.nacks, tries)
	case r.outcome == session.Nacked:
		o.Single = true
		return upTo(some, tries)
	case r.alone >= session.Suspicious:
		r.final = true
		r.err = fmt.Errorf("%w: the connection ended each time the message was sent alone; do not send it again unchanged: %w", session.ErrRefused, r.err)
		return giveUp
	default:
		return tryNow
	}
}

func upTo(most, tries int) nextTry {
	if tries < most {
		return tryNow
	}
	return giveUp
}

// sparingly has a message that was nacked tried twice more, after half a second and
// after three. Its exchange may lead to several queues, and each attempt makes a copy in
// those that take it. The nack of a full queue looks like that of one without a leader.
func sparingly(nacks, tries int) nextTry {
	const first, second = 4, 7
	switch {
	case nacks > 2 || tries > second:
		return giveUp
	case tries == first || tries == second:
		return tryNow
	default:
		return tryLater
	}
}

func publishBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(30*time.Millisecond),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}
