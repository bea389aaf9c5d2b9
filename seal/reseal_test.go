package seal_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

// stack has a message protected, or admitted, by guards in the order of Payload.Guards.
type stack []harebus.Guard

func (s stack) protect(t *testing.T, id *harebus.Identity) *harebus.Payload {
	t.Helper()
	p := payload()
	for _, g := range s {
		if err := g.Protect(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (s stack) admit(t *testing.T, id *harebus.Identity, p harebus.Payload) (string, error) {
	t.Helper()
	for i := len(s) - 1; i >= 0; i-- {
		if err := s[i].Admit(t.Context(), id, &p); err != nil {
			return "", err
		}
	}
	return string(p.Body), nil
}

// kinds are the ways to protect a message.
func kinds(keys seal.Keys, p seal.Policy) map[string]stack {
	return map[string]stack{
		"sealed": {seal.New(keys, p)}, "signed": {seal.Sign(keys, p)}, "sealed and signed": {seal.New(keys, p), seal.Sign(keys, p)},
	}
}

// TestReseal: what was protected with an old key and is too old opens again, with the current key alone. It is bound as before.
func TestReseal(t *testing.T) {
	t.Parallel()
	old, current := secret(t, "old", 1), secret(t, "current", 2)
	strict := all
	strict.MaxAge = time.Hour
	event := sent()
	event.Intent, event.Exchange, event.RoutingKey, event.Queue = harebus.IntentEvent, "PikaBusTopic", "order.placed", ""
	for name, id := range map[string]*harebus.Identity{"command": sent(), "event": event} {
		for kind, sender := range kinds(ring(t, old), all) {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				p := sender.protect(t, id)
				in := received(id)
				in.Queue = "orders"
				receiver := kinds(ring(t, current), strict)[kind]
				if _, err := receiver.admit(t, in, *p); err == nil {
					t.Fatal("the receiver has no such key and has opened it")
				}
				if done, err := seal.Reseal(t.Context(), ring(t, current, old), all, in, p); err != nil || !done {
					t.Fatalf("reseal: %t, %v", done, err)
				}
				if body, err := receiver.admit(t, in, *p); err != nil || body != plaintext {
					t.Errorf("opened %q, %v", body, err)
				}
				elsewhere := *in
				elsewhere.Queue = "refunds"
				if _, err := receiver.admit(t, &elsewhere, *p); name == "command" {
					refused(t, err, "wrong-destination")
				} else if err != nil {
					t.Error(err)
				}
				changed := *in
				changed.ReplyTo = "attacker"
				_, err := receiver.admit(t, &changed, *p)
				refused(t, err, "tampered")
			})
		}
	}
}

// TestResealElsewhere: a command that was put into the queue of another service is not sealed again, unless somebody says
// that it belongs there. Then it belongs nowhere else.
func TestResealElsewhere(t *testing.T) {
	t.Parallel()
	keys := ring(t, secret(t, "key", 1))
	for kind, sender := range kinds(keys, all) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := sender.protect(t, sent())
			in := received(sent())
			in.Queue = "refunds"
			before := *p
			_, err := seal.Reseal(t.Context(), keys, all, in, p)
			refused(t, err, "wrong-destination")
			if !bytes.Equal(p.Body, before.Body) || p.Signature != before.Signature {
				t.Error("it was changed all the same")
			}
			allowed := all
			allowed.AnyDestination = true
			if done, err := seal.Reseal(t.Context(), keys, allowed, in, p); err != nil || !done {
				t.Fatalf("reseal: %t, %v", done, err)
			}
			if body, err := sender.admit(t, in, *p); err != nil || body != plaintext {
				t.Errorf("opened %q, %v", body, err)
			}
			in.Queue = "orders"
			_, err = sender.admit(t, in, *p)
			refused(t, err, "wrong-destination")
		})
	}
}

// TestResealRefuses: what is not authentic is not made so, and what cannot be protected again stays as it is.
func TestResealRefuses(t *testing.T) {
	t.Parallel()
	private, _ := signing(t, "sign", 3)
	keys := ring(t, secret(t, "key", 1), private)
	for name, c := range map[string]struct {
		sender stack
		keys   *seal.Keyring
		change func(id *harebus.Identity, p *harebus.Payload)
		reason string // "" for another error
		text   string
	}{
		"changed body":      {kinds(keys, all)["sealed"], keys, func(_ *harebus.Identity, p *harebus.Payload) { p.Body[len(p.Body)-1] ^= 1 }, "tampered", ""},
		"changed identity":  {kinds(keys, all)["signed"], keys, func(id *harebus.Identity, _ *harebus.Payload) { id.Type = "Refund" }, "tampered", ""},
		"changed both":      {kinds(keys, all)["sealed and signed"], keys, func(id *harebus.Identity, _ *harebus.Payload) { id.ID = "id-2" }, "tampered", ""},
		"unknown key":       {kinds(keys, all)["sealed"], ring(t, secret(t, "other", 4)), nil, "", "unknown key"},
		"wrong key":         {kinds(keys, all)["sealed"], ring(t, secret(t, "key", 4)), nil, "wrong-key", ""},
		"no current key":    {kinds(keys, all)["sealed"], ring(t, nil, secret(t, "key", 1)), nil, "", "no current key"},
		"signed by another": {stack{seal.Sign(ring(t, private), all)}, keys, nil, "", "ed25519"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := c.sender.protect(t, sent())
			in := received(sent())
			if c.change != nil {
				c.change(in, p)
			}
			before := *p
			_, err := seal.Reseal(t.Context(), c.keys, all, in, p)
			refused(t, err, c.reason)
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q", err, c.text)
			}
			if !bytes.Equal(p.Body, before.Body) || p.Signature != before.Signature || p.ContentType != before.ContentType {
				t.Error("it was changed all the same")
			}
		})
	}
	plain := payload()
	if done, err := seal.Reseal(t.Context(), keys, all, received(sent()), plain); done || err != nil || string(plain.Body) != plaintext {
		t.Errorf("in the clear: %t, %v", done, err)
	}
}
