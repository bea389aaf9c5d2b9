package page

import "weak"

// LastLook is the last look that was taken. It is nil when nothing keeps that any more.
func (s *Server) LastLook() weak.Pointer[look] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return weak.Make(s.looks[len(s.looks)-1])
}
