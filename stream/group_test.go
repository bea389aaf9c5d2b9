package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/stream"
)

// TestGroup: one instance of a group reads, the others stand by and are ready, and whoever takes over goes on where the last one was.
func TestGroup(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := stream.Config{Group: "billing"}
		a := r.read("a", cfg, done)
		b := r.read("b", cfg, done)
		r.try(b.Ready())
		r.publish(3)
		r.rest(time.Second)
		r.wants("a1@0 a2@1 a3@2")
		r.try(a.Stop(r.ctx))
		r.publish(2)
		r.rest(time.Second)
		r.wants("b4@3 b5@4")
		r.try(a.Start(r.ctx))
		r.publish(1)
		r.rest(time.Second)
		r.wants("b6@5")
		if q, _ := r.broker.Queue(stream.TokenQueue("events", "billing")); q.Ready+q.Unacked != 1 {
			t.Errorf("%d tokens, want one", q.Ready+q.Unacked)
		}
	})
}

// TestGroupsAreApart: two groups read everything, each for itself.
func TestGroupsAreApart(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.publish(2)
		r.read("a", stream.Config{Group: "one"}, done)
		r.read("b", stream.Config{Group: "two"}, done)
		r.rest(time.Second)
		r.wants("a1@0 a2@1 b1@0 b2@1")
	})
}

// TestGroupKilled: a reader whose connection is cut is replaced by another one, nothing is skipped, and only what was not kept yet
// is repeated.
func TestGroupKilled(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		cfg := stream.Config{Group: "g"}
		r.read("a", cfg, done)
		r.read("b", cfg, done)
		r.publish(3)
		r.rest(time.Second) // kept
		r.publish(1)        // kept at once
		r.wants("a1@0 a2@1 a3@2 a4@3")
		r.publish(1) // not kept yet
		r.wants("a5@4")
		r.broker.Refuse(time.Minute)
		r.broker.CutConnections("a consume", "a publish")
		r.publish(1)
		r.rest(time.Second)
		r.wants("b5@4 b6@5")
	})
}

// TestGroupFromEnd: where a group begins is kept before anything is read.
func TestGroupFromEnd(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.publish(2)
		cfg := stream.Config{Group: "g", From: stream.FromEnd()}
		a := r.read("a", cfg, done)
		r.try(a.Stop(r.ctx))
		r.publish(2)
		r.read("b", cfg, done)
		r.rest(time.Second)
		r.wants("b3@2 b4@3")
	})
}

// TestTokenLost: when the broker takes the token away, reading ends, and begins again with the next token.
func TestTokenLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.publish(2)
		r.rest(time.Second)
		r.try(r.broker.CancelConsumers(stream.TokenQueue("events", "g")))
		r.publish(1)
		r.rest(5 * time.Second)
		r.wants("a1@0 a2@1 a3@2")
		r.try(s.Ready())
		if !r.said("consumer interrupted") {
			t.Error("nothing was logged")
		}
	})
}

// TestTokenRenewed: a token is not held for as long as the broker's consumer timeout.
func TestTokenRenewed(t *testing.T) {
	for name, publish := range map[string]int{"with a place": 2, "without": 0} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.read("a", stream.Config{Group: "g"}, done)
				r.publish(publish)
				r.rest(5 * time.Hour)
				if r.said("consumer interrupted") {
					t.Errorf("interrupted: %v", r.logs.All())
				}
				if q, _ := r.broker.Queue(stream.TokenQueue("events", "g")); q.Ready+q.Unacked != 1 {
					t.Errorf("%d tokens, want one", q.Ready+q.Unacked)
				}
			})
		})
	}
}

// TestForeignToken: what is no token in the token queue is removed, and said.
func TestForeignToken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := stream.Config{Group: "g"}
		r.read("a", cfg, done)
		r.try(r.sender.Bus().Send(r.ctx, stream.TokenQueue("events", "g"), []byte("nonsense"), harebus.WithType("Odd")))
		r.publish(1)
		r.rest(time.Second)
		r.wants("a1@0")
		if !r.said("is no token") {
			t.Error("nothing was logged")
		}
	})
}

// store is an OffsetStore in memory.
type store struct {
	mu     sync.Mutex // guards what follows
	offset int64
	known  bool
	fails  error
	saves  int
}

func (s *store) Load(context.Context) (int64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset, s.known, s.fails
}

func (s *store) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

// kept is the offset, and how often it was saved.
func (s *store) kept() (offset int64, saves int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset, s.saves
}

func (s *store) Save(_ context.Context, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saves++; s.fails == nil {
		s.offset, s.known = offset, true
	}
	return s.fails
}

// TestStore: the place is where the store says, also for a group, and what cannot be saved is saved later.
func TestStore(t *testing.T) {
	for _, group := range []string{"", "g"} {
		t.Run("group "+group, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.publish(4)
				kept := &store{offset: 1, known: true}
				s := r.read("a", stream.Config{Group: group, Store: kept}, done)
				r.rest(time.Second)
				r.wants("a3@2 a4@3")
				if offset, saves := kept.kept(); offset != 3 || saves > 10 {
					t.Errorf("offset %d, saved %d times", offset, saves)
				}
				kept.failing(errors.New("the database is away"))
				r.publish(1)
				r.rest(10 * time.Second)
				r.wants("a5@4")
				kept.failing(nil)
				r.rest(time.Second)
				if offset, _ := kept.kept(); offset != 4 {
					t.Errorf("offset %d", offset)
				}
				r.try(s.Stop(r.ctx))
				kept.failing(errors.New("the database is away"))
				err := s.Start(r.withTimeout(3 * time.Second))
				if err == nil || !strings.Contains(err.Error(), "the database is away") {
					t.Errorf("start without the store: %v", err)
				}
			})
		})
	}
}

func (r *rig) withTimeout(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(r.ctx, d)
	r.t.Cleanup(cancel)
	return ctx
}

// TestLowWater: the place never passes a message that is not done, however many behind it are.
func TestLowWater(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		cfg := stream.Config{Group: "g"}
		fail := true
		r.read("a", cfg, func(_ context.Context, e happened) error {
			if fail && e.N == 3 {
				return harebus.RetryAfter(time.Hour, fmt.Errorf("not %d", e.N))
			}
			return nil
		})
		r.publish(50)
		r.rest(time.Minute)
		r.broker.Refuse(time.Minute)
		r.broker.CutConnections()
		fail = false
		r.done = nil
		r.rest(2 * time.Minute)
		var want strings.Builder
		for n := 3; n <= 50; n++ {
			fmt.Fprintf(&want, "a%d@%d ", n, n-1)
		}
		r.wants(want.String())
	})
}

// TestWaitQuiet: a test can wait until a group has handled everything, although its reader holds a token as long as it reads.
func TestWaitQuiet(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.read("a", stream.Config{Group: "g"}, func(context.Context, happened) error {
			time.Sleep(time.Minute)
			return nil
		})
		r.publish(2)
		r.try(r.broker.WaitQuiet(r.withTimeout(time.Hour)))
		r.wants("a1@0 a2@1")
	})
}
