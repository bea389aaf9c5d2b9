package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/harebus/harebus"
)

// A spectator keeps what it is told of, and leaves a header.
type spectator struct {
	mu   sync.Mutex // guards what follows
	ends []string
	at   map[string]bool // addresses
}

func (*spectator) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	if o.Headers != nil {
		o.Headers["seen-by"] = o.Operation.String()
	}
	return ctx
}

func (s *spectator) ObserveEnd(_ context.Context, o harebus.Observation, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[o.Address] = true
	s.ends = append(s.ends, fmt.Sprintf("%v %v %v %v", o.Operation, o.Connection, o.Outcome, err != nil))
}

func (s *spectator) saw(lines ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range lines {
		if !slices.Contains(s.ends, line) {
			return fmt.Errorf("%q is not among %q", line, s.ends)
		}
	}
	return nil
}

// What observers leave goes with the message through its retry into the error queue, the outcomes of its attempts are
// told, and the end of its connections is.
func TestObserver(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	seen := &spectator{at: map[string]bool{}}
	cfg := p.config("a")
	cfg.Retry.MaxRetries = 1
	cfg.Observers = []harebus.Observer{seen}
	s := p.setup(cfg)
	came := make(chan any, 2)
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		came <- m.Headers["seen-by"]
		return errors.New("no")
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	parked := p.broker().take(cfg.ErrorQueue.Name, 1)[0]
	if first, second := <-came, <-came; first != "send" || second != "retry" || parked.Headers["seen-by"] != "park" {
		t.Errorf("headers %v, %v and %v", first, second, parked.Headers["seen-by"])
	}
	p.eventually(patience, func() error {
		return seen.saw("handle  retried true", "handle  parked true", "retry   false", "park   false", "connect publish  false")
	})
	p.ctl("close_all_connections", "--vhost", p.name, "a test")
	p.eventually(patience, func() error {
		return seen.saw("connection publish  true", "connection consume  true", "consume consume  true")
	})
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for address := range seen.at {
		if strings.ContainsAny(address, "@/") || address != "" && !strings.Contains(address, ":") {
			t.Errorf("the address %q is not host and port", address)
		}
	}
}
