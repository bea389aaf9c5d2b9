package pulse

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The times for which a log level may be ordered.
const (
	defaultLogTime = 10 * time.Minute
	mostLogTime    = 24 * time.Hour
)

// level changes the level of the service's log for a time.
type level struct {
	mu     sync.Mutex // guards what follows
	of     *zap.AtomicLevel
	before zapcore.Level // while an order holds
	until  time.Time     // zero: none holds
	back   *time.Timer
}

// set changes the level for a time, after which it is again what it was before the first order.
func (l *level) set(text string, during time.Duration) error {
	if l.of == nil {
		return errors.New("the program has not set pulse.Config.LogLevel, so nobody can change the level of its log")
	}
	to, ok := map[string]zapcore.Level{"debug": zap.DebugLevel, "info": zap.InfoLevel, "warn": zap.WarnLevel, "error": zap.ErrorLevel}[text]
	if !ok { // nothing may turn errors off
		return fmt.Errorf("%.80q is none of debug, info, warn and error", text)
	}
	if during == 0 {
		during = defaultLogTime
	}
	if during < 0 || during > mostLogTime {
		return fmt.Errorf("a log level for %v: want more than 0, and at most %v", during, mostLogTime)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until.IsZero() {
		l.before = l.of.Level()
	} else {
		l.back.Stop()
	}
	l.until = time.Now().Add(during)
	l.back = time.AfterFunc(during, l.expire)
	l.of.SetLevel(to)
	return nil
}

// expire ends an order whose time has come.
func (l *level) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.until.IsZero() && !time.Now().Before(l.until) { // another order may have come in this moment
		l.reset()
	}
}

// end ends an order, if one holds.
func (l *level) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.until.IsZero() {
		l.back.Stop()
		l.reset()
	}
}

// reset is called with mu held, while an order holds.
func (l *level) reset() {
	l.of.SetLevel(l.before)
	l.until = time.Time{}
}

// now is the level, and until when an order holds; both are empty if nobody can change it.
func (l *level) now() (text string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		return "", time.Time{}
	}
	return l.of.Level().String(), l.until.UTC()
}
