package schedule

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/harebus/harebus"
)

// request is what the command harebus schedule asks of the leader.
type request struct {
	Do   string `json:"do"` // ls, run, pause, resume or rm
	Name string `json:"name,omitempty"`
}

// answer is what the leader answers.
type answer struct {
	// Leader names the instance.
	Leader string `json:"leader"`
	// Error is why the request was not carried out; empty if it was.
	Error string `json:"error,omitempty"`
	// Tokens are those of all schedules, by name, and Defined says which of them the leader defines.
	Tokens  []token         `json:"tokens,omitempty"`
	Defined map[string]bool `json:"defined,omitempty"`
}

// onRequest carries out a request of the command and answers it.
func (s *Schedules) onRequest(ctx context.Context, bus *harebus.Bus, r request) error {
	s.mu.Lock()
	complete, e, d := s.leader.complete, s.leader.entries[r.Name], s.leader.definitions[r.Name]
	s.mu.Unlock()
	if !complete || e != nil && (e.hold == nil || e.worn) {
		return later() // the tokens are on their way
	}
	a := answer{Leader: leaderName()}
	var err error
	switch {
	case r.Do == "ls":
		a.Tokens, a.Defined = s.list()
	case r.Do == "run" && d != nil:
		due := dueMessage{Schedule: r.Name, At: s.clock().UTC(), Manual: true}
		err = bus.Send(ctx, s.setup.Queue(), due, harebus.WithType(dueType(r.Name)))
	case r.Do == "run" && e != nil:
		err = fmt.Errorf("the leader's version of the service does not define the schedule %q", r.Name)
	case e == nil:
		err = fmt.Errorf("there is no schedule %q", r.Name)
	case r.Do == "pause":
		err = s.change(ctx, e, func(t *token) { t.Paused = true })
	case r.Do == "resume":
		err = s.change(ctx, e, func(t *token) { t.Paused, t.Last = false, s.clock().UTC() })
	case r.Do == "rm":
		s.remove(e)
	default:
		err = fmt.Errorf("%q is none of ls, run, pause, resume and rm", r.Do)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return bus.Reply(ctx, a, harebus.WithType(typeAnswer))
}

// remove has the token of a schedule acknowledged. If the schedule is defined, it gets another one,
// as a new schedule does.
func (s *Schedules) remove(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := e.token.Name
	s.leader.retire(e)
	delete(s.leader.entries, name)
	delete(s.known, name)
	delete(s.warned, name)
}

// list are the tokens of all schedules, by name.
func (s *Schedules) list() ([]token, map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tokens []token
	defined := map[string]bool{}
	for name, e := range s.leader.entries {
		tokens = append(tokens, e.token)
		if s.leader.definitions[name] != nil {
			defined[name] = true
		}
	}
	slices.SortFunc(tokens, func(a, b token) int { return strings.Compare(a.Name, b.Name) })
	return tokens, defined
}

// leaderName names the instance for people.
func leaderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}
