package proof_test

import (
	"bytes"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// lines keeps what is written to it, without what is said of handlers that were meant to fail.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(line, []byte("meant to fail")) {
		return len(line), nil
	}
	return l.text.Write(line)
}

// journal keeps what a service logs and shows the end of it when the test has failed.
func journal(t *testing.T) *zap.Logger {
	t.Helper()
	l := &lines{}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		const shown = 8 << 10
		text := l.text.String()
		t.Logf("the service's log:\n%s", text[max(0, len(text)-shown):])
	})
	encoder := zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(l), zap.InfoLevel))
}
