package header_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
)

// parked makes the headers of a parked message with a custom header of so many bytes.
func parked(d *header.Dialect, custom int) *amqp.Publishing {
	headers := amqp.Table{"custom": strings.Repeat("c", custom), "PikaBus.ErrorDetails": "boom"}
	for i := range 12 {
		d.NoteAttempt(headers, time.Unix(int64(1e9+i), 0), i == 0)
	}
	d.DescribeParking(headers, "0193a7c2-5f4e-7d3a-8000-000000000000", "panic", "1234567890abcdef")
	return &amqp.Publishing{Headers: headers}
}

// TestDescriptionGoesFirst: a frame without room for all headers loses the description of the parking
// before a custom header, and never the id of the parking.
func TestDescriptionGoesFirst(t *testing.T) {
	t.Parallel()
	const frame = 4096
	d := &header.Dialect{Prefix: "PikaBus.", Always: map[string]any{"PikaBus.Build": "1.8.2"}}
	d.Names.ErrorDetails, d.Names.LeftOut = "PikaBus.ErrorDetails", "PikaBus.LeftOut"
	for custom, want := range map[int]string{100: "all", 3800: "custom", 5000: "id"} {
		msg := parked(d, custom)
		d.Fit(msg, frame, 0)
		_, described := msg.Headers["PikaBus.ErrorKind"]
		_, kept := msg.Headers["custom"]
		got := "id"
		switch {
		case described && kept:
			got = "all"
		case kept:
			got = "custom"
		}
		if size := publish.HeaderFrame(msg); got != want || msg.Headers["PikaBus.ErrorId"] == nil || size > frame {
			t.Errorf("with %d bytes: %s, want %s; %d bytes are left: %v", custom, got, want, size, msg.Headers)
		}
	}
}

// TestBoundStays: a header that a guard binds is left out last, though it is the largest of many.
func TestBoundStays(t *testing.T) {
	t.Parallel()
	const frame = 4096
	d := &header.Dialect{Prefix: "PikaBus.", Keep: []string{"tenant"}}
	d.Names.ErrorDetails, d.Names.LeftOut = "PikaBus.ErrorDetails", "PikaBus.LeftOut"
	for size, kept := range map[int]bool{300: true, 2000: true, 5000: false} {
		msg := parked(d, 10)
		msg.Headers["tenant"] = strings.Repeat("t", size)
		for i := range 100 {
			msg.Headers[fmt.Sprintf("small-%d", i)] = strings.Repeat("s", 40)
		}
		d.Fit(msg, frame, 0)
		if _, ok := msg.Headers["tenant"]; ok != kept || publish.HeaderFrame(msg) > frame {
			t.Errorf("%d bytes: kept %t, %d bytes are left", size, ok, publish.HeaderFrame(msg))
		}
	}
}

// TestAttempts: the last ten are kept, and a message that somebody has moved back begins anew.
func TestAttempts(t *testing.T) {
	t.Parallel()
	d := &header.Dialect{Prefix: "PikaBus."}
	headers := parked(d, 0).Headers
	times, _ := headers["PikaBus.Attempts"].([]any)
	if len(times) != 10 || times[9] != time.Unix(1e9+11, 0).UTC() || headers["PikaBus.Host"] == "" {
		t.Errorf("the headers are %v", headers)
	}
	d.NoteAttempt(headers, time.Unix(2e9, 0), true)
	if times, _ := headers["PikaBus.Attempts"].([]any); len(times) != 1 {
		t.Errorf("the attempts are %v", times)
	}
}
