package seal_test

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harebus/harebus/seal"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden returns what a file of testdata holds. With -update it is written first.
func golden(t testing.TB, name, now string) string {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(now+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

// goldenFrame is a frame that a release has made of sent, with the key "key" of ones.
func goldenFrame(t testing.TB) []byte {
	t.Helper()
	g := seal.New(ring(t, secret(t, "key", 1)), all)
	frame, err := hex.DecodeString(golden(t, "frame-v1.hex", hex.EncodeToString(protect(t, g, sent()).Body)))
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// TestGolden: what earlier releases have sealed and signed can be opened and verified, and signatures are still made in the
// same way.
func TestGolden(t *testing.T) {
	t.Parallel()
	p := payload()
	p.Body, p.ContentType, p.ContentEncoding = goldenFrame(t), seal.ContentType, ""
	opened, err := admit(t, seal.New(ring(t, secret(t, "key", 1)), all), received(sent()), p)
	if err != nil || string(opened.Body) != plaintext || opened.ContentType != "application/json" || opened.ContentEncoding != "utf-8" {
		t.Errorf("opened %+v, %v", opened, err)
	}
	private, _ := signing(t, "key", 1)
	for name, key := range map[string]*seal.Key{"hmac": secret(t, "key", 1), "ed25519": private} {
		g := seal.Sign(ring(t, key), all)
		p := protect(t, g, sent())
		if want := golden(t, "signature-v1-"+name+".txt", p.Signature); p.Signature != want {
			t.Errorf("%s: %s, want %s", name, p.Signature, want)
		}
	}
}
