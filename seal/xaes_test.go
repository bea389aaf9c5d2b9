package seal_test

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"os"
	"os/exec"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

// TestVectors: the published vectors of XAES-256-GCM (c2sp.org/XAES-256-GCM).
func TestVectors(t *testing.T) {
	t.Parallel()
	const nonce, body = "ABCDEFGHIJKLMNOPQRSTUVWX", "XAES-256-GCM"
	for _, v := range []struct {
		name         string
		key          byte
		bound, wants string
	}{
		{"msb0", 1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{"msb1", 3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			key := bytes.Repeat([]byte{v.key}, 32)
			got, err := seal.XAESSeal(key, []byte(nonce), []byte(body), []byte(v.bound))
			if err != nil || hex.EncodeToString(got) != v.wants {
				t.Errorf("sealed %x, %v; want %s", got, err, v.wants)
			}
			sealed, err := hex.DecodeString(v.wants)
			if err != nil {
				t.Fatal(err)
			}
			opened, err := seal.XAESOpen(key, []byte(nonce), sealed, []byte(v.bound))
			if err != nil || string(opened) != body {
				t.Errorf("opened %q, %v; want %q", opened, err, body)
			}
		})
	}
}

// TestAccumulatedVectors: the published hash over 10,000 random messages.
func TestAccumulatedVectors(t *testing.T) {
	t.Parallel()
	const wants = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
	random, sum := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := random.Read(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for range 10_000 {
		key, nonce := read(32), read(24)
		body := read(int(read(1)[0]))
		bound := read(int(read(1)[0]))
		sealed, err := seal.XAESSeal(key, nonce, body, bound)
		if err != nil {
			t.Fatal(err)
		}
		if opened, err := seal.XAESOpen(key, nonce, sealed, bound); err != nil || !bytes.Equal(opened, body) {
			t.Fatalf("opened %x, %v; want %x", opened, err, body)
		}
		if _, err := sum.Write(sealed); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 32)
	if _, err := sum.Read(got); err != nil || hex.EncodeToString(got) != wants {
		t.Errorf("%x, %v; want %s", got, err, wants)
	}
}

// TestNonces: no two are equal, and no derived key seals more messages than it may, whoever seals.
func TestNonces(t *testing.T) {
	t.Parallel()
	const messages = 20 * seal.BatchSize
	nonces, err := seal.Nonces(bytes.Repeat([]byte{1}, 32), messages)
	if err != nil {
		t.Fatal(err)
	}
	seen, batches := map[string]bool{}, map[string]int{}
	for _, nonce := range nonces {
		seen[string(nonce)] = true
		batches[string(nonce[:12])]++
	}
	if len(seen) != messages {
		t.Errorf("%d messages have %d nonces", messages, len(seen))
	}
	for half, n := range batches {
		if n > seal.BatchSize {
			t.Errorf("the key of %x has sealed %d messages, more than %d", half, n, seal.BatchSize)
		}
	}
	if len(batches) < messages/seal.BatchSize {
		t.Errorf("%d messages were sealed with %d keys", messages, len(batches))
	}
}

// TestInterleaved: a receiver opens the messages of many senders in turns, more than it remembers derived keys of.
func TestInterleaved(t *testing.T) {
	t.Parallel()
	receiver := seal.New(ring(t, secret(t, "2026-11", 1)), all)
	id := sent()
	for range 3 {
		for sender := range 64 {
			body := []byte{byte(sender)}
			p := harebus.Payload{ContentType: "application/json", Body: body}
			if err := seal.New(ring(t, secret(t, "2026-11", 1)), all).Protect(t.Context(), id, &p); err != nil {
				t.Fatal(err)
			}
			if opened, err := admit(t, receiver, received(id), &p); err != nil || !bytes.Equal(opened.Body, body) {
				t.Fatalf("opened %x, %v; want %x", opened.Body, err, body)
			}
		}
	}
}

// TestFIPS: sealing and signing work where Go allows nothing but what FIPS 140-3 approves.
func TestFIPS(t *testing.T) {
	t.Parallel()
	const inside = "HAREBUS_SEAL_FIPS"
	if os.Getenv(inside) != "" {
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^(TestRoundTrip|TestRotation|TestEnvelopeUses)$", "-test.v")
	child.Env = append(os.Environ(), "GODEBUG=fips140=only", inside+"=1")
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestRoundTrip")) {
		t.Errorf("with fips140=only: %v\n%s", err, out)
	}
}
