package errorqueue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
)

// Index is what a look has found: a frozen selection.
type Index struct {
	// At is when the look began, Seen how many messages were in the queue.
	At   time.Time
	Seen int
	// Messages are those that the filter lets through, in the order of the queue.
	Messages []Message
}

// Groups are the groups of the messages, the largest first.
func (x *Index) Groups() []*Group {
	var groups []*Group
	known := map[*Group]bool{}
	for i := range x.Messages {
		if g := x.Messages[i].Group; !known[g] {
			known[g] = true
			groups = append(groups, g)
		}
	}
	slices.SortFunc(groups, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.ID, b.ID))
	})
	return groups
}

// Look finds the messages that a filter lets through. It takes all messages of the queue,
// and has given them back in their order when it returns. Meanwhile the queue shows no
// ready messages. Nothing in the queue is changed, but for one thing: a message of a quorum
// queue that was looked at so often that the broker might drop it, and those behind it, are
// put into the queue anew, in their order.
func (q *Queue) Look(ctx context.Context, f Filter) (*Index, error) {
	x := &Index{At: time.Now()}
	var err error
	x.Seen, err = q.Each(ctx, f, func(c *Content) error {
		m := c.Message
		m.MessageID = strings.Clone(m.MessageID) // it must not keep the whole message in memory
		m.Group.add(&m)
		x.Messages = append(x.Messages, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// Each is Look for a function that is called with each message and all that is in it. It may
// not keep the message, and an error of it ends the look. Each returns how many messages were
// in the queue.
func (q *Queue) Each(ctx context.Context, f Filter, fn func(*Content) error) (seen int, err error) {
	if err := f.validate(); err != nil {
		return 0, fmt.Errorf("errorqueue: look: %w", err)
	}
	r := q.reader()
	p := pass{q: q, most: window, each: func(m *queue.Message, position int) (*step, bool, error) {
		c := r.read(m, position)
		if !f.matches(c) {
			return nil, false, nil
		}
		return nil, false, fn(c)
	}}
	err = p.run(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return p.seen, fmt.Errorf("errorqueue: look at %q: %w", q.cfg.Name, err)
	}
	return p.seen, nil
}

func (q *Queue) reader() *reader {
	return &reader{prefix: q.cfg.HeaderPrefix, name: q.cfg.Name, groups: map[groupKey]*Group{}}
}

// pass takes the messages of a queue that are ready, one after the other, and gives back those
// that are not to leave it.
type pass struct {
	q *Queue
	// each says what to do with a message. Without a step it stays in the queue, unless each
	// has removed it.
	each func(m *queue.Message, position int) (s *step, removed bool, err error)
	// store carries steps out, in their order.
	store func(ctx context.Context, steps []*step) error
	// most is how many steps go together.
	most int
	// enough ends the pass when it is reported.
	enough func() bool

	seen  int
	renew bool
	back  error // of giving back: the broker may not have removed what was stored last
}

// step is a message that leaves the queue, or is put into it anew.
type step struct {
	message *queue.Message
	out     session.Publishing
	content *Content // nil: it is put into the queue anew
}

// run passes over the queue. When ctx ends it stops after the steps in hand.
//
// When there is enough it still takes those that were given back before: a quorum queue puts
// a returned message behind earlier returned ones, so the messages that the pass holds would
// come behind them.
func (p *pass) run(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, p.q.cfg.Timeout)
	defer cancel()
	state, err := p.q.conn.Settled(within)
	ready := state.Messages
	switch {
	case err != nil || ready == 0:
		return err
	case ready > p.q.cfg.Most:
		return fmt.Errorf("%d messages are in it, more than the %d that a look may take; allow more if the broker has the memory", ready, p.q.cfg.Most)
	}
	if err := p.q.conn.Take(within, ready); err != nil {
		return err
	}
	err = p.all(ctx, ready)
	if p.back = p.q.conn.GiveBack(); err == nil {
		err = p.back
	}
	return err
}

func (p *pass) all(ctx context.Context, ready int) error {
	var steps []*step
	givenBack := false
	for p.seen < ready && ctx.Err() == nil {
		enough := p.enough != nil && p.enough()
		if enough && !givenBack && !p.renew {
			break
		}
		m, ok, err := p.q.conn.Next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		p.seen++
		givenBack = m.Redelivered
		next, err := p.one(m, enough)
		if err != nil {
			return err
		}
		if next == nil {
			continue
		}
		if steps = append(steps, next); len(steps) >= max(p.most, 1) {
			if err := p.flush(ctx, steps); err != nil {
				return err
			}
			steps = nil
		}
	}
	if ctx.Err() == nil {
		return p.flush(ctx, steps)
	}
	return nil // what is not begun stays
}

// one says what to do with a message. Looking must not use up the delivery limit of a quorum
// queue. So once one message was looked at often, it and all that follow are published to the
// queue again, otherwise unchanged, which keeps the order.
func (p *pass) one(m *queue.Message, enough bool) (*step, error) {
	p.renew = p.renew || m.Looks() >= p.q.renewAt
	if !enough {
		if s, removed, err := p.each(m, p.seen); s != nil || removed || err != nil {
			return s, err
		}
	}
	if !p.renew || m.Broken {
		return nil, nil //nolint:nilnil // it is given back
	}
	s := &step{message: m, out: m.Renewed(p.q.conn.User())}
	s.out.Key = p.q.cfg.Name
	return s, nil
}

// flush carries out steps. Those of a look are all renewals.
func (p *pass) flush(ctx context.Context, steps []*step) error {
	if len(steps) == 0 {
		return nil
	}
	if p.store != nil {
		return p.store(ctx, steps)
	}
	return p.q.renew(steps)
}

// renew puts messages into the queue anew. One that cannot be stored stays as it is.
func (q *Queue) renew(steps []*step) error {
	outs := make([]session.Publishing, len(steps))
	for i, s := range steps {
		outs[i] = s.out
	}
	var stored []*queue.Message
	for i, err := range q.conn.Store(outs) {
		switch {
		case err == nil:
			stored = append(stored, steps[i].message)
		case !left(err):
			return err
		}
	}
	return q.conn.Remove(stored...)
}
