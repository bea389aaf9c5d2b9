package saga

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/harebus/harebus"
)

// TestForgetsSetups: the names of the sagas of a setup do not outlive it.
func TestForgetsSetups(t *testing.T) {
	t.Parallel()
	setup, err := harebus.New(harebus.Config{Queue: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := remember(setup, "a"); err != nil {
		t.Fatal(err)
	}
	key := weak.Make(setup)
	known := func() bool {
		registered.mu.Lock()
		defer registered.mu.Unlock()
		return registered.names[key] != nil
	}
	if !known() {
		t.Fatal("it is not remembered")
	}
	runtime.KeepAlive(setup)
	for deadline := time.Now().Add(10 * time.Second); known(); runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("it is remembered for ever")
		}
	}
}
