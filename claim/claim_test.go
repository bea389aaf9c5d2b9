package claim_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
)

type photo struct{ Data string }

func (photo) MessageType() string { return "Photo" }

func dir(t *testing.T) (*claim.Dir, string) {
	t.Helper()
	name := t.TempDir()
	d, err := claim.OpenDir(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, name
}

func guard(t *testing.T, c claim.Config) harebus.Guard {
	t.Helper()
	g, err := claim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// files are the names of the stored bodies.
func files(t *testing.T, root string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, _ := filepath.Rel(root, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestLargeBodies: a large body goes through the store, also when its message is retried and
// parked, and a small one does not.
func TestLargeBodies(t *testing.T) {
	store, root := dir(t)
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		defer broker.Close()
		cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "photos"}
		cfg.Payload.Guards = []harebus.Guard{guard(t, claim.Config{Store: store, From: 10_000})}
		cfg.Retry.MaxRetries = 1
		s, err := harebus.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got := make(chan string, 10)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, p photo) error {
			got <- p.Data
			return errors.New("no")
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, size := range []int{100, 100_000} {
			data := strings.Repeat("x", size)
			if err := s.Bus().Send(t.Context(), "photos", photo{data}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if <-got != data {
					t.Errorf("size %d: the handler got another photo", size)
				}
			}
			synctest.Wait()
			if n := len(files(t, root)); n != i {
				t.Errorf("size %d: %d files", size, n)
			}
		}
		time.Sleep(time.Minute)
		for _, m := range broker.Messages("error") {
			if len(m.Body) > 1000 {
				t.Errorf("a parked message has a body of %d bytes", len(m.Body))
			}
		}
	})
}

// memory is a store whose bodies can vanish and change.
type memory struct {
	mu     sync.Mutex
	bodies map[string][]byte
}

func (m *memory) Put(_ context.Context, key string, body []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bodies[key] = body
	return nil
}

func (m *memory) Get(_ context.Context, key string, limit int) ([]byte, error) {
	m.mu.Lock()
	body, ok := m.bodies[key]
	m.mu.Unlock()
	switch {
	case !ok:
		return nil, claim.ErrNotFound
	case len(body) > limit:
		return nil, harebus.ErrBodyTooLarge
	}
	return body, nil
}

// TestHostileReferences: each byte of a reference is changed, each prefix is tried: nothing
// but the body that was sent is ever handed on.
func TestHostileReferences(t *testing.T) {
	store := &memory{bodies: map[string][]byte{}}
	g := guard(t, claim.Config{Store: store, From: 1024})
	body := bytes.Repeat([]byte("x"), 2000)
	p := &harebus.Payload{ContentType: "application/json", ContentEncoding: "gzip", Body: body}
	if err := g.Protect(t.Context(), &harebus.Identity{}, p); err != nil {
		t.Fatal(err)
	}
	good := p.Body
	id := &harebus.Identity{TimeSent: time.Now().Add(-time.Hour)}
	admit := func(in []byte) ([]byte, error) {
		p := &harebus.Payload{ContentType: claim.ContentType, Body: in}
		err := g.Admit(t.Context(), id, p)
		return p.Body, err
	}
	if got, err := admit(good); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("the reference itself: %v", err)
	}
	rejected := func(name string, in []byte) {
		t.Helper()
		got, err := admit(in)
		var reject *harebus.RejectError
		if err == nil && !bytes.Equal(got, body) || err != nil && !errors.As(err, &reject) {
			t.Errorf("%s: %v", name, err)
		}
	}
	const version = 3
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 1
		if i != version {
			rejected(fmt.Sprintf("byte %d changed", i), changed)
		}
		rejected(fmt.Sprintf("cut at %d", i), good[:i])
	}
	var reject *harebus.RejectError
	newer := bytes.Clone(good)
	newer[version]++
	if _, err := admit(newer); err == nil || errors.As(err, &reject) || !strings.Contains(err.Error(), "update this service") {
		t.Errorf("a later version: %v", err)
	}
	rejected("followed by a byte", append(bytes.Clone(good), 0))
	for key := range store.bodies {
		for _, other := range []string{"../" + key[3:], "/etc/passwd/" + key[12:], strings.ToUpper(key)} {
			if len(other) == len(key) {
				rejected(other, bytes.Replace(good, []byte(key), []byte(other), 1))
			}
		}
		store.bodies[key] = bytes.Repeat([]byte("y"), 2000)
		rejected("the body has changed", good)
		store.bodies[key] = append(body, 'x')
		rejected("the body is longer", good)
		delete(store.bodies, key)
	}
	rejected("the body is missing", good)
	id.TimeSent = time.Now()
	if _, err := admit(good); err == nil || errors.As(err, &reject) {
		t.Errorf("a body that may come later: %v", err)
	}
}

