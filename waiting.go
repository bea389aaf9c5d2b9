package harebus

import (
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// silence is how long something is waited for in silence.
	silence = 5 * time.Second
	// reminder is how long after a report the next one comes.
	reminder = 30 * time.Second
)

// waiter tells of what is waited for: in the log, or on standard error when there
// is none, because a program that hangs without a word is the worst of all faults.
type waiter struct{ log *zap.Logger }

func newWaiter(logger *zap.Logger) waiter {
	if logger != nil {
		return waiter{safeLogger(logger)}
	}
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		TimeKey: "time", EncodeTime: zapcore.RFC3339TimeEncoder, MessageKey: "message",
		EncodeDuration: zapcore.StringDurationEncoder, NameKey: "name",
	})
	core := zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zapcore.WarnLevel)
	return waiter{safeLogger(zap.New(core).Named("harebus"))}
}

// while tells, until stop is called, that something is waited for, once it has taken
// a few seconds. why is the reason at that moment; nothing is said when it is nil.
func (w waiter) while(what string, why func() error) (stop func()) {
	r := &reporter{waiter: w, what: what, why: why, since: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(silence, r.report)
	return r.stop
}

// reporter is one wait.
type reporter struct {
	waiter waiter
	what   string
	why    func() error
	since  time.Time

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	stopped bool
}

func (r *reporter) report() {
	if err := r.why(); err != nil {
		r.waiter.log.Warn("waiting for "+r.what, zap.Duration("for", time.Since(r.since).Round(time.Second)), zap.Error(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.timer.Reset(reminder)
	}
}

func (r *reporter) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.timer.Stop()
}
