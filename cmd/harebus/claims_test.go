package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/harebus/harebus/claim"
)

// TestClaims: old bodies go, others stay, and a wrong command line removes nothing.
func TestClaims(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store, err := claim.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const key = "2026/01/02/0b0e7a56-6a5b-4c0a-9f0e-0123456789ab"
	if err := store.Put(t.Context(), key, []byte("body")); err != nil {
		t.Fatal(err)
	}
	execute(t, "", "claims", "sweep", "-older", "720h", root).check(t, exitOK, "")
	for _, args := range [][]string{
		{"claims"}, {"claims", "list"}, {"claims", "sweep", root}, {"claims", "sweep", "-older", "59m", root},
		{"claims", "sweep", "-older", "1h"}, {"claims", "sweep", "-older", "1h", root, root},
	} {
		execute(t, "", args...).check(t, exitUsage, "")
	}
	execute(t, "", "claims", "sweep", "-older", "1h", filepath.Join(root, "absent")).check(t, exitFailed, "no such file")
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(root, key), past, past); err != nil {
		t.Fatal(err)
	}
	r := execute(t, "", "claims", "sweep", "-older", "1h", root)
	r.check(t, exitOK, "")
	if r.out != "removed 1 bodies, 4 bytes\n" {
		t.Errorf("stdout %q", r.out)
	}
}
