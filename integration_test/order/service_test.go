// Package order_test breaks real brokers and processes under an ordered queue.
package order_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/order"
)

// asService makes the test binary be an instance of the service, which can be killed. Its value is a plan.
const asService = "HAREBUS_ORDER_SERVICE"

// plan is what an instance does.
type plan struct {
	URLs   []string
	Name   string
	GiveUp order.GiveUp
	// Partitions is into how many the queue is divided; 0: not at all.
	Partitions int
	Journal    string // in which all instances note what they do
	Heartbeat  time.Duration
}

// line is one of the journal.
type line struct {
	Op    string // "tenure", "done" or "given up"
	Queue string // of a tenure
	Proc  string
	Key   string
	N     int
	T     time.Time
}

// step is the nth message of its key.
type step struct {
	Key string
	N   int
}

func (step) MessageType() string { return "Step" }

func TestMain(m *testing.M) {
	text := os.Getenv(asService)
	if text == "" {
		os.Exit(rabbit.Main(m))
	}
	var p plan
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		err = p.serve(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is an instance.
func (p *plan) serve(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	file, err := os.OpenFile(p.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	j := &journal{file: file, proc: p.Name}
	setup, err := harebus.New(harebus.Config{
		Queue: "steps", Logger: zap.New(hook{j: j}), Connect: harebus.ConnectConfig{URLs: p.URLs, Name: p.Name, Heartbeat: p.Heartbeat},
		Consume: harebus.ConsumeConfig{Concurrency: 8, Order: &order.Config{GiveUp: p.GiveUp, MaxParked: 5000, Partitions: p.Partitions}},
		Retry:   harebus.RetryConfig{MaxRetries: 4, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(200 * time.Millisecond) }},
		Handling: harebus.HandlingConfig{GivenUp: func(_ context.Context, _ *harebus.Bus, m harebus.Failed) error {
			var s step
			if p.GiveUp == order.SkipMessage && m.Decode(&s) == nil {
				return j.note("given up", s)
			}
			return nil
		}},
	})
	if err != nil {
		return err
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, s step) error {
		work := time.NewTimer(time.Duration(chance(s, "work", 5000)) * time.Microsecond)
		defer work.Stop()
		select {
		case <-work.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if attempt := harebus.Incoming(ctx).Attempt; attempt <= s.failures() {
			return errPlanned
		}
		return j.note("done", s)
	})
	err = setup.Run(ctx)
	if ctx.Err() != nil && err != nil && strings.HasPrefix(err.Error(), "harebus: start: ") {
		return nil // it was stopped before it had begun: its broker was away, or its node frozen
	}
	return err
}

var errPlanned = errors.New("as planned")

// failures is how often a message fails: of a hundred, three fail once to three times, and one always.
func (s step) failures() int {
	switch n := chance(s, "fail", 100); {
	case n < 3:
		return n + 1
	case n == 3:
		return 1000
	}
	return 0
}

// chance is a number below n, the same one for the same message.
func chance(s step, what string, n uint32) int {
	h := fnv.New32a()
	fmt.Fprint(h, s.Key, "/", s.N, "/", what)
	return int(h.Sum32() % n)
}

// journal is written with one write for each line, so that what was written before a kill is there after it.
type journal struct {
	mu   sync.Mutex // one write at a time
	file *os.File
	proc string
}

func (j *journal) note(op string, s step) error {
	return j.write(line{Op: op, Key: s.Key, N: s.N})
}

func (j *journal) write(l line) error {
	l.Proc, l.T = j.proc, time.Now()
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err = j.file.Write(append(text, '\n'))
	return err
}

// hook is a log of which two lines go into the journal.
type hook struct {
	j     *journal
	queue string
}

func (hook) Enabled(l zapcore.Level) bool { return l >= zap.InfoLevel }
func (h hook) With(fields []zapcore.Field) zapcore.Core {
	for _, f := range fields {
		if f.Key == "queue" {
			h.queue = f.String
		}
	}
	return h
}
func (h hook) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, h)
}
func (hook) Sync() error { return nil }

func (h hook) Write(e zapcore.Entry, fields []zapcore.Field) error {
	switch {
	case strings.HasPrefix(e.Message, "this process handles the ordered queue now"):
		return h.j.write(line{Op: "tenure", Queue: h.queue})
	case strings.HasPrefix(e.Message, "a message that held its key is discarded"):
		for _, f := range fields {
			if f.Key == "message_id" {
				key, n, _ := strings.Cut(f.String, "-")
				s := step{Key: key}
				if _, err := fmt.Sscan(n, &s.N); err != nil {
					return err
				}
				return h.j.note("given up", s)
			}
		}
	}
	return nil
}
