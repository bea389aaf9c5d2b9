package main

import (
	"flag"
	"io"
	"os"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const defaultURL = "amqp://guest:guest@127.0.0.1:5672/"

// urlFlag adds -url. Its default is not shown as a value: AMQP_URL may hold a
// password.
func urlFlag(flags *flag.FlagSet) func() string {
	given := flags.String("url", "", "`address` of the broker, amqp://user:password@host:port/vhost (default AMQP_URL, else "+defaultURL+")")
	return func() string {
		switch {
		case *given != "":
			return *given
		case os.Getenv("AMQP_URL") != "":
			return os.Getenv("AMQP_URL")
		default:
			return defaultURL
		}
	}
}

// newLogger logs to w, one line an entry.
func newLogger(w io.Writer, level zapcore.Level) *zap.Logger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncodeLevel = zapcore.CapitalLevelEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(cfg), zapcore.Lock(zapcore.AddSync(w)), level))
}

// lockedWriter makes a writer safe for concurrent use.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
