package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harebus/harebus/seal"
)

func runKeysCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"keys"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestKeys(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "keys")
	for _, args := range [][]string{
		{"new", "-id", "first", name}, {"new", "-id", "second", name}, {"new", "-id", "third", "-current", name}, {"new", name},
	} {
		if code, stdout, stderr := runKeysCommand(t, args...); code != exitOK || stdout != "" || !strings.Contains(stderr, "added key") {
			t.Fatalf("keys %v: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	code, public, _ := runKeysCommand(t, "new", "-id", "me", "-kind", "ed25519", name)
	receiver := filepath.Join(t.TempDir(), "receiver")
	if err := os.WriteFile(receiver, []byte(public), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs, err := seal.ReadKeys(receiver)
	if code != exitOK || err != nil {
		t.Fatalf("exit code %d, public half %q: %v", code, public, err)
	}
	keys, err := seal.ReadKeys(name)
	if err != nil {
		t.Fatal(err)
	}
	if mine, other := keys.Keys()[4], theirs.Keys()[0]; mine.Fingerprint() != other.Fingerprint() || mine.ID() != "me" {
		t.Errorf("the public half %v is not that of %v", other, mine)
	}
	code, list, _ := runKeysCommand(t, "list", name)
	lines := strings.Split(strings.TrimSpace(list), "\n")
	if code != exitOK || len(lines) != 5 || !strings.HasPrefix(lines[0], "current  third secret ") || !strings.HasPrefix(lines[1], "accepted first secret ") {
		t.Errorf("exit code %d, list:\n%s", code, list)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n") {
		if key := strings.Fields(line)[3]; strings.Contains(list+public, key) {
			t.Errorf("a key was printed: %s", line)
		}
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v, %v", info, err)
	}
}

// TestWindowsKeys: a file that an editor of Windows has saved gets a new current key.
func TestWindowsKeys(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte("\ufeffcurrent a secret AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := runKeysCommand(t, "new", "-current", "-id", "b", name); code != exitOK {
		t.Fatal(stderr)
	}
	keys, err := seal.ReadKeys(name)
	if err != nil {
		t.Fatal(err)
	}
	if current, err := keys.Current(t.Context()); err != nil || current.ID() != "b" || len(keys.Keys()) != 2 {
		t.Errorf("current %v, %v of %v", current, err, keys.Keys())
	}
}

// TestKeysFaults: a command that fails changes nothing.
func TestKeysFaults(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	name, open, busy := filepath.Join(folder, "keys"), filepath.Join(folder, "open"), filepath.Join(folder, "busy")
	for file, mode := range map[string]os.FileMode{name: 0o600, open: 0o644, busy + ".new": 0o600} {
		if err := os.WriteFile(file, []byte("current a secret AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "want new or list"}, {[]string{"show", name}, exitUsage, "want new or list"}, {[]string{"new"}, exitUsage, "want one file"},
		{[]string{"new", "-kind", "rsa", name}, exitUsage, "neither secret nor ed25519"}, {[]string{"list", "-current", name}, exitUsage, "keys new"},
		{[]string{"new", "-id", "a b", name}, exitUsage, "has a space"}, {[]string{"new", "-id", "a", name}, exitFailed, `two keys have the id "a"`},
		{[]string{"new", open}, exitFailed, "chmod 600"}, {[]string{"list", open}, exitFailed, "chmod 600"}, {[]string{"new", busy}, exitFailed, "is at work"},
		{[]string{"list", filepath.Join(folder, "none")}, exitFailed, "no such file"}, {[]string{"new", filepath.Join(folder, "none", "keys")}, exitFailed, "no such file"},
	} {
		code, stdout, stderr := runKeysCommand(t, c.args...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.says) || strings.Contains(stderr, "AQEB") {
			t.Errorf("keys %v: exit code %d, %q, %q", c.args, code, stdout, stderr)
		}
	}
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file is now %q, %v", after, err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 3 {
		t.Errorf("files: %v, %v", entries, err)
	}
}
