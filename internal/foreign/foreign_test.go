package foreign_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus/internal/foreign"
)

// TestConclude: done is told the outcome, whatever the call does, and only a
// call that ends its goroutine does not come back.
func TestConclude(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fn    func() error
		stays bool
		want  func(error) bool
	}{
		"nil":              {func() error { return nil }, true, func(err error) bool { return err == nil }},
		"error":            {func() error { return errNo }, true, func(err error) bool { return err == errNo }},
		"panic":            {func() error { panic(errNo) }, true, isPanicOf(errNo)},
		"panic nil":        {func() error { panic(nil) }, true, isPanicOf(nil)}, //nolint:govet // that is the test
		"goexit":           {func() error { runtime.Goexit(); return nil }, false, isGoexit},
		"goexit in panic":  {func() error { defer runtime.Goexit(); panic("x") }, false, isGoexit},
		"panic in goexit":  {func() error { defer panic(errNo); runtime.Goexit(); return nil }, false, isPanicOf(errNo)},
		"runtime failure":  {explode, true, isPanicOf(nil)},
		"recovered inside": {func() error { defer func() { _ = recover() }(); panic("x") }, true, func(err error) bool { return err == nil }},
	} {
		outcomes := make(chan error, 2)
		ended, stayed := make(chan struct{}), false
		go func() {
			defer close(ended)
			foreign.Conclude(c.fn, func(err error) { outcomes <- err })
			stayed = true
		}()
		<-ended
		if err := <-outcomes; !c.want(err) || len(outcomes) != 0 || stayed != c.stays {
			t.Errorf("%s: outcome %v, %d more, stayed %v", name, err, len(outcomes), stayed)
		}
		if !c.stays {
			continue
		}
		if err := foreign.Call(c.fn); !c.want(err) {
			t.Errorf("%s: guard returns %v", name, err)
		}
	}
}

var errNo = errors.New("no")

func isGoexit(err error) bool { return errors.Is(err, foreign.ErrGoexit) }

// isPanicOf matches the panic of an error, or of anything when it is nil.
func isPanicOf(want error) func(error) bool {
	return func(err error) bool {
		var p *foreign.PanicError
		return errors.As(err, &p) && len(p.Stack) > 0 && (want == nil || errors.Is(err, want))
	}
}

// TestApart: the caller survives what a call does to its goroutine, and does not
// wait for one that hangs.
func TestApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, c := range map[string]struct {
			fn   func() (int, error)
			want func(int, error) bool
		}{
			"value":  {func() (int, error) { return 7, nil }, func(n int, err error) bool { return n == 7 && err == nil }},
			"both":   {func() (int, error) { return 7, errNo }, func(n int, err error) bool { return n == 7 && err == errNo }},
			"panic":  {func() (int, error) { panic(errNo) }, func(_ int, err error) bool { return isPanicOf(errNo)(err) }},
			"goexit": {func() (int, error) { runtime.Goexit(); return 7, nil }, func(n int, err error) bool { return n == 0 && isGoexit(err) }},
		} {
			if n, err := foreign.Apart(ctx, c.fn); !c.want(n, err) {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		release := make(chan struct{})
		defer close(release)
		n, err := foreign.Apart(ctx, func() (int, error) { <-release; return 7, nil })
		if n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that hangs: %d, %v", n, err)
		}
	})
}

// TestGuardCosts: foreign code is called for every message.
func TestGuardCosts(t *testing.T) {
	var n int
	got := testing.AllocsPerRun(100, func() {
		_ = foreign.Call(func() error { n++; return nil })
	})
	if got != 0 {
		t.Errorf("%v allocations a call", got)
	}
}
func explode() error {
	var none []error
	return none[len(none)]
}
