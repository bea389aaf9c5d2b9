package fair_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/fair"
	"github.com/harebus/harebus/seal"
)

// echo is what the handler of TestPath sends.
type echo struct{ N int }

func (echo) MessageType() string { return "Echo" }

// path is what a handler saw of a message, and of what it sent.
type path struct {
	id, correlation, replyTo, queue, source, kept string
	attempts                                      []int
	echoes                                        []string
}

// paths handles jobs of one tenant that fail twice, and returns what became of the nth.
func (r *rig) paths(n int, share bool) map[int]*path {
	r.t.Helper()
	var mu sync.Mutex
	seen := map[int]*path{}
	r.cfg.Reply.MaxHops = 3
	s, err := harebus.New(r.cfg)
	r.try(err)
	defer func() { r.try(s.Close()) }()
	if share {
		r.tenants, err = fair.New(s, r.fair)
		r.try(err)
	}
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, j job) error {
		time.Sleep(5 * time.Millisecond)
		m := harebus.Incoming(ctx)
		mu.Lock()
		defer mu.Unlock()
		p := seen[j.N]
		if p == nil {
			p = &path{}
			seen[j.N] = p
		}
		p.id, p.correlation, p.replyTo, p.queue, p.source = m.ID, m.CorrelationID, m.ReplyTo, m.Queue, m.SourceQueue
		p.kept, _ = m.Headers["kept"].(string)
		p.attempts = append(p.attempts, m.Attempt)
		if err := bus.Send(ctx, "echoes", echo{j.N}); err != nil {
			return err
		}
		if m.Attempt < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	r.try(s.Start(r.ctx))
	for i := range n {
		r.try(r.sender.Bus().Send(r.ctx, "jobs", job{"a", i}, harebus.WithHeaders(map[string]any{"tenant": "a", "kept": "as it is"}),
			harebus.WithMessageID("id-"+string(rune('a'+i))), harebus.WithCorrelationID("c"), harebus.WithReplyTo("answers")))
	}
	r.try(r.broker.WaitQuiet(r.ctx, "error", "echoes"))
	for _, m := range r.broker.Messages("echoes") {
		for _, p := range seen {
			if m.Headers["PikaBus.CausationId"] == p.id {
				p.echoes = append(p.echoes, m.MessageId+" from "+m.Headers["PikaBus.ReplyToAddress"].(string))
			}
		}
	}
	return seen
}

// TestPath: a message that moved to the backlog is the same for its handler as one that did not: id, headers,
// queue, attempts, and the ids and the reply address of what its handler sends.
func TestPath(t *testing.T) {
	paths := map[bool]map[int]*path{}
	for _, share := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "fair"}[share], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.fair.Share = 1
				echoes, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "echoes"})
				r.try(err)
				r.try(echoes.Init(r.ctx))
				paths[share] = r.paths(10, share)
				if share && r.tenants.Stats().Moved < 10 {
					t.Errorf("%+v", r.tenants.Stats())
				}
			})
		})
	}
	if len(paths[true]) != 10 {
		t.Errorf("%d jobs were handled", len(paths[true]))
	}
	for n, plain := range paths[false] {
		shared := paths[true][n]
		if shared == nil || !reflect.DeepEqual(plain, shared) {
			t.Errorf("job %d: %+v, want %+v", n, shared, plain)
		}
		if !slices.Equal(plain.attempts, []int{1, 2, 3}) || len(plain.echoes) != 1 || plain.source != "jobs" {
			t.Errorf("job %d: %+v", n, plain)
		}
	}
}

// TestParked: a message that moved and fails for good is in the error queue as one of its queue, and goes back there.
func TestParked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share = 1
		r.start(func(_ context.Context, j job) error {
			time.Sleep(5 * time.Millisecond)
			if j.N == 5 {
				return harebus.NoRetry(errors.New("a bad job"))
			}
			return nil
		})
		r.send("a", upTo(10)...)
		r.quiet()
		parked := r.broker.Messages("error")
		if len(parked) != 1 || parked[0].Headers["PikaBus.SourceQueue"] != "jobs" || parked[0].Headers["tenant"] != "a" {
			t.Errorf("%v", parked)
		}
		if n := len(r.handled("a")); n != 9 {
			t.Errorf("%d were handled", n)
		}
	})
}

// TestDeferred: a deferred message is not early, and one that is postponed comes again with the same attempt.
func TestDeferred(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share = 1
		var attempts []int
		s, err := harebus.New(r.cfg)
		r.try(err)
		defer func() { r.try(s.Close()) }()
		_, err = fair.New(s, r.fair)
		r.try(err)
		due := time.Now().Add(time.Minute)
		postponed := false
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, j job) error {
			time.Sleep(5 * time.Millisecond)
			if j.N < 10 {
				if time.Now().Before(due) {
					t.Errorf("job %d is early", j.N)
				}
				first := false
				r.locked(func() {
					attempts = append(attempts, harebus.Incoming(ctx).Attempt)
					first = j.N == 9 && !postponed
					postponed = postponed || first
				})
				if first {
					return harebus.Postpone(time.Minute, errors.New("later"))
				}
			}
			return nil
		})
		r.try(s.Start(r.ctx))
		for i := range 10 {
			r.try(r.sender.Bus().DeferUntil(r.ctx, "jobs", due, job{"a", i}, harebus.WithHeader("tenant", "a")))
		}
		r.send("a", 10, 11, 12)
		r.quiet()
		if len(attempts) != 11 || slices.Max(attempts) != 1 {
			t.Errorf("attempts %v", attempts)
		}
	})
}

// TestSealed: a message that is sealed for its queue can be opened after it has moved.
func TestSealed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		key, err := seal.NewKey("key", bytes.Repeat([]byte{1}, 32))
		r.try(err)
		keys, err := seal.NewKeyring(key)
		r.try(err)
		guard := seal.New(keys, seal.Policy{Types: []string{"*"}})
		r.fair.Share = 1
		r.cfg.Payload.Guards = []harebus.Guard{guard}
		r.sender, err = harebus.New(harebus.Config{Dial: r.broker.Dial, Payload: harebus.PayloadConfig{Guards: []harebus.Guard{guard}}})
		r.try(err)
		defer func() { r.try(r.sender.Close()) }()
		r.start(takes(5 * time.Millisecond))
		r.send("a", upTo(20)...)
		r.quiet()
		r.once("a", 20)
		if moved := r.tenants.Stats().Moved; moved < 10 {
			t.Errorf("%d were moved", moved)
		}
	})
}
