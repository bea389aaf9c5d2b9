package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
)

// TestPrintingHidesPasswords prints whatever holds a password with every verb.
func TestPrintingHidesPasswords(t *testing.T) {
	t.Parallel()
	cfg := harebus.Config{URL: "amqp://u:s3cret@host:1/", Connect: harebus.ConnectConfig{URLs: []string{"amqp://u:s3cret%zz@x"}, Username: "u", Password: "s3cret"}, Queue: "orders"}
	valid := cfg
	valid.Connect.URLs = nil
	s, err := harebus.New(valid)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{cfg, &cfg, []harebus.Config{cfg}, s, s.Bus(), *s.Bus(), s.Bus().Begin()} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			text := fmt.Sprintf(verb, value)
			if strings.Contains(text, "s3cret") || strings.Contains(text, "733363726574") {
				t.Errorf("%s of a %T: %s", verb, value, text)
			}
			contains(t, text, "host:1", "orders")
		}
	}
}

// eavesdropper keeps the texts of all errors that an observer gets.
type eavesdropper struct{ heard chan string }

func (e eavesdropper) ObserveStart(ctx context.Context, event harebus.Observation) context.Context {
	e.heard <- fmt.Sprint(event.Err)
	return ctx
}

func (e eavesdropper) ObserveEnd(_ context.Context, _ harebus.Observation, err error) {
	e.heard <- fmt.Sprint(err)
}

// TestRejectedIsNotQuoted: an error about a message that cannot be handled quotes
// it. The error queue gets the text, the log and the observer only the reason.
func TestRejectedIsNotQuoted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		core, logs := observer.New(zap.DebugLevel)
		ear := eavesdropper{make(chan string, 1000)}
		cfg := r.config("orders")
		cfg.Logger, cfg.Observers = zap.New(core), []harebus.Observer{ear}
		cfg.Payload.Codecs = []harebus.Codec{harebus.JSON{Strict: true}}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		r.publish(r.channel(), "orders", plain(`{"s3cret":1}`), ordered(amqp.Table{"PikaBus.DeferredTime": "s3cret"}))
		for _, m := range r.await("error", 2) {
			contains(t, fmt.Sprint(m.Headers["PikaBus.ErrorDetails"]), "s3cret")
		}
		r.quiet("error")
		var heard []string
		for len(ear.heard) > 0 {
			heard = append(heard, <-ear.heard)
		}
		for _, entry := range logs.All() {
			heard = append(heard, fmt.Sprint(entry.Message, entry.ContextMap()))
		}
		all := strings.Join(heard, "\n")
		contains(t, all, "moved to the error queue", "bad-payload", "bad-time")
		if strings.Contains(all, "s3cret") {
			t.Errorf("quoted: %s", all)
		}
	})
}

// TestLogIsPrintable: what strangers write cannot command a terminal, nor forge a
// line where line breaks are not escaped.
func TestLogIsPrintable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		core, logs := observer.New(zap.DebugLevel)
		cfg := r.config("orders")
		cfg.Logger = zap.New(core)
		cfg.Handling.ErrorHandler = func(m *harebus.Message, _ error, _ harebus.Decision) harebus.Decision { panic(m.Type) }
		s := r.setup(cfg)
		s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			return errors.New(m.Type)
		})
		r.start(s)
		const evil = "\x1b[31m\u202e\u009b\u2028\x00"
		r.publish(r.channel(), "orders", amqp.Publishing{Type: "a\nb" + evil, MessageId: "c\td" + evil})
		r.await("error", 1)
		r.quiet("error")
		parked := logs.FilterMessage("message moved to the error queue").All()
		if len(parked) != 1 || logs.FilterMessageSnippet("failed; parking").Len() != 1 {
			t.Fatalf("logged %v", logs.All())
		}
		fields := parked[0].ContextMap()
		if fields["message_type"] != "a\uFFFDb\uFFFD[31m\uFFFD\uFFFD\uFFFD\uFFFD" || !strings.HasPrefix(fmt.Sprint(fields["message_id"]), "c\uFFFDd\uFFFD") {
			t.Errorf("logged %q", fields)
		}
		for _, entry := range logs.All() {
			for _, field := range entry.Context {
				if field.Type == zapcore.ErrorType || strings.ContainsAny(field.String, evil[:1]+"\u202e\u009b\u2028") {
					t.Errorf("%s: %+v", entry.Message, field)
				}
			}
		}
	})
}

// TestLogLevelsAreKept: of several cores each gets what its own level lets through.
func TestLogLevelsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		all, everything := observer.New(zap.DebugLevel)
		severe, errorsOnly := observer.New(zap.ErrorLevel)
		cfg := r.config("orders")
		cfg.Logger = zap.New(zapcore.NewTee(all, severe))
		s := r.setup(cfg)
		s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		r.start(s)
		if everything.FilterLevelExact(zap.InfoLevel).Len() == 0 {
			t.Fatal("nothing was logged")
		}
		if n := errorsOnly.Len(); n > 0 {
			t.Errorf("%d lines below its level: %v", n, errorsOnly.All())
		}
	})
}
