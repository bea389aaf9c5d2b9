package harebus

import (
	"log/slog"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/slogcore"
)

// SlogLogger returns a logger for [Config.Logger] that writes to handler, for
// programs that log with log/slog: SlogLogger(slog.Default().Handler()). The handler
// decides what is enabled and gets each field as an attribute, nested ones as groups,
// the place of the call as the record's source, and the logger's name as "logger". It
// gets no context of a message. Levels above error are those of zap, counted on from
// slog.LevelError. A nil handler logs nothing.
func SlogLogger(handler slog.Handler) *zap.Logger {
	if handler == nil {
		return zap.NewNop()
	}
	return zap.New(slogcore.New(handler), zap.AddCaller())
}
