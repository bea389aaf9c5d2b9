package main

import (
	"context"
	"slices"
	"sync"

	"github.com/harebus/harebus"
)

// quota counts the messages of listen: those that are being handled, and those that
// were handled or parked. It admits at most -count messages; further ones wait
// until the service stops, and then go back.
//
// It sees what happens to a message after its handler as a harebus.Observer.
type quota struct {
	limit   int           // 0: none
	reached chan struct{} // closed when limit messages are done

	mu      sync.Mutex // guards what follows
	inHand  map[string]struct{}
	done    int
	closed  bool
	changed chan struct{} // closed and replaced whenever the above changes
}

func newQuota(limit int) *quota {
	return &quota{limit: limit, reached: make(chan struct{}), inHand: map[string]struct{}{}, changed: make(chan struct{})}
}

// admit waits until a message may be handled. If it is already being handled, it
// was delivered again because its connection was lost.
func (q *quota) admit(ctx context.Context, id string) error {
	for {
		q.mu.Lock()
		_, again := q.inHand[id]
		if again || !q.closed && (q.limit == 0 || q.done+len(q.inHand) < q.limit) {
			q.inHand[id] = struct{}{}
			q.mu.Unlock()
			return nil
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// release notes that a message is no longer being handled.
func (q *quota) release(id string, done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.inHand[id]; !ok {
		return
	}
	delete(q.inHand, id)
	if done {
		q.done++
		if q.done == q.limit {
			close(q.reached)
		}
	}
	q.wake()
}

// wake is called with q.mu held.
func (q *quota) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// close lets no other message in.
func (q *quota) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

// held are the ids of the messages in hand.
func (q *quota) held() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := make([]string, 0, len(q.inHand))
	for id := range q.inHand {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// empty waits until no message is in hand.
func (q *quota) empty(ctx context.Context) {
	for {
		q.mu.Lock()
		n, changed := len(q.inHand), q.changed
		q.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// ObserveStart does nothing.
func (q *quota) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context { return ctx }

// ObserveEnd notes how the handling of a message ended. A message that goes back to its
// queue comes again.
func (q *quota) ObserveEnd(_ context.Context, o harebus.Observation, _ error) {
	switch o.Outcome {
	case harebus.AttemptHandled, harebus.AttemptIgnored, harebus.AttemptParked, harebus.AttemptDiscarded:
		q.release(o.Incoming.ID, true)
	case harebus.AttemptRetried, harebus.AttemptPostponed:
		q.release(o.Incoming.ID, false)
	case harebus.AttemptLost:
	}
}
