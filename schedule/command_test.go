package schedule_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/pulse"
	"github.com/harebus/harebus/schedule"
)

// TestCommand: the command harebus schedule shows and changes the schedules of a service, and shows the
// tokens when no instance runs.
func TestCommand(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "harebus")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/harebus/harebus/cmd/harebus")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	broker := brokertest.New()
	defer broker.Close()
	address, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "amqp://guest:guest@" + address.String() + "/"
	command := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		args = append([]string{"schedule", args[0], "-url", url}, args[1:]...)
		out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
		return string(out), err
	}
	expect := func(want string, args ...string) {
		t.Helper()
		if out, err := command(args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%v: %v\n%s\nwant %q", args, err, out, want)
		}
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := command(args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%v: %v\n%s\nwant %q", args, err, out, want)
		}
	}
	refused("there is no queue", "ls", "shop")
	answers, err := pulse.New(pulse.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := harebus.Config{URL: url, Queue: "shop"}
	answers.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	schedules, err := schedule.New(setup, schedule.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan schedule.Due, 10)
	if err := schedules.AddMessage("other", "@yearly", schedule.Queue("other"), func(schedule.Due) any { return PlaceOrder{} }); err != nil {
		t.Fatal(err)
	}
	err = schedules.Add("yearly", "@yearly", func(_ context.Context, _ *harebus.Bus, due schedule.Due) error {
		ran <- due
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(`"yearly"`, "ls", "shop")
	serving, end := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() {
		if err := answers.Serve(serving, setup); err != nil {
			t.Error(err)
		}
	})
	defer served.Wait()
	defer end()
	for deadline := time.Now().Add(30 * time.Second); ; { // until it is served
		out, err := exec.CommandContext(t.Context(), binary, "top", "-every", "100ms", "-url", url).CombinedOutput()
		if err == nil && strings.Contains(string(out), "shop.schedules 2 schedules, next ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("top: %v\n%s", err, out)
		}
	}
	expect("", "run", "shop", "yearly")
	select {
	case <-ran:
	case <-time.After(30 * time.Second):
		t.Error("run does not run")
	}
	expect("", "pause", "shop", "yearly")
	expect("paused", "ls", "shop")
	expect("", "resume", "shop", "yearly")
	expect("", "rm", "shop", "yearly")
	refused("there is no schedule", "run", "shop", "none")
	refused("want ls", "dance", "shop")
	refused("needs 2 arguments", "run", "shop")
	if err := setup.Close(); err != nil {
		t.Fatal(err)
	}
	expect("no instance runs", "ls", "shop")
	expect(`"other"`, "ls", "shop") // the tokens were left there
	refused("no instance of the service runs", "run", "shop", "yearly")
}