// TestStoreAway: nothing is sent while the store is away.
func TestStoreAway(t *testing.T) {
	broken, root := dir(t)
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	g := guard(t, claim.Config{Store: broken})
	err := g.Protect(t.Context(), &harebus.Identity{}, &harebus.Payload{Body: make([]byte, 1<<20)})
	if err == nil {
		t.Error("no error")
	}
}

// TestDirStaysInside: links and paths that lead out of the directory are refused.
func TestDirStaysInside(t *testing.T) {
	store, root := dir(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link", "../secret", outside, "2026/../../secret"} {
		if body, err := store.Get(t.Context(), key, 100); err == nil {
			t.Errorf("get %s: %q", key, body)
		}
		if err := store.Put(t.Context(), key, []byte("x")); err == nil && key != "link" {
			t.Errorf("put %s: no error", key)
		}
	}
	if kept, err := os.ReadFile(outside); err != nil || string(kept) != "secret" {
		t.Errorf("the file outside is %q, %v", kept, err)
	}
}

// TestSweep: old bodies and unfinished ones go, with empty folders; others stay.
func TestSweep(t *testing.T) {
	store, root := dir(t)
	old, kept := "2026/01/02/0b0e7a56-6a5b-4c0a-9f0e-0123456789ab", "2026/11/29/0b0e7a56-6a5b-4c0a-9f0e-0123456789ab"
	for _, key := range []string{old, kept} {
		if err := store.Put(t.Context(), key, []byte("body")); err != nil {
			t.Fatal(err)
		}
	}
	foreign := filepath.Join(root, "README")
	for _, name := range []string{filepath.Join(root, old+".partial"), foreign} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-31 * 24 * time.Hour)
	for _, name := range []string{filepath.Join(root, old), filepath.Join(root, old+".partial"), foreign} {
		if err := os.Chtimes(name, past, past); err != nil {
			t.Fatal(err)
		}
	}
	n, size, err := store.Sweep(t.Context(), time.Now().Add(-30*24*time.Hour))
	if n != 2 || size != 5 || err != nil {
		t.Errorf("%d files, %d bytes, %v", n, size, err)
	}
	if left := files(t, root); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(root, "2026", "01")); err == nil {
		t.Error("the empty folder is still there")
	}
}

// TestFaults: New names what is wrong.
func TestFaults(t *testing.T) {
	store := &memory{}
	for want, c := range map[string]claim.Config{
		"Store is nil":            {},
		"From 5":                  {Store: store, From: 5},
		"MaxBody 2000":            {Store: store, MaxBody: 2000},
		"Config.Name":             {Store: store, Name: strings.Repeat("x", 256)},
		"Patience -1ns":           {Store: store, Patience: -1},
		"DeleteHandled -1ns":      {Store: store, DeleteHandled: -1},
		"a store that can delete": {Store: store, DeleteHandled: 1},
	} {
		if _, err := claim.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := claim.OpenDir("/nowhere/at/all"); err == nil {
		t.Error("a directory that does not exist was opened")
	}
}

// TestGolden: what earlier releases have sent can be fetched.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "reference-v1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"Data":"` + strings.Repeat("x", 2000) + `"}`
	store := &memory{bodies: map[string][]byte{"2026/11/29/0b0e7a56-6a5b-4c0a-9f0e-0123456789ab": []byte(body)}}
	p := &harebus.Payload{ContentType: claim.ContentType, Body: reference}
	if err := guard(t, claim.Config{Store: store}).Admit(t.Context(), &harebus.Identity{}, p); err != nil {
		t.Fatal(err)
	}
	if string(p.Body) != body || p.ContentType != "application/json" || p.ContentEncoding != "utf-8" {
		t.Errorf("%d bytes of %q, %q", len(p.Body), p.ContentType, p.ContentEncoding)
	}
}

// TestSweepsAtOnce: sweeps that remove files under each other's hands all come to their end.
func TestSweepsAtOnce(t *testing.T) {
	store, root := dir(t)
	const bodies, sweeps = 150, 4
	past := time.Now().Add(-time.Hour)
	for i := range bodies {
		key := fmt.Sprintf("2026/01/%02d/0b0e7a56-6a5b-4c0a-9f0e-%012x", i%28+1, i)
		if err := store.Put(t.Context(), key, []byte("body")); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(root, key), past, past); err != nil {
			t.Fatal(err)
		}
	}
	var removed atomic.Int64
	var all sync.WaitGroup
	for range sweeps {
		all.Go(func() {
			n, _, err := store.Sweep(t.Context(), time.Now())
			if err != nil {
				t.Error(err)
			}
			removed.Add(int64(n))
		})
	}
	all.Wait()
	if n := removed.Load(); n != bodies {
		t.Errorf("%d files were removed, want %d", n, bodies)
	}
}
