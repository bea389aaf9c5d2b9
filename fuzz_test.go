package harebus_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// FuzzReadMessage: any header of any type gives a message or a reason, and never
// a text that could not be sent on.
func FuzzReadMessage(f *testing.F) {
	names := []string{
		"MessageId", "CorrelationId", "MessageType", "TimeSent", "ReplyToAddress", "Intent", "ContentType", "ContentEncoding",
		"DeferredTime", "ErrorRetries", "ErrorDetails", "SourceQueue", "Hops", "OriginatingAddress",
	}
	for i, seed := range []string{
		"", "3", "abc", "-1", "1e9", long[:256], "\xff", "2026-11-21T08:44:41.901107+00:00", "11/21/2026 08:46:59", "9999-12-31", "query", "os/exec.Cmd",
		"../../x", "System.Diagnostics.Process, System", "text/plain; charset=utf-8", "*/*", "gzip,gzip", "amq.gen-1", "error", "a\nb",
	} {
		f.Add(byte(i), byte(i/2), seed, int64(i)*1e17, "property")
	}
	f.Fuzz(func(t *testing.T, which, kind byte, text string, n int64, property string) {
		values := []any{
			text, []byte(text), n, int8(n), uint8(n), int16(n), uint16(n), int32(n), uint32(n), float64(n), n%2 == 0, nil,
			time.Unix(n, 0), amqp.Table{text: n}, []any{text}, amqp.Decimal{Value: int32(n)},
		}
		name := prefixed(names[int(which)%len(names)])
		in := &amqp.Delivery{
			Headers:   amqp.Table{name: values[int(kind)%len(values)], text: n},
			MessageId: property, CorrelationId: property, Type: property, ReplyTo: property, Body: []byte(text),
		}
		m, err := harebus.ReadMessage(in)
		if m == nil || m.ID == "" || string(m.Body) != text {
			t.Fatalf("no message: %+v", m)
		}
		var rejected *harebus.RejectError
		if err != nil && (!errors.As(err, &rejected) || rejected.Reason == "" || len(err.Error()) > 4<<10) {
			t.Errorf("not a short RejectError: %v", err)
		}
		if err == nil && m.Intent != harebus.IntentCommand && m.Intent != harebus.IntentEvent {
			t.Errorf("intent %q", m.Intent)
		}
		for _, s := range []string{m.ID, m.CorrelationID, m.Type, m.ReplyTo, m.ContentType, m.ContentEncoding, m.SourceQueue, m.OriginatingAddress} {
			if s != property && (len(s) > 255 || !utf8.ValidString(s)) {
				t.Errorf("%.40q… cannot be sent on", s)
			}
		}
		if n := m.DeferredUntil; !n.IsZero() && (n.Year() < 1 || n.Year() > 9999) {
			t.Errorf("deferred until %v", n)
		}
	})
}

// FuzzParseTime: a time that was read can be written and read again, never later.
func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{
		"2026-11-21T08:44:41.901107+00:00", "2026-11-21T08:44:41", "11/21/2026 08:46:59", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:01Z", "20261121",
		"2026-11-21T08:44:41,5", "", "x", "1795250681", " 2026-11-21 ", "0000-01-01", "2026-11-21T24:00:00", "2026-11-21T08:44:41+99:99", "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := harebus.ParseTime(text)
		if err != nil {
			if !at.IsZero() {
				t.Errorf("%v with an error", at)
			}
			return
		}
		for format, grain := range map[harebus.TimeFormat]time.Duration{harebus.TimeISO: time.Microsecond, harebus.TimeLegacy: time.Second} {
			if at.Before(time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)) {
				continue // the zero time, once its fraction is gone
			}
			again, err := harebus.ParseTime(format.Format(at))
			if err != nil || again.After(at) || at.Sub(again) >= grain {
				t.Errorf("%v is written as %q and read as %v: %v", at, format.Format(at), again, err)
			}
		}
	})
}

// FuzzParseCount: a count is small, or an error.
func FuzzParseCount(f *testing.F) {
	for i, seed := range []string{"3", "abc", "-1", "1e9", "", " 7 ", "0x10", "99999999999999999999", "+0", "1_000", "\xff"} {
		f.Add(seed, int64(math.MaxInt64)>>i)
	}
	f.Fuzz(func(t *testing.T, text string, n int64) {
		for _, value := range []any{text, []byte(text), n, int8(n), uint8(n), int16(n), uint16(n), int32(n), uint32(n)} {
			if got, err := harebus.ParseCount(value); got < 0 || got > 1_000_000 || err != nil && got != 0 {
				t.Errorf("%T %v is %d, %v", value, value, got, err)
			}
		}
	})
}

// FuzzErrorDetails: whatever the error and the headers, the parked copy can be
// sent.
func FuzzErrorDetails(f *testing.F) {
	f.Add("boom", "x", 1, 1)
	f.Add("\xff", "", 9000, 20)
	f.Add("é", "PikaBus.X", 5000, 17)
	f.Add("😀", "PikaBus.SourceQueue", 3000, 140)
	f.Add(strings.Repeat("x", 8191), "\xff\xfe", 2, 300)
	f.Fuzz(func(t *testing.T, text, key string, times, headers int) {
		details := harebus.ErrorDetails(errors.New(strings.Repeat(text, min(max(times, 0), 4096))))
		if !utf8.ValidString(details) || len(details) > harebus.MaxErrorDetails {
			t.Errorf("%d bytes of details", len(details))
		}
		table := many(key, min(max(headers, 0), 400), 700)
		if len(key) > 250 {
			return
		}
		table[prefixed("ErrorDetails")] = details
		harebus.Fit(table)
		if size := harebus.HeaderFrame(table); size > harebus.MaxHeaderFrame {
			t.Errorf("%d bytes of headers", size)
		}
		if text, _ := table[prefixed("ErrorDetails")].(string); !utf8.ValidString(text) {
			t.Error("the details are not UTF-8 any more")
		}
	})
}
