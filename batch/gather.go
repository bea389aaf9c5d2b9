package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/harebus/harebus"
)

const (
	// longestTurn is how long a batch waits for its turn at most when its messages have no time
	// limit, so that the broker's consumer timeout does not pass meanwhile.
	longestTurn = 10 * time.Minute
	// again is how long messages are put off whose batch did not get its turn.
	again = time.Second
	// worn is after how many deliveries without a result a message is handled alone.
	worn = 2
)

var errNoTurn = errors.New("batch: the messages waited for too long while other batches were handled; they will be delivered again")

// gatherer makes batches of the messages of one handler.
type gatherer[T any] struct {
	size  int
	wait  time.Duration
	turns chan struct{} // has an element for each batch that is handled
	fn    HandlerFunc[T]

	mu   sync.Mutex    // guards what follows
	open *gathering[T] // takes more messages; nil if there is none
}

// gathering is a batch, from its first message to its results. The handler of the first message
// leads: it waits until the batch is full or its time is over, and calls the function.
type gathering[T any] struct {
	members []*member[T]  // gatherer.mu guards it while the batch is open
	full    chan struct{} // closed when it takes no more
	done    chan struct{} // closed when every member has its result
}

// member is a message of a batch, and what became of it.
type member[T any] struct {
	item   Item[T]
	result error
}

// handle is the handler of one message.
func (g *gatherer[T]) handle(ctx context.Context, bus *harebus.Bus, message T) error {
	// This is the result for as long as the function has not returned: it has ended its goroutine.
	m := &member[T]{Item[T]{message, bus, ctx}, harebus.ErrGoexit}
	b, leads := g.join(m, harebus.Incoming(ctx))
	if leads {
		g.lead(ctx, b)
	} else {
		<-b.done
	}
	return m.result
}

// alone says whether a message is handled in a batch of its own: it has failed before, or it was
// delivered again and again, perhaps because it ends the process. Quorum queues count that.
func alone(m *harebus.Message) bool {
	count, _ := m.Headers["x-delivery-count"].(int64)
	return m.Attempt > 1 || count >= worn
}

// join puts a message into the open batch, or into a new one, which its handler leads.
func (g *gatherer[T]) join(m *member[T], in *harebus.Message) (b *gathering[T], leads bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b = g.open
	alone := alone(in) || b.has(in)
	if leads = b == nil || alone; leads {
		b = &gathering[T]{full: make(chan struct{}), done: make(chan struct{})}
	}
	b.members = append(b.members, m)
	switch {
	case alone:
		close(b.full)
	case len(b.members) == g.size:
		g.open = nil
		close(b.full)
	default:
		g.open = b
	}
	return b, leads
}

// has says whether the batch has this message already: its connection was lost, and the broker has
// delivered it again.
func (b *gathering[T]) has(in *harebus.Message) bool {
	return b != nil && in.Redelivered && slices.ContainsFunc(b.members, func(m *member[T]) bool {
		return harebus.Incoming(m.item.ctx).ID == in.ID
	})
}

// lead sees a batch through to the results of its members.
func (g *gatherer[T]) lead(ctx context.Context, b *gathering[T]) {
	defer close(b.done)
	err := g.begin(ctx, b)
	g.shut(b)
	if err != nil {
		settle(b.members, err)
		return
	}
	defer func() { <-g.turns }()
	b.handle(g.fn)
}

// begin waits until the batch is full or its time is over, and then for its turn. It leaves the
// function at least half of the time that the first message has.
func (g *gatherer[T]) begin(ctx context.Context, b *gathering[T]) error {
	patience := longestTurn
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline) / 2
	}
	expired := time.NewTimer(patience)
	defer expired.Stop()
	wait := time.NewTimer(min(g.wait, patience))
	defer wait.Stop()
	select {
	case <-b.full:
	case <-wait.C:
	case <-ctx.Done():
	}
	select {
	case g.turns <- struct{}{}: // first, because the time for both may be over now
		return nil
	default:
	}
	select {
	case g.turns <- struct{}{}:
		return nil
	case <-expired.C:
	case <-ctx.Done():
	}
	return harebus.Postpone(again, errNoTurn)
}

// shut has the batch take no more messages.
func (g *gatherer[T]) shut(b *gathering[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == b {
		g.open = nil
	}
}

// settle gives messages the same result.
func settle[T any](members []*member[T], err error) {
	for _, m := range members {
		m.result = err
	}
}

// handle calls the function for the members whose time is not over.
func (b *gathering[T]) handle(fn HandlerFunc[T]) {
	var live []*member[T]
	var items []Item[T]
	for _, m := range b.members {
		if m.item.ctx.Err() != nil {
			m.result = context.Cause(m.item.ctx)
			continue
		}
		live, items = append(live, m), append(items, m.item)
	}
	if len(items) == 0 {
		return
	}
	ctx, end := shared(items)
	defer end()
	defer func() {
		if v := recover(); v != nil {
			settle(live, &harebus.PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	results := fn(ctx, items)
	if len(results) != len(live) {
		settle(live, fmt.Errorf("batch: the handler returned %d results for %d messages; return one for each, nil for what is done", len(results), len(live)))
		return
	}
	for i, m := range live {
		m.result = results[i]
	}
}
