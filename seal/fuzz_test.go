package seal_test

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

// FuzzFrame: a frame has one form, is no valid UTF-8, and is opened only if it is one of ours.
func FuzzFrame(f *testing.F) {
	g := seal.New(ring(f, secret(f, "key", 1)), all)
	p := &harebus.Payload{ContentType: seal.ContentType, Body: goldenFrame(f)}
	f.Add(p.Body)
	f.Add([]byte("\xc1hb\x01"))
	f.Add(p.Body[:60])
	f.Fuzz(func(t *testing.T, body []byte) {
		parts, again, err := seal.Frame(body)
		if err == nil && !bytes.Equal(again, body) {
			t.Errorf("%x becomes %x", body, again)
		}
		if err == nil && utf8.Valid(body) {
			t.Errorf("%x is valid UTF-8", body)
		}
		for _, part := range parts {
			if len(part) > 1024 {
				t.Errorf("a text of %d bytes", len(part))
			}
		}
		changed := *p
		changed.Body = body
		if _, err := admit(t, g, received(sent()), &changed); err == nil && !bytes.Equal(body, p.Body) {
			t.Errorf("%x was opened", body)
		}
	})
}

// FuzzSignature: a signature has one form.
func FuzzSignature(f *testing.F) {
	p := protect(f, seal.Sign(ring(f, secret(f, "key", 1)), all), sent())
	f.Add(p.Signature)
	f.Add("v=1; alg=ed25519; kid=a%20b; nb=-1; to=e%2F/k; sig=AQ")
	f.Fuzz(func(t *testing.T, text string) {
		again, err := seal.Signature(text)
		if err == nil && again != text {
			t.Errorf("%q becomes %q", text, again)
		}
	})
}
