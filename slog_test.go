package harebus_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
)

// logged is what a JSON handler writes for one call of a logger.
func logged(t *testing.T, level slog.Level, call func(*zap.Logger)) map[string]any {
	t.Helper()
	var out bytes.Buffer
	call(harebus.SlogLogger(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level, AddSource: true})))
	if out.Len() == 0 {
		return nil
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	return line
}

type place struct{ x, y int }

func (p place) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddInt("x", p.x)
	e.AddInt("y", p.y)
	return nil
}

type places []place

func (ps places) MarshalLogArray(e zapcore.ArrayEncoder) error {
	for _, p := range ps {
		if err := e.AppendObject(p); err != nil {
			return err
		}
	}
	return nil
}

func TestSlogLoggerFields(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name  string
		field zap.Field
		want  any
	}{
		{"text", zap.String("f", "a\nb"), "a\nb"},
		{"bytes", zap.ByteString("f", []byte("raw")), "raw"},
		{"binary", zap.Binary("f", []byte{1}), "AQ=="},
		{"int", zap.Int64("f", -3), -3.0},
		{"uint", zap.Uint8("f", 3), 3.0},
		{"float", zap.Float64("f", 0.5), 0.5},
		{"bool", zap.Bool("f", true), true},
		{"duration", zap.Duration("f", time.Second), float64(time.Second)},
		{"time", zap.Time("f", at), "2026-01-02T03:04:05Z"},
		{"error", zap.NamedError("f", errors.New("boom")), "boom"},
		{"stringer", zap.Stringer("f", time.Second), "1s"},
		{"nil-stringer", zap.Stringer("f", (*bytes.Buffer)(nil)), "<nil>"},
		{"strings", zap.Strings("f", []string{"a", "b"}), []any{"a", "b"}},
		{"object", zap.Object("f", place{1, 2}), map[string]any{"x": 1.0, "y": 2.0}},
		{"array", zap.Array("f", places{{1, 2}}), []any{map[string]any{"x": 1.0, "y": 2.0}}},
		{"dictionary", zap.Dict("f", zap.Dict("deep", zap.Int("n", 1))), map[string]any{"deep": map[string]any{"n": 1.0}}},
		{"reflected", zap.Any("f", struct{ A int }{1}), map[string]any{"A": 1.0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			line := logged(t, slog.LevelInfo, func(log *zap.Logger) { log.Info("said", test.field) })
			if !reflect.DeepEqual(line["f"], test.want) {
				t.Errorf("got %#v, want %#v", line["f"], test.want)
			}
		})
	}
}

// TestSlogLoggerGroups: a namespace is a group of what follows it, whether it was opened by With or in the call,
// and the logger's name stays outside.
func TestSlogLoggerGroups(t *testing.T) {
	t.Parallel()
	line := logged(t, slog.LevelInfo, func(log *zap.Logger) {
		log = log.Named("service").With(zap.Int("a", 1), zap.Namespace("in"), zap.Int("b", 2)).Named("part").With(zap.Int("c", 3))
		log.Warn("said", zap.Int("d", 4), zap.Namespace("deeper"), zap.Inline(place{5, 6}))
	})
	want := map[string]any{"b": 2.0, "c": 3.0, "d": 4.0, "deeper": map[string]any{"x": 5.0, "y": 6.0}}
	if line["logger"] != "service.part" || line["a"] != 1.0 || !reflect.DeepEqual(line["in"], want) {
		t.Errorf("got %v", line)
	}
	if source, _ := line["source"].(map[string]any); source == nil || !strings.HasSuffix(source["file"].(string), "slog_test.go") {
		t.Errorf("source %v", line["source"])
	}
}

// TestSlogLoggersDoNotShare: two loggers made of one do not write into each other's fields.
func TestSlogLoggersDoNotShare(t *testing.T) {
	t.Parallel()
	line := logged(t, slog.LevelInfo, func(log *zap.Logger) {
		log = log.With(zap.Namespace("in"), zap.Int("a", 1)).With(zap.Int("b", 2)) // append would leave room for another
		one := log.With(zap.Int("n", 1))
		log.With(zap.Int("n", 2))
		one.Info("said")
	})
	if got := line["in"].(map[string]any)["n"]; got != 1.0 {
		t.Errorf("got %v", line)
	}
}

func TestSlogLoggerLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[zapcore.Level]string{
		zapcore.DebugLevel: "DEBUG", zapcore.InfoLevel: "INFO", zapcore.WarnLevel: "WARN", zapcore.ErrorLevel: "ERROR",
		zapcore.DPanicLevel: "ERROR+1", zapcore.DebugLevel - 1: "DEBUG-4",
	} {
		line := logged(t, slog.LevelDebug-4, func(log *zap.Logger) { log.Log(level, "said") })
		if line["level"] != want || line["msg"] != "said" {
			t.Errorf("%v: got %v", level, line)
		}
	}
	if line := logged(t, slog.LevelWarn, func(log *zap.Logger) { log.Info("not wanted") }); line != nil {
		t.Errorf("written below the level: %v", line)
	}
	beside, _ := observer.New(zapcore.InfoLevel) // has the logger enabled
	tee := func(log *zap.Logger) {
		log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return zapcore.NewTee(core, beside) })).Info("not wanted")
	}
	if line := logged(t, slog.LevelWarn, tee); line != nil {
		t.Errorf("written below the level because another core wants it: %v", line)
	}
	if harebus.SlogLogger(slog.NewTextHandler(new(bytes.Buffer), &slog.HandlerOptions{Level: slog.LevelError})).Core().Enabled(zap.WarnLevel) {
		t.Error("enabled below the level")
	}
	harebus.SlogLogger(nil).Error("to nobody")
}

// TestSlogLoggerKeepsErrors: the handler gets an error as the value, which it may replace by another text.
func TestSlogLoggerKeepsErrors(t *testing.T) {
	t.Parallel()
	var got any
	handler := slog.NewTextHandler(new(bytes.Buffer), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == "error" {
			got = a.Value.Any()
		}
		return a
	}})
	harebus.SlogLogger(handler).Info("said", zap.Error(errBoom))
	if err, ok := got.(error); !ok || !errors.Is(err, errBoom) {
		t.Errorf("got %T %v", got, got)
	}
}

// TestSlogLoggerStack: where zap adds a stack, it is not lost.
func TestSlogLoggerStack(t *testing.T) {
	t.Parallel()
	line := logged(t, slog.LevelInfo, func(log *zap.Logger) { log.WithOptions(zap.AddStacktrace(zap.ErrorLevel)).Error("said") })
	if stack, _ := line["stacktrace"].(string); !strings.Contains(stack, "TestSlogLoggerStack") {
		t.Errorf("got %v", line)
	}
}
