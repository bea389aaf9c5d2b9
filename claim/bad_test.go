package claim_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
)

// TestBadClaims: a message whose body is missing waits for it, for a minute, and is then parked; one whose body or reference is
// wrong is parked at once. Neither is handled, and good messages before and after it are.
func TestBadClaims(t *testing.T) {
	t.Parallel()
	const key = "2026/11/29/0b0e7a56-6a5b-4c0a-9f0e-0123456789ab"
	for name, c := range map[string]struct {
		reason string
		waits  time.Duration                      // at least so long
		spoil  func(file string) error            // the stored body
		change func(reference, key []byte) []byte // the reference
	}{
		"missing":      {"claim-missing", time.Minute, os.Remove, nil},
		"swapped":      {"bad-claim", 0, func(file string) error { return os.WriteFile(file, bytes.Repeat([]byte("y"), 2011), 0o600) }, nil},
		"longer":       {"bad-claim", 0, func(file string) error { return os.WriteFile(file, make([]byte, 1<<20), 0o600) }, nil},
		"of another":   {"claim-missing", time.Minute, nil, func(r, own []byte) []byte { return bytes.Replace(r, own, []byte(key), 1) }},
		"other store":  {"bad-claim", 0, nil, func(r, _ []byte) []byte { return bytes.Replace(r, []byte("default"), []byte("secrets"), 1) }},
		"path":         {"bad-claim", 0, nil, func(r, own []byte) []byte { return bytes.Replace(r, own, []byte("../../../"+string(own[9:])), 1) }},
		"absolute":     {"bad-claim", 0, nil, func(r, own []byte) []byte { return bytes.Replace(r, own, []byte("/etc/passwd/"+string(own[12:])), 1) }},
		"cut":          {"bad-claim", 0, nil, func(r, _ []byte) []byte { return r[:len(r)-1] }},
		"followed":     {"bad-claim", 0, nil, func(r, _ []byte) []byte { return append(r, 0) }},
		"empty":        {"bad-claim", 0, nil, func(_, _ []byte) []byte { return nil }},
		"text":         {"bad-claim", 0, nil, func(_, _ []byte) []byte { return []byte(`{"claim":"x"}`) }},
		"said to be 1": {"bad-claim", 0, nil, func(r, own []byte) []byte { return sized(r, own, 1) }},
		"too large":    {"too-large", 0, nil, func(r, own []byte) []byte { return sized(r, own, 1<<40) }},
		"negative":     {"bad-claim", 0, nil, func(r, own []byte) []byte { return sized(r, own, 1<<63) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, root := dir(t)
			synctest.Test(t, func(t *testing.T) {
				broker := brokertest.New()
				t.Cleanup(broker.Close)
				g := guardOf(t, claim.Config{Store: store, From: 1024})
				var handled []string
				patient := func(cfg *harebus.Config) {
					cfg.Retry = harebus.RetryConfig{MaxRetries: 20, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(10 * time.Second) }}
				}
				s := life(t, broker, g, func(m *harebus.Message) error {
					handled = append(handled, m.ID)
					return nil
				}, patient)
				message := caught(t, broker, s)
				stored := files(t, root)[0]
				if c.spoil != nil {
					if err := c.spoil(filepath.Join(root, stored)); err != nil {
						t.Fatal(err)
					}
				}
				if c.change != nil {
					message.Body = c.change(bytes.Clone(message.Body), []byte(stored))
				}
				began := time.Now()
				send(t, s, "first")
				put(t, broker, message)
				send(t, s, "last")
				if err := broker.WaitQuiet(t.Context(), "error"); err != nil {
					t.Fatal(err)
				}
				parked := broker.Messages("error")
				if fmt.Sprint(handled) != "[first last]" || len(parked) != 1 {
					t.Fatalf("handled %v, parked %d", handled, len(parked))
				}
				if details := fmt.Sprint(parked[0].Headers["PikaBus.ErrorDetails"]); !strings.HasPrefix(details, c.reason) || !bytes.Equal(parked[0].Body, message.Body) {
					t.Errorf("parked for %q", details)
				}
				if waited := time.Since(began); waited < c.waits || c.waits == 0 && waited > 10*time.Second {
					t.Errorf("parked after %v", waited)
				}
			})
		})
	}
}

// sized changes the size that a reference says.
func sized(reference, key []byte, size uint64) []byte {
	at := bytes.Index(reference, key) + len(key)
	binary.BigEndian.PutUint64(reference[at:], size)
	return reference
}

func send(t *testing.T, s *harebus.Setup, id string) {
	t.Helper()
	if err := s.Bus().Send(t.Context(), "photos", photo{"small"}, harebus.WithMessageID(id)); err != nil {
		t.Fatal(err)
	}
}

// caught is a message with a reference, as it lies in the queue of a service that is paused.
func caught(t *testing.T, broker *brokertest.Broker, s *harebus.Setup) amqp.Publishing {
	t.Helper()
	if err := errors.Join(s.Pause(t.Context()), s.Bus().Send(t.Context(), "photos", large)); err != nil {
		t.Fatal(err)
	}
	waiting := broker.Messages("photos")
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueuePurge("photos", false); err != nil || len(waiting) != 1 {
		t.Fatalf("%d messages, %v", len(waiting), err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	return waiting[0].Publishing
}

func put(t *testing.T, broker *brokertest.Broker, m amqp.Publishing) {
	t.Helper()
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.PublishWithContext(t.Context(), "", "photos", false, false, m); err != nil {
		t.Fatal(err)
	}
}
