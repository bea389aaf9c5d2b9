// Package safelog makes texts from the network harmless for a log.
package safelog

import (
	"errors"
	"strings"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger into which texts from the network can be put as they are, in the
// fields String and Error. describe makes the field of an error.
func New(log *zap.Logger, describe func(key string, err error) zap.Field) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return safeCore{core, describe, new(gate)}
	}))
}

// safeCore makes every text printable before it is encoded, because encoders escape
// line breaks but not the control sequences of a terminal. The core below is foreign code:
// it may panic, end its goroutine, as that of package zaptest does after its test, or hang.
// That loses entries and does no other harm.
type safeCore struct {
	zapcore.Core
	describe func(key string, err error) zap.Field
	gate     *gate
}

// With has the fields of a derived logger cleaned too.
func (c safeCore) With(fields []zapcore.Field) zapcore.Core {
	with, err := through(c.gate, func() (zapcore.Core, error) { return c.Core.With(c.clean(fields)), nil })
	if err == nil && with != nil {
		c.Core = with
	}
	return c // without the fields if need be
}

// Enabled asks the core below.
func (c safeCore) Enabled(level zapcore.Level) bool {
	enabled, err := through(c.gate, func() (bool, error) { return c.Core.Enabled(level), nil })
	if errors.Is(err, errLost) {
		return true // Write counts what is lost
	}
	return enabled
}

// Check adds this core, not the one below.
func (c safeCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write cleans the fields; the message is always a constant. The core below is
// asked again, because one that samples, or is several with levels of their own,
// decides when it checks and not when it writes. zap writes an error to its ErrorOutput.
func (c safeCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	_, err := through(c.gate, func() (struct{}, error) {
		if lost := c.gate.lost.Swap(0); lost > 0 {
			late := e
			late.Level, late.Message = zapcore.WarnLevel, "entries of the log are lost, because the logger did not return"
			c.pass(late, []zapcore.Field{zap.Int64("lost", lost)})
		}
		c.pass(e, c.clean(fields))
		return struct{}{}, nil
	})
	if errors.Is(err, errLost) {
		c.gate.lost.Add(1)
		return nil // it was told of the first
	}
	return err
}

func (c safeCore) pass(e zapcore.Entry, fields []zapcore.Field) {
	if checked := c.Core.Check(e, nil); checked != nil {
		checked.Write(fields...)
	}
}

// Sync is that of the core below.
func (c safeCore) Sync() error {
	_, err := through(c.gate, func() (struct{}, error) { return struct{}{}, c.Core.Sync() })
	return err
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
