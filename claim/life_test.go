package claim_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
)

// life is a service that stores every body above 1 KiB.
func life(t *testing.T, broker *brokertest.Broker, g *claim.Guard, handle func(*harebus.Message) error, changes ...func(*harebus.Config)) *harebus.Setup {
	t.Helper()
	cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "photos", Subscriptions: []string{"photo.#"}}
	cfg.Retry.MaxRetries = 1
	for _, change := range changes {
		change(&cfg)
	}
	g.Use(&cfg)
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.HandleMessage("Photo", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error { return handle(m) })
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), g.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func guardOf(t *testing.T, c claim.Config) *claim.Guard {
	t.Helper()
	g, err := claim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var large = photo{strings.Repeat("x", 2000)}

// TestDeleteHandled: the body of a command goes some time after it was handled. Those of events, and of messages that fail, stay.
func TestDeleteHandled(t *testing.T) {
	store, root := dir(t)
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		g := guardOf(t, claim.Config{Store: store, From: 1024, DeleteHandled: 5 * time.Minute})
		fail := errors.New("no")
		s := life(t, broker, g, func(m *harebus.Message) error {
			if m.Headers["fail"] != nil {
				return fail
			}
			return nil
		})
		for range 2 {
			if err := s.Bus().Send(t.Context(), "photos", large); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if n := len(files(t, root)); n != 2 {
			t.Errorf("%d files before their time", n)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n, stats := len(files(t, root)), g.Stats(); n != 0 || stats.Deleted != 2 {
			t.Errorf("%d files, %+v", n, stats)
		}
		if err := s.Bus().Publish(t.Context(), "photo.taken", large); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(t.Context(), "photos", large, harebus.WithHeader("fail", true)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n, stats := len(files(t, root)), g.Stats(); n != 2 || stats.Deleted != 2 || stats.Kept != 1 {
			t.Errorf("an event and a failed command: %d files, %+v", n, stats)
		}
		if err := s.Bus().Send(t.Context(), "photos", large); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := errors.Join(s.Close(), g.Close()); err != nil {
			t.Error(err)
		}
		if stats := g.Stats(); stats.Left != 1 || stats.Deleted != 2 {
			t.Errorf("after the close: %+v", stats)
		}
	})
}

// TestRedelivered: a command that was handled comes once more, because its acknowledgement was lost. Its body is still there.
func TestRedelivered(t *testing.T) {
	store, _ := dir(t)
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		handled := 0
		s := life(t, broker, guardOf(t, claim.Config{Store: store, From: 1024, DeleteHandled: time.Minute}), func(*harebus.Message) error {
			handled++
			return nil
		})
		broker.Inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore})
		if err := s.Bus().Send(t.Context(), "photos", large); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if parked := broker.Messages("error"); handled != 2 || len(parked) > 0 {
			t.Errorf("handled %d times, %d parked", handled, len(parked))
		}
	})
}

// TestKeep: the age of a parked body counts from its parking, so a sweep leaves it.
func TestKeep(t *testing.T) {
	store, root := dir(t)
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		past := time.Now().Add(-1000 * time.Hour)
		g := guardOf(t, claim.Config{Store: store, From: 1024})
		s := life(t, broker, g, func(*harebus.Message) error {
			for _, name := range files(t, root) { // it was stored long ago
				if err := os.Chtimes(filepath.Join(root, name), past, past); err != nil {
					t.Error(err)
				}
			}
			return harebus.NoRetry(errors.New("no"))
		})
		if err := s.Bus().Send(t.Context(), "photos", large); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n, _, err := store.Sweep(t.Context(), past.Add(time.Hour)); n != 0 || err != nil {
			t.Errorf("%d bodies were swept, %v", n, err)
		}
		if stats := g.Stats(); stats.Kept != 1 || len(broker.Messages("error")) != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

// sulking is a store that neither keeps nor deletes.
type sulking struct{ memory }

func (*sulking) Keep(context.Context, string) error   { return errors.New("no") }
func (*sulking) Delete(context.Context, string) error { return errors.New("no") }

// TestStoreSulks: messages are parked and handled as ever, and the failures are counted.
func TestStoreSulks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		g := guardOf(t, claim.Config{Store: &sulking{memory{bodies: map[string][]byte{}}}, From: 1024, DeleteHandled: time.Minute})
		s := life(t, broker, g, func(m *harebus.Message) error {
			if m.Headers["fail"] != nil {
				return harebus.NoRetry(errors.New("no"))
			}
			return nil
		})
		err := errors.Join(s.Bus().Send(t.Context(), "photos", large), s.Bus().Send(t.Context(), "photos", large, harebus.WithHeader("fail", true)))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if stats := g.Stats(); stats != (claim.Stats{KeepFailed: 1, DeleteFailed: 1}) || len(broker.Messages("error")) != 1 {
			t.Errorf("%+v, %d parked", stats, len(broker.Messages("error")))
		}
	})
}

// TestForeignReference: a reference that no guard writes leads to no body.
func TestForeignReference(t *testing.T) {
	store, root := dir(t)
	g := guardOf(t, claim.Config{Store: store, From: 1024, DeleteHandled: time.Nanosecond})
	outside := filepath.Join(root, "README")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	reference := "\xc1hb\x02\x07default\x06README" + strings.Repeat("\x00", 8+32+2)
	m := &harebus.Message{ContentType: claim.ContentType, Body: []byte(reference), Intent: harebus.IntentCommand}
	for _, o := range []harebus.Observation{{Operation: harebus.OpPark, Incoming: m}, {Operation: harebus.OpHandle, Incoming: m, Outcome: harebus.AttemptHandled}} {
		g.ObserveEnd(g.ObserveStart(t.Context(), o), o, nil)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if stats := g.Stats(); stats != (claim.Stats{}) || len(files(t, root)) != 1 {
		t.Errorf("%+v", stats)
	}
}
