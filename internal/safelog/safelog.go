// Package safelog makes texts from the network harmless for a log.
package safelog

import (
	"strings"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus/internal/guard"
)

// New returns a logger into which texts from the network can be put as they are, in the
// fields String and Error. describe makes the field of an error.
func New(log *zap.Logger, describe func(key string, err error) zap.Field) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return safeCore{core, describe} }))
}

// safeCore makes every text printable before it is encoded, because encoders escape
// line breaks but not the control sequences of a terminal.
type safeCore struct {
	zapcore.Core
	describe func(key string, err error) zap.Field
}

// With has the fields of a derived logger cleaned too.
func (c safeCore) With(fields []zapcore.Field) zapcore.Core {
	with := c.Core
	_ = guard.Call(func() error { with = c.Core.With(c.clean(fields)); return nil }) // then without them
	return safeCore{with, c.describe}
}

// Check adds this core, not the one below.
func (c safeCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	enabled := false
	if err := guard.Call(func() error { enabled = c.Enabled(e.Level); return nil }); err == nil && enabled {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write cleans the fields; the message is always a constant. The core below is
// asked again, because one that samples, or is several with levels of their own,
// decides when it checks and not when it writes. One that panics, as that of
// package zaptest does after its test, loses the entry and does no other harm: zap
// writes the error to its ErrorOutput.
func (c safeCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	return guard.Call(func() error {
		if checked := c.Core.Check(e, nil); checked != nil {
			checked.Write(c.clean(fields)...)
		}
		return nil
	})
}

// clean returns a copy of fields with printable texts. Only errors and stacks may
// have several lines.
func (c safeCore) clean(fields []zapcore.Field) []zapcore.Field {
	cleaned := make([]zapcore.Field, len(fields))
	for i, f := range fields {
		switch err, _ := f.Interface.(error); {
		case f.Type == zapcore.ErrorType && err != nil:
			f = c.describe(f.Key, err)
		case f.Type == zapcore.StringType && f.Key != "stack":
			f.String = strings.Join(strings.FieldsFunc(Printable(f.String), isBreak), "\uFFFD")
		}
		cleaned[i] = f
	}
	return cleaned
}

func isBreak(r rune) bool { return r == '\n' || r == '\t' }

// Printable makes a text from the network safe for a log: it limits its length and
// removes all characters that are not printable, except line breaks and tabs.
func Printable(text string) string {
	const longest = 4 << 10
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || isBreak(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}
