package observe_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus/internal/observe"
)

// event is an operation with a name.
type event struct {
	name    string
	headers map[string]any
}

func (e event) String() string { return e.name }

type key string

// notes are what watchers have seen. A late watcher may write at any time.
type notes struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (n *notes) add(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, line)
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.lines)
}

// watcher notes what it sees, and does what a test wants.
type watcher struct {
	name       string
	seen       *notes
	start, end func(ctx context.Context, e event) context.Context
}

func (w watcher) ObserveStart(ctx context.Context, e event) context.Context {
	w.seen.add(w.name + " start " + e.name)
	if w.start != nil {
		return w.start(ctx, e)
	}
	return context.WithValue(ctx, key(w.name), e.name)
}

func (w watcher) ObserveEnd(ctx context.Context, e event, err error) {
	w.seen.add(fmt.Sprint(w.name, " end ", e.name, " ", ctx.Value(key(w.name)), " ", err))
	if w.end != nil {
		w.end(ctx, e)
	}
}

func group(log *zap.Logger, watchers ...watcher) *observe.Group[event] {
	return observe.New(watchers, observe.Config[event]{
		Log:     log,
		Carrier: func(e *event) map[string]any { e.headers = map[string]any{}; return e.headers },
		Headers: func(left map[string]any) map[string]any {
			left = maps.Clone(left)
			delete(left, "refused")
			return left
		},
		Shown: func(err error) error { return fmt.Errorf("shown %w", err) },
	})
}

var errNo = errors.New("no")

// Observers are told in their order at the start and in reverse order at the end; each gets its own context again, the
// error as it is to be shown, and what was learned meanwhile.
func TestSeveral(t *testing.T) {
	t.Parallel()
	var seen notes
	g := group(zap.NewNop(),
		watcher{name: "a", seen: &seen}, watcher{name: "b", seen: &seen, start: func(ctx context.Context, _ event) context.Context {
			if ctx.Value(key("a")) != "send" {
				t.Error("the second does not get the context of the first")
			}
			return nil
		}}, watcher{name: "c", seen: &seen})
	ctx, op := g.Start(t.Context(), event{name: "send"})
	if ctx.Value(key("a")) != "send" || ctx.Value(key("c")) != "send" {
		t.Error("the context lacks values")
	}
	op.Event.name = "sent"
	op.End(errNo)
	want := []string{"a start send", "b start send", "c start send", "c end sent send shown no", "b end sent <nil> shown no", "a end sent send shown no"}
	if !slices.Equal(seen.all(), want) {
		t.Errorf("seen %q", seen.all())
	}
}

// TestHeaders: what observers leave is joined; none of them sees the map of another.
func TestHeaders(t *testing.T) {
	t.Parallel()
	var seen notes
	leave := func(headers map[string]any) func(context.Context, event) context.Context {
		return func(ctx context.Context, e event) context.Context {
			if len(e.headers) > 0 {
				t.Errorf("found %v", e.headers)
			}
			maps.Copy(e.headers, headers)
			return ctx
		}
	}
	g := group(zap.NewNop(), watcher{seen: &seen, start: leave(map[string]any{"x": 1, "y": 1, "refused": 1})}, watcher{seen: &seen, start: leave(map[string]any{"y": 2})})
	if _, op := g.Start(t.Context(), event{}); len(op.Headers) != 2 || op.Headers["x"] != 1 || op.Headers["y"] != 2 {
		t.Errorf("headers %v", op.Headers)
	}
}

// TestNone: without observers there is no operation, and nothing is allocated.
func TestNone(t *testing.T) {
	g := group(zap.NewNop())
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		same, op := g.Start(ctx, event{name: "send"})
		op.End(nil)
		if same != ctx || op != nil {
			t.Error("there is an operation")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestFaults: whatever an observer does, the caller and the other observers go on, and the log says so.
func TestFaults(t *testing.T) {
	for name, bad := range map[string]func(){
		"panics": func() { panic("oh") }, "ends its goroutine": runtime.Goexit, "hangs": func() { time.Sleep(time.Hour) },
	} {
		for _, at := range []string{"start", "end"} {
			t.Run(name+" at the "+at, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { faulty(t, bad, at) })
			})
		}
	}
}

func faulty(t *testing.T, bad func(), at string) {
	core, logs := observer.New(zapcore.DebugLevel)
	var good, ill notes
	w := watcher{name: "ill", seen: &ill}
	misbehave := func(ctx context.Context, _ event) context.Context { bad(); return ctx }
	if w.end = misbehave; at == "start" {
		w.start, w.end = misbehave, nil
	}
	g := group(zap.New(core), watcher{name: "a", seen: &good}, w, watcher{name: "z", seen: &good})
	began := time.Now()
	for range 3 {
		_, op := g.Start(t.Context(), event{name: "send"})
		op.End(nil)
	}
	if all := good.all(); len(all) != 12 {
		t.Errorf("the others saw %q", all)
	}
	if took := time.Since(began); took > observe.Patience {
		t.Errorf("it took %v", took)
	}
	entries := logs.FilterMessage("an observer failed").All()
	if len(entries) == 0 || entries[0].ContextMap()["operation"] != "send" {
		t.Errorf("logged %v", logs.All())
	}
	if hung := time.Since(began) > 0; hung && len(entries) != 1 {
		t.Errorf("%d complaints about one call that hangs", len(entries))
	}
	time.Sleep(2 * time.Hour) // a call that was late has returned: the observer is told again
	before := len(ill.all())
	w.start, w.end = nil, nil
	g.Start(t.Context(), event{name: "again"})
	if len(ill.all()) != before+1 {
		t.Error("the observer is left out for ever")
	}
	time.Sleep(2 * time.Hour)
}

// TestContext: the context of an operation ends when that of the caller does, whatever an observer has done with it, and
// keeps the values of the caller.
func TestContext(t *testing.T) {
	t.Parallel()
	why := errors.New("why")
	for name, start := range map[string]func(ctx context.Context) context.Context{
		"cancelled": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return context.WithValue(ctx, key("own"), 1)
		},
		"another": func(context.Context) context.Context { return context.WithValue(context.Background(), key("own"), 1) },
		"another that can end": func(context.Context) context.Context {
			ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key("own"), 1))
			t.Cleanup(cancel)
			return ctx
		},
	} {
		var seen notes
		g := group(zap.NewNop(), watcher{seen: &seen, start: func(ctx context.Context, _ event) context.Context { return start(ctx) }})
		parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), key("caller"), 2))
		ctx, _ := g.Start(parent, event{})
		if ctx.Err() != nil || context.Cause(ctx) != nil || ctx.Value(key("own")) != 1 || ctx.Value(key("caller")) != 2 {
			t.Errorf("%s: %v, cause %v, values %v and %v", name, ctx.Err(), context.Cause(ctx), ctx.Value(key("own")), ctx.Value(key("caller")))
		}
		cancel(why)
		if ctx.Err() == nil || context.Cause(ctx) != why {
			t.Errorf("%s: afterwards %v, cause %v", name, ctx.Err(), context.Cause(ctx))
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	g := observe.New([]quiet{{}}, observe.Config[event]{Log: zap.NewNop(), Carrier: func(*event) map[string]any { return nil }, Shown: func(err error) error { return err }})
	b.ReportAllocs()
	for b.Loop() {
		_, op := g.Start(b.Context(), event{name: "send"})
		op.End(nil)
	}
}

type quiet struct{}

func (quiet) ObserveStart(ctx context.Context, _ event) context.Context { return ctx }
func (quiet) ObserveEnd(context.Context, event, error)                  {}
