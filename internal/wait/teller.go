// Package wait has the pauses between attempts, and reports what a call waits for.
package wait

import (
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// silence is how long a wait is not reported.
	silence = 5 * time.Second
	// reminder is how long after a report the next one comes.
	reminder = 30 * time.Second
)

// Teller tells of what is waited for: in the log, or on standard error when there
// is none, because a program that hangs without a word is the worst of all faults.
type Teller struct{ Log *zap.Logger }

// OnStderr returns a logger for a program that has none.
func OnStderr() *zap.Logger {
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		TimeKey: "time", EncodeTime: zapcore.RFC3339TimeEncoder, MessageKey: "message",
		EncodeDuration: zapcore.StringDurationEncoder, NameKey: "name",
	})
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zapcore.WarnLevel)).Named("harebus")
}

// While tells, until stop is called, that something is waited for, once it has taken
// a few seconds. why is the reason at that moment; nothing is said when it is nil.
func (t Teller) While(what string, why func() error) (stop func()) {
	r := &remind{teller: t, what: what, why: why, since: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(silence, r.report)
	return r.stop
}

// remind is one wait.
type remind struct {
	teller Teller
	what   string
	why    func() error
	since  time.Time

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	stopped bool
}

func (r *remind) report() {
	if err := r.why(); err != nil {
		r.teller.Log.Warn("waiting for "+r.what, zap.Duration("for", time.Since(r.since).Round(time.Second)), zap.Error(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.timer.Reset(reminder)
	}
}

func (r *remind) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.timer.Stop()
}
