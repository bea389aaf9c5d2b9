// Package slogcore lets a zap logger write to a slog.Handler.
package slogcore

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap/zapcore"
)

// New returns a core that writes to handler.
func New(handler slog.Handler) zapcore.Core { return slogCore{handler: handler} }

// slogCore is a zapcore.Core that writes to a slog.Handler.
type slogCore struct {
	handler slog.Handler
	open    []zapcore.Field // of With, from the first namespace on: what follows belongs into it
}

func slogLevel(level zapcore.Level) slog.Level {
	const step = slog.LevelError - slog.LevelWarn
	if level <= zapcore.ErrorLevel {
		return slog.Level(level) * step
	}
	return slog.LevelError + slog.Level(level-zapcore.ErrorLevel)
}

// Enabled asks the handler.
func (c slogCore) Enabled(level zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), slogLevel(level))
}

// With gives the handler what stands outside every namespace, and keeps the rest.
func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	outside := len(fields)
	if len(c.open) > 0 {
		outside = 0
	} else if i := slices.IndexFunc(fields, isNamespace); i >= 0 {
		outside = i
	}
	if attrs := slogAttrs(fields[:outside]); len(attrs) > 0 {
		c.handler = c.handler.WithAttrs(attrs)
	}
	c.open = slices.Concat(c.open, fields[outside:])
	return c
}

// Check adds the core when the handler wants the level.
func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write hands the handler a record.
func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	record := slog.NewRecord(entry.Time, slogLevel(entry.Level), entry.Message, entry.Caller.PC)
	if entry.LoggerName != "" {
		record.AddAttrs(slog.String("logger", entry.LoggerName))
	}
	if entry.Stack != "" {
		record.AddAttrs(slog.String("stacktrace", entry.Stack))
	}
	record.AddAttrs(slogAttrs(slices.Concat(c.open, fields))...)
	return c.handler.Handle(context.Background(), record)
}

// Sync has nothing to do: a slog.Handler keeps nothing back.
func (slogCore) Sync() error { return nil }

func isNamespace(f zapcore.Field) bool { return f.Type == zapcore.NamespaceType }

// slogAttrs turns fields into attributes. What follows a namespace is in its group.
func slogAttrs(fields []zapcore.Field) []slog.Attr {
	attrs := make([]slog.Attr, 0, len(fields))
	for i, f := range fields {
		switch f.Type {
		case zapcore.NamespaceType:
			return append(attrs, slog.Attr{Key: f.Key, Value: slog.GroupValue(slogAttrs(fields[i+1:])...)})
		case zapcore.ErrorType: // the value, for those who replace attributes
			attrs = append(attrs, slog.Any(f.Key, f.Interface))
		default:
			values := zapcore.NewMapObjectEncoder()
			f.AddTo(values)
			attrs = append(attrs, slogGroup(values.Fields)...)
		}
	}
	return attrs
}

// slogGroup turns the encoder's fields into attributes, sorted by name.
func slogGroup(values map[string]any) []slog.Attr {
	attrs := make([]slog.Attr, 0, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value := slog.AnyValue(values[key])
		if group, ok := values[key].(map[string]any); ok {
			value = slog.GroupValue(slogGroup(group)...)
		}
		attrs = append(attrs, slog.Attr{Key: key, Value: value})
	}
	return attrs
}
