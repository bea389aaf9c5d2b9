package harebus

import (
	"errors"
	"log/slog"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/safelog"
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

// errWithheld replaces a text that can quote a message.
var errWithheld = errors.New("the error queue has the details")

// withoutQuotes reduces the error about a message that no handler has seen to its
// reason code, because the rest can quote body or headers.
func withoutQuotes(err error) error {
	rejected := rejection(err)
	if rejected == nil {
		return err
	}
	return &RejectError{Reason: rejected.Reason, Err: errWithheld}
}

// safeLogger is a logger into which texts from the network can be put as they are.
func safeLogger(log *zap.Logger) *zap.Logger { return safelog.New(log, errorField) }

// errorField is the error for a log. For a message that no handler has seen it is
// only the reason code, because the rest can quote the message.
func errorField(key string, err error) zap.Field {
	if rejected := rejection(err); rejected != nil {
		return zap.String("reason", rejected.Reason)
	}
	return zap.String(key, safelog.Printable(foreign.TextOf(err)))
}
