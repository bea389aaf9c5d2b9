package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

// TestListenWithKeys: listen prints what is sealed as its sender wrote it, if it has the key.
func TestListenWithKeys(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	name := filepath.Join(t.TempDir(), "keys")
	if code, _, stderr := runKeysCommand(t, "new", name); code != exitOK {
		t.Fatal(stderr)
	}
	keys, err := seal.ReadKeys(name)
	if err != nil {
		t.Fatal(err)
	}
	policy := seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}}
	cfg := harebus.Config{URL: b.URL(), Dial: b.Dial}
	cfg.Payload.Guards = []harebus.Guard{seal.New(keys, policy), seal.Sign(keys, policy)}
	sender, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sender.Close() })
	declare(t, client(t, b), "orders", nil)
	send := func(id int, options ...harebus.SendOption) {
		t.Helper()
		err := sender.Bus().Send(t.Context(), "orders", map[string]int{"id": id}, append(options, harebus.WithType("PlaceOrder"))...)
		if err != nil {
			t.Fatal(err)
		}
	}
	send(7, harebus.WithHeader("tenant", "blue"))
	r := execute(t, "", "listen", "-take", "-type", "classic", "-count", "1", "-keys", name, "-bound", "tenant", "-url", url, "orders")
	r.check(t, exitOK, "")
	got := objects(t, r.out)
	if len(got) != 1 {
		t.Fatalf("printed %s", r.out)
	}
	if body, ok := got[0]["body"].(map[string]any); !ok || body["id"] != 7.0 {
		t.Errorf("printed %s", r.out)
	}
	send(8, harebus.WithHeader("tenant", "blue"))
	send(9)
	r = execute(t, "", "listen", "-take", "-type", "classic", "-count", "1", "-keys", name, "-url", url, "orders")
	r.check(t, exitOK, "tampered")
	if parked := b.Messages("error"); len(parked) != 1 || len(objects(t, r.out)) != 1 {
		t.Errorf("without -bound %d messages are parked; printed %s", len(parked), r.out)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	execute(t, "", "listen", "-take", "-type", "classic", "-keys", name, "-url", url, "orders").check(t, exitUsage, "chmod 600")
}
