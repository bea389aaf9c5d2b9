package consume

import (
	"context"
	"sync"
)

// solitude has a message that has perhaps ended a process handled while this process handles nothing else of its partitions. The lanes see to that
// in one partition; but what is in a handler of another one could end the process, and this message would get the blame again.
type solitude struct {
	mu       sync.Mutex    // guards what follows
	handling int           // messages; -1 is one alone
	waiting  int           // messages that are to be handled alone: no other begins
	changed  chan struct{} // closed when waiting is 0, or handling
}

// enter waits until a message can be handled; then leave has to be called. False means that ctx has ended.
func (s *solitude) enter(ctx context.Context, alone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if alone {
		s.waiting++
		defer func() {
			if s.waiting--; s.waiting == 0 {
				s.signal()
			}
		}()
	}
	for s.handling < 0 || alone && s.handling > 0 || !alone && s.waiting > 0 {
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return false
		}
	}
	if s.handling++; alone {
		s.handling = -1
	}
	return true
}

func (s *solitude) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handling = max(s.handling-1, 0); s.handling == 0 {
		s.signal()
	}
}

// signal has those that wait look again. mu is held.
func (s *solitude) signal() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
