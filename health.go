package harebus

import (
	"errors"
	"fmt"
	"slices"
)

// Live returns nil until the setup is stopped. Trouble with the broker is no
// reason to restart the process: the setup recovers from that by itself. Ready
// tells of it.
func (s *Setup) Live() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.stopping != nil {
		return fmt.Errorf("harebus: health: %w", ErrStopped)
	}
	return nil
}

// Ready returns nil while the setup can do its work: the connections that it
// uses are up, the broker accepts messages, every consumer consumes, and not all
// handlers have been stuck with their messages for longer than their timeout (or
// half an hour, where there is none).
// Otherwise it says what is missing. It asks nothing of the broker and does not
// block, so it can be a probe.
func (s *Setup) Ready() error {
	s.mu.Lock()
	e, started, stopping, stopped := s.eng, s.started, s.stopping != nil, s.stopped
	late := slices.Clone(s.late)
	s.mu.Unlock()
	switch {
	case stopping:
		return errors.New("harebus: health: stopping")
	case stopped:
		return fmt.Errorf("harebus: health: %w", ErrStopped)
	case s.cfg.Queue != "" && !started:
		return errors.New("harebus: health: not started")
	case e == nil:
		return nil // a setup that only sends, and has not sent yet
	}
	faults := []error{e.publish.health()}
	if started {
		if err := s.undeclared(); err != nil {
			faults = append(faults, fmt.Errorf("the broker refuses to declare what may be missing: %w", err))
		}
		faults = append(faults, late...)
		if err := s.parking.trouble(); err != nil {
			faults = append(faults, err)
		}
		if err := e.stuck(); err != nil {
			faults = append(faults, err)
		}
		faults = append(faults, e.consume.health())
		for _, c := range e.consumers {
			if err := c.state(); err != nil {
				faults = append(faults, fmt.Errorf("consumer %d: %w", c.index, err))
			}
		}
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("harebus: health: %w", err)
	}
	return nil
}

// health says what is wrong with a link that has been used.
func (l *link) health() error {
	l.mu.Lock()
	used := l.running || l.once || l.err != nil
	l.mu.Unlock()
	if !used {
		return nil
	}
	s, err := l.up()
	if err != nil {
		return fmt.Errorf("%s connection: %w", l.name, err)
	}
	if reason := s.blockedReason(); reason != "" {
		return fmt.Errorf("%s connection: the broker blocks publishers: %s", l.name, reason)
	}
	return nil
}
