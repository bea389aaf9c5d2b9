package harebus

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/session"
)

// Live returns nil until the setup is stopped. It does not fail when the broker
// does, because the setup recovers without a restart of the process; Ready reports
// that. There is one exception: the broker may refuse every connection because this
// process has an old password. With Config.Connect.RefusedLimit, Live fails when
// that has lasted for the given time.
func (s *Setup) Live() error {
	s.mu.Lock()
	e, stopped := s.eng, s.stopped || s.stopping != nil
	s.mu.Unlock()
	if stopped {
		return fmt.Errorf("harebus: health: %w", ErrStopped)
	}
	limit := s.cfg.Connect.RefusedLimit
	if e == nil || limit == 0 {
		return nil
	}
	for _, l := range []*session.Link{e.Publish, e.Consume} {
		if lasted, err := l.RefusedFor(); lasted >= limit {
			return fmt.Errorf("harebus: health: the broker has refused the %s connection for %v: %w", l.Name(), lasted.Round(time.Second), err)
		}
	}
	return nil
}

// Ready returns nil while the setup can do its work: the connections that it uses
// are up, the broker accepts messages, every consumer consumes, the
// Transactor publishes what it has stored, and not all handlers have been stuck with their messages for longer than their timeout (or
// half an hour, where there is none). Otherwise it says what is missing. It sends
// nothing to the broker and does not block, so it can be a probe. If a setup only
// sends and has not sent yet, Ready makes it connect, and fails until it has
// connected.
func (s *Setup) Ready() error {
	s.mu.Lock()
	eng, started, stopping, stopped, endpoints := s.eng, s.started, s.stopping != nil, s.stopped, s.endpoints
	s.mu.Unlock()
	consumes := slices.ContainsFunc(endpoints, (*endpoint).consumes)
	switch {
	case stopping:
		return errors.New("harebus: health: stopping")
	case stopped:
		return fmt.Errorf("harebus: health: %w", ErrStopped)
	case consumes && !started:
		return errors.New("harebus: health: not started")
	case !consumes:
		var err error
		if eng, err = s.engine(); err != nil { // stopped just now
			return fmt.Errorf("harebus: health: %w", err)
		}
		eng.Publish.Use()
	}
	faults := []error{health(eng.Publish), health(eng.Consume)}
	if started {
		if err := s.declarer.Undeclared(); err != nil {
			faults = append(faults, fmt.Errorf("the broker refuses to declare objects that may be missing: %w", err))
		}
		for _, e := range endpoints {
			faults = append(faults, e.troubles(len(endpoints) > 1)...)
		}
		faults = append(faults, transactorTroubles(endpoints)...)
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("harebus: health: %w", err)
	}
	return nil
}

// troubles are why the endpoint cannot do its work. They name its queue if there are
// several.
func (e *endpoint) troubles(several bool) []error {
	e.setup.mu.Lock()
	faults, group := slices.Clone(e.late), e.group
	e.setup.mu.Unlock()
	faults = append(faults, e.copies.Troubles()...)
	if e.gate != nil {
		faults = append(faults, foreign.Call(e.gate.Ready))
	}
	if group != nil {
		faults = append(append(faults, group.Stuck(e.cfg.Handling.Timeout)), group.Faults()...)
	}
	faults = slices.DeleteFunc(faults, func(err error) bool { return err == nil })
	if several {
		for i, err := range faults {
			faults[i] = fmt.Errorf("queue %s: %w", field.Quote(e.queue), err)
		}
	}
	return faults
}

// health says what is wrong with a link that has been used.
func health(l *session.Link) error {
	if !l.Used() {
		return nil
	}
	s, err := l.Up()
	if err != nil {
		return fmt.Errorf("%s connection: %w", l.Name(), err)
	}
	if reason := s.BlockedReason(); reason != "" {
		return fmt.Errorf("%s connection: the broker blocks publishers: %s", l.Name(), reason)
	}
	return nil
}
