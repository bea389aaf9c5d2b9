package schedule

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/harebus/harebus"
)

// Rehearse calls the handler of a schedule for each of its due times after from, up to and including to, without a broker
// and without waiting for them: a year of a daily job takes milliseconds. It is for unit tests. Each result says what the
// handler has returned and sent for one due time, as that of [harebus.Setup.Invoke]. The message ids are the real ones.
// time.Now is not changed, so a handler that is to be rehearsed looks at Due.At. Every due time is handled, also if a run
// fails; Overlap, CatchUp and Jitter have nothing to decide.
func (s *Schedules) Rehearse(ctx context.Context, name string, from, to time.Time) ([]*harebus.Invocation, error) {
	s.mu.Lock()
	d := s.leader.definitions[name]
	s.mu.Unlock()
	if d == nil {
		return nil, fmt.Errorf("schedule: rehearse: there is no schedule %.60q", name)
	}
	var all []*harebus.Invocation
	var before *time.Time
	for at := d.after(from); !at.IsZero() && !at.After(to); at = d.after(at) {
		due := at.UTC()
		one, err := s.rehearse(ctx, d, &dueMessage{Schedule: name, At: due, Previous: before})
		if err != nil {
			return all, fmt.Errorf("schedule: rehearse %.60q: %w", name, err)
		}
		all, before = append(all, one), &due
	}
	return all, nil
}

// rehearse calls the handler for one due time.
func (s *Schedules) rehearse(ctx context.Context, d *definition, due *dueMessage) (*harebus.Invocation, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	one, err := s.setup.Invoke(ctx, *due, harebus.WithType(dueType(d.name)), harebus.WithMessageID(d.id(due.At)))
	if err != nil {
		return nil, err
	}
	one.Sent = slices.DeleteFunc(one.Sent, func(m harebus.Sent) bool { return m.RoutingKey == s.queue && m.Type == typeDone })
	return one, nil
}
