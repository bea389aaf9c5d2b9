package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

// TestReseal: what lies sealed in the error queue is moved with the current key and opens without the old one. What these keys do
// not open, or what somebody has moved, stays.
func TestReseal(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	folder := t.TempDir()
	name := filepath.Join(folder, "keys")
	keys := newKeys(t, name)
	policy := seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}}
	cfg := harebus.Config{URL: b.URL(), Dial: b.Dial}
	cfg.Payload.Guards = []harebus.Guard{seal.New(keys, policy)}
	sender, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sender.Close() })
	ch := listenerQueue(t, b)
	declare(t, ch, "error", nil)
	for id := range 3 {
		err := sender.Bus().Send(t.Context(), "orders", map[string]int{"id": id}, harebus.WithType("PlaceOrder"), harebus.WithHeader("tenant", "blue"))
		if err != nil {
			t.Fatal(err)
		}
	}
	waiting := b.Messages("orders")
	for i, m := range waiting {
		m.Headers["PikaBus.SourceQueue"] = []string{"orders", "refunds", "orders"}[i]
		if i == 2 {
			m.Headers["tenant"] = "red"
		}
		put(t, ch, "error", m.Publishing)
	}
	put(t, ch, "error", amqp.Publishing{MessageId: "plain", Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}, Body: []byte("{}")})
	if _, err := ch.QueuePurge("orders", false); err != nil {
		t.Fatal(err)
	}
	declare(t, ch, "refunds", nil)
	if code, _, stderr := runKeysCommand(t, "new", "-current", "-id", "next", name); code != exitOK {
		t.Fatal(stderr)
	}
	r := execute(t, "", "redrive", "-url", url, "-reseal", "-keys", name, "-bound", "tenant")
	r.check(t, exitFailed, "")
	if !strings.Contains(r.out, "sealed again") || !strings.Contains(r.out, "wrong-destination") || !strings.Contains(r.out, "tampered") || !strings.Contains(r.out, "moved 2, left 2") {
		t.Errorf("printed\n%s", r.out)
	}
	if id, ok := seal.KeyID(b.Messages("orders")[0].Body); !ok || id != "next" {
		t.Errorf("the message was moved with the key %q", id)
	}
	onlyNext := filepath.Join(folder, "next")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSpace(string(text)), "\n")
	if err := os.WriteFile(onlyNext, []byte(lines[len(lines)-1]), 0o600); err != nil {
		t.Fatal(err)
	}
	r = execute(t, "", "listen", "-take", "-type", "classic", "-count", "2", "-keys", onlyNext, "-bound", "tenant", "-url", url, "orders")
	r.check(t, exitOK, "")
	if got := objects(t, r.out); len(got) != 2 || got[0]["body"].(map[string]any)["id"] != 0.0 {
		t.Errorf("printed %s", r.out)
	}
	r = execute(t, "", "redrive", "-url", url, "-reseal", "-keys", name, "-bound", "tenant", "-to", "refunds", "-json")
	r.check(t, exitFailed, "moved 1, left 1")
	if got := objects(t, r.out); len(got) != 2 || got[0]["resealed"] != true {
		t.Errorf("printed %s", r.out)
	}
	strict := cfg
	strict.Queue = "refunds"
	strict.QueueOptions.Type = "classic"
	next, err := seal.ReadKeys(onlyNext)
	if err != nil {
		t.Fatal(err)
	}
	policy.MaxAge = time.Minute
	strict.Payload.Guards = []harebus.Guard{seal.New(next, policy)}
	handled := make(chan string, 1)
	receiver, err := harebus.New(strict)
	if err != nil {
		t.Fatal(err)
	}
	receiver.HandleMessage("PlaceOrder", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		handled <- string(m.Body)
		return nil
	})
	if err := receiver.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = receiver.Close() })
	select {
	case body := <-handled:
		if body != `{"id":1}` {
			t.Errorf("handled %s", body)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("it was not handled; in the error queue: %v", b.Messages("error"))
	}
}

// newKeys makes a file with one key.
func newKeys(t *testing.T, name string) *seal.Keyring {
	t.Helper()
	if code, _, stderr := runKeysCommand(t, "new", name); code != exitOK {
		t.Fatal(stderr)
	}
	keys, err := seal.ReadKeys(name)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
