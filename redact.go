package harebus

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus/internal/guard"
	"github.com/harebus/harebus/internal/session"
)

// String names what the config is for: the hosts of its addresses, its queue and
// its exchanges. Everything that may be a secret is left out.
func (c Config) String() string {
	c = c.withDefaults()
	hosts := make([]string, len(c.Connect.URLs))
	for i := range c.Connect.URLs {
		hosts[i] = "(not valid)"
		one := Config{Connect: ConnectConfig{URLs: c.Connect.URLs[i : i+1]}}
		if uris, err := one.addresses(); err == nil {
			hosts[i] = session.HostPort(uris[0])
		}
	}
	return fmt.Sprintf("harebus.Config{hosts: %q, queue: %q, error queue: %q, exchanges: %q, subscriptions: %q}",
		hosts, c.Queue, c.ErrorQueue.Name, []string{c.Exchanges.Direct, c.Exchanges.Topic}, c.Subscriptions)
}

// Format writes String for every verb, so that no way of printing a config shows
// a password.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// String names the config of the setup, without anything that may be a secret.
func (s *Setup) String() string { return "harebus.Setup of " + s.cfg.String() }

// Format writes String for every verb.
func (s *Setup) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// String names the config of the setup that a Bus or Tx belongs to.
func (s sender) String() string { return "harebus.Bus of " + s.setup.cfg.String() }

// Format writes String for every verb.
func (s sender) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

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

// safeLogger is a logger into which texts from the network can be put as they
// are, in the fields String and Error.
func safeLogger(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return safeCore{core} }))
}

// safeCore makes every text printable before it is encoded, because encoders escape
// line breaks but not the control sequences of a terminal.
type safeCore struct{ zapcore.Core }

// With has the fields of a derived logger cleaned too.
func (c safeCore) With(fields []zapcore.Field) zapcore.Core {
	with := c.Core
	_ = guard.Call(func() error { with = c.Core.With(clean(fields)); return nil }) // then without them
	return safeCore{with}
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
			checked.Write(clean(fields)...)
		}
		return nil
	})
}

// clean returns a copy of fields with printable texts. Only errors and stacks may
// have several lines.
func clean(fields []zapcore.Field) []zapcore.Field {
	cleaned := make([]zapcore.Field, len(fields))
	for i, f := range fields {
		switch err, _ := f.Interface.(error); {
		case f.Type == zapcore.ErrorType && err != nil:
			f = errorField(f.Key, err)
		case f.Type == zapcore.StringType && f.Key != "stack":
			f.String = strings.Join(strings.FieldsFunc(printable(f.String), isBreak), "\uFFFD")
		}
		cleaned[i] = f
	}
	return cleaned
}

// errorField is the error for a log. For a message that no handler has seen it is
// only the reason code, because the rest can quote the message.
func errorField(key string, err error) zap.Field {
	if rejected := rejection(err); rejected != nil {
		return zap.String("reason", rejected.Reason)
	}
	return zap.String(key, printable(textOf(err)))
}

func isBreak(r rune) bool { return r == '\n' || r == '\t' }

// printable makes a text from the network safe for a log: it limits its length and
// removes all characters that are not printable, except line breaks and tabs.
func printable(text string) string {
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
