package seal_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/harebus/harebus/seal"
)

// Base64 of 32 bytes each.
const (
	ones = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	twos = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
)

const keyFile = `# the keys of the orders service
current  2026-11 secret ` + ones + `

accepted 2026-08 secret ` + twos + `
accepted shop ed25519 ` + ones + "\r\naccepted partner ed25519-public " + twos

func TestReadKeys(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte(keyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HAREBUS_TEST_KEYS", keyFile)
	for source, read := range map[string]func() (*seal.Keyring, error){
		"file":        func() (*seal.Keyring, error) { return seal.ReadKeys(name) },
		"environment": func() (*seal.Keyring, error) { return seal.EnvKeys("HAREBUS_TEST_KEYS") },
	} {
		keys, err := read()
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		var got []string
		for _, key := range keys.Keys() {
			got = append(got, key.ID()+" "+key.Kind())
			if again, err := keys.Key(t.Context(), key.ID()); again != key || err != nil {
				t.Errorf("%s: key %s is %v, %v", source, key.ID(), again, err)
			}
		}
		if want := "2026-11 secret, 2026-08 secret, shop ed25519, partner ed25519-public"; strings.Join(got, ", ") != want {
			t.Errorf("%s: %v, want %s", source, got, want)
		}
		if current, err := keys.Current(t.Context()); err != nil || current.ID() != "2026-11" {
			t.Errorf("%s: the current key is %v, %v", source, current, err)
		}
	}
	if _, err := seal.EnvKeys("HAREBUS_TEST_NO_KEYS"); err == nil {
		t.Error("a variable that is not set was read")
	}
}

// TestKeyFileMode: a key file that is open to others is refused.
func TestKeyFileMode(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte(keyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o400: true, 0o600: true, 0o640: true, 0o644: false, 0o620: false, 0o604: false, 0o666: false} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.ReadKeys(name); (err == nil) != ok {
			t.Errorf("mode %#o: %v", mode, err)
		}
	}
	for _, name := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := seal.ReadKeys(name); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// TestKeyFileFaults: a bad file is refused, and the error does not show a key.
func TestKeyFileFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                  "no key",
		"# nothing\n":                       "no key",
		"current a secret":                  "line 1: 3 words",
		"\ncurrent a secret " + ones + " x": "line 2: 5 words",
		"retired a secret " + ones:          "neither current nor accepted",
		"current a aes " + ones:             `the kind of key "a"`,
		"current a secret " + ones[:43]:     "is not base64",
		"current a secret AQEB":             "has 3 bytes",
		"current a ed25519 AQEB":            "has 3 bytes",
		"current a ed25519-public AQEB":     "has 3 bytes",
		"current a secret " + ones + "\ncurrent b secret " + twos:          `line 2: "b" is current, and "a" too`,
		"current a secret " + ones + "\naccepted a secret " + twos:         `two keys have the id "a"`,
		"current " + strings.Repeat("a", 2000) + " secret " + ones:         "1 to 1024 bytes",
		"current a\x01 secret " + ones:                                     "printable",
		"current a secret " + ones + "\n" + strings.Repeat("#\n", 600_000): "more than",
	} {
		_, err := seal.ParseKeys(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "AQE") {
			t.Errorf("%.60q: error %v, want %q", text, err, want)
		}
	}
	if _, err := seal.NewKeyring(nil, nil); err == nil {
		t.Error("a nil key was accepted")
	}
	if _, err := seal.NewSigningKey("a", nil); err == nil {
		t.Error("an empty private key was accepted")
	}
}

// TestKeyFileCut: whatever end of a file is missing, nothing is taken for a key that is not one of the whole file.
func TestKeyFileCut(t *testing.T) {
	t.Parallel()
	whole, err := seal.ParseKeys(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for n := range keyFile {
		keys, err := seal.ParseKeys(keyFile[:n])
		if err != nil {
			continue
		}
		for _, key := range keys.Keys() {
			if same, err := whole.Key(t.Context(), key.ID()); err != nil || same.Fingerprint() != key.Fingerprint() || same.Kind() != key.Kind() {
				t.Errorf("cut at %d: %v is no key of the file", n, key)
			}
		}
	}
}

// TestManyKeys: a file of some ten thousand keys is read quickly, and each is found.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	const most = 10_000
	var text strings.Builder
	for i := range most {
		fmt.Fprintf(&text, "accepted %d secret %s\n", i, base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i))))
	}
	keys, err := seal.ParseKeys(text.String())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range most {
		key, err := keys.Key(t.Context(), strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		seen[key.Fingerprint()] = true
	}
	if len(seen) != most {
		t.Errorf("%d different keys", len(seen))
	}
}

// TestWindowsKeyFile: a file that Windows has written, with a mark at its start and its ends of lines, is read; one in UTF-16
// is refused.
func TestWindowsKeyFile(t *testing.T) {
	t.Parallel()
	windows := strings.ReplaceAll(keyFile, "\n", "\r\n")
	for _, text := range []string{"\ufeff" + windows, "\ufeffcurrent a secret " + ones} {
		if _, err := seal.ParseKeys(text); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	wide := "\xff\xfe" + strings.Join(strings.Split("current a secret "+ones, ""), "\x00")
	if _, err := seal.ParseKeys(wide); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("UTF-16: %v", err)
	}
}

// TestKeysAreNotPrinted: no way to print keys shows them.
func TestKeysAreNotPrinted(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	key := keys.Keys()[0]
	g := seal.New(keys, all)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{key, *key, keys, []*seal.Key{key}, g} {
			text := fmt.Sprintf(verb, value)
			for _, leak := range []string{"1 1 1 1", "01010101", "0x1, 0x1", `\x01\x01`, "\x01\x01"} {
				if strings.Contains(text, leak) {
					t.Errorf("%s of %T shows the key: %s", verb, value, text)
				}
			}
		}
	}
	text, err := json.Marshal(map[string]any{"key": key, "keys": keys, "guard": g})
	if err != nil || strings.Contains(string(text), "AQEB") {
		t.Errorf("JSON %s, %v", text, err)
	}
}
