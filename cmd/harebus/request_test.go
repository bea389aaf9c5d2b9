package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// answering starts a service that repeats what it is asked, or fails.
func answering(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	s, err := harebus.New(harebus.Config{URL: b.URL(), Dial: b.Dial, Queue: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		switch m.Type {
		case "Fail":
			return harebus.NoRetry(errors.New("out of stock"))
		case "Ignore":
			return nil
		default:
			return bus.Reply(ctx, string(m.Body)+" for "+m.Headers["tenant"].(string), harebus.WithType("Answer"), harebus.WithContentType("text/plain"))
		}
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRequest: the reply is printed, and the exit code says what became of the request.
func TestRequest(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	answering(t, b)
	for _, test := range []struct {
		name, stdin string
		args        []string
		code        int
		out, err    string
	}{
		{"reply", "", []string{"-type", "Place", "-header", "tenant=a", "orders", "{}"}, exitOK, "{} for a\n", ""},
		{"stdin", "hello\n", []string{"-header", "tenant=a", "orders", "-"}, exitOK, "hello\n for a\n", ""},
		{"fault", "", []string{"-type", "Fail", "orders", "{}"}, exitFault, "", "out of stock"},
		{"no reply", "", []string{"-type", "Ignore", "-timeout", "200ms", "orders", "{}"}, exitFailed, "", "no reply came in time: gave up after 200ms"},
		{"no queue", "", []string{"nowhere", "{}"}, exitFailed, "", "no queue takes the message"},
		{"no body", "", []string{"orders"}, exitUsage, "", "want a queue and a body"},
		{"no time", "", []string{"-timeout", "0", "orders", "{}"}, exitUsage, "", "-timeout must be more than 0"},
		{"late flag", "", []string{"orders", "{}", "-type", "x"}, exitUsage, "", "has to stand before"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			r := execute(t, test.stdin, append([]string{"request", "-url", url}, test.args...)...)
			r.check(t, test.code, test.err)
			if r.out != test.out {
				t.Errorf("printed %q, want %q", r.out, test.out)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}
