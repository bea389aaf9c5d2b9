package schedule

// Stats are counts of this instance since the schedules were made.
type Stats struct {
	// Fired is the number of due times that this instance has fired, Late that of those that it
	// fired more than ten seconds after their time.
	Fired, Late uint64
	// Missed is the number of due times that were left out because they passed while no instance
	// ran (see [CatchUp]), Skipped that of those left out because the run before had not ended
	// (see [Overlap]).
	Missed, Skipped uint64
	// LeaderChanges is how often this instance has become the leader.
	LeaderChanges uint64
	// Leads says that it is the leader.
	Leads bool
	// Schedules is the number of schedules that it defines, Tokens that of the tokens it has in
	// hand; 0 if it does not lead.
	Schedules, Tokens int
}

// Stats returns the counts. It may be called at any time.
func (s *Schedules) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.counts
	stats.Leads, stats.Schedules, stats.Tokens = s.leader.complete, len(s.leader.definitions), len(s.leader.entries)
	return stats
}
