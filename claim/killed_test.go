package claim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
)

// asProcess makes the test binary be a process of a service, which is killed. Its value is a victim.
const asProcess = "HAREBUS_CLAIM_PROCESS"

func TestMain(m *testing.M) {
	text := os.Getenv(asProcess)
	if text == "" {
		os.Exit(m.Run())
	}
	var v victim
	err := json.Unmarshal([]byte(text), &v)
	if err == nil {
		err = v.serve(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// victim is a process that sends or handles messages whose bodies are in a directory. It says on its standard output what it has
// done, and kills itself at a step.
type victim struct {
	URL, Dir  string
	First     int    // it sends from this number on; 0: it handles
	Dies      string // the step: stored, sent, fetched or handled; else it lives
	Remaining int    // how often it survives that step
}

// at is called at each step.
func (v *victim) at(step string) {
	if step != v.Dies {
		return
	}
	if v.Remaining--; v.Remaining < 0 {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
		select {}
	}
}

// mortal is a directory whose process dies after a call.
type mortal struct {
	*claim.Dir
	v *victim
}

func (m mortal) Put(ctx context.Context, key string, body []byte) error {
	err := m.Dir.Put(ctx, key, body)
	m.v.at("stored")
	return err
}

func (m mortal) Get(ctx context.Context, key string, limit int) ([]byte, error) {
	body, err := m.Dir.Get(ctx, key, limit)
	m.v.at("fetched")
	return body, err
}

// picture is the body of a number, long enough to be killed in the middle of.
func picture(n int) photo {
	return photo{fmt.Sprint(n, " ") + strings.Repeat(fmt.Sprint(n), 4<<20/len(fmt.Sprint(n)))}
}

func (v *victim) serve(ctx context.Context) error {
	store, err := claim.OpenDir(v.Dir)
	if err != nil {
		return err
	}
	guard, err := claim.New(claim.Config{Store: mortal{store, v}})
	if err != nil {
		return err
	}
	cfg := harebus.Config{URL: v.URL}
	if v.First == 0 {
		cfg.Queue, cfg.Consume.Concurrency = "photos", 1
	}
	guard.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	if v.First == 0 {
		harebus.Handle(setup, v.handle)
		return setup.Run(ctx) // until it is killed
	}
	for n := v.First; ; n++ {
		if err := setup.Bus().Send(ctx, "photos", picture(n)); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "sent", n)
		v.at("sent")
	}
}

func (v *victim) handle(_ context.Context, _ *harebus.Bus, p photo) error {
	var n int
	_, err := fmt.Sscan(p.Data, &n)
	if err != nil || p != picture(n) {
		fmt.Fprintln(os.Stdout, "wrong", n)
		return harebus.NoRetry(fmt.Errorf("the picture %d is another one: %w", n, err))
	}
	fmt.Fprintln(os.Stdout, "handled", n)
	v.at("handled")
	return nil
}

// spawn starts a victim.
func spawn(t *testing.T, v victim) (start *exec.Cmd, output *bufio.Scanner) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this very program
	cmd.Env, cmd.Stderr = append(os.Environ(), asProcess+"="+string(text)), os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// TestProcessesAreKilled: processes are killed while they store a body, between the storing and the publish, after the confirm,
// and between the fetching, the handling and the acknowledgement. Every message that was sent is handled with the body that it was
// sent with, no message is parked, and a sweep removes what the dead have left, and not the body of a message that waits.
func TestProcessesAreKilled(t *testing.T) {
	broker := brokertest.New()
	defer broker.Close()
	address, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store, root := dir(t)
	k := &killing{t: t, root: root, url: "amqp://guest:guest@" + address.String(), did: map[string]map[int]bool{}}
	k.receive(victim{Dies: "handled", Remaining: 1 << 30}, func() bool { _, ok := broker.Queue("photos"); return ok }) // which makes the queue
	for range 3 {
		unfinished := k.partial()
		k.send(victim{}, func() bool { return k.partial() > unfinished }) // killed while it writes
		k.send(victim{Dies: "stored", Remaining: 2}, nil)
		k.send(victim{Dies: "sent", Remaining: 2}, nil)
		k.receive(victim{Dies: "fetched", Remaining: 1}, nil)
		k.receive(victim{Dies: "handled", Remaining: 1}, nil)
	}
	if partial := k.partial(); partial < 3 || len(files(t, root))-partial <= len(k.did["sent"]) {
		t.Errorf("the deaths were not where they could do harm: %d files, %d of them unfinished, for %d messages", len(files(t, root)), partial, len(k.did["sent"]))
	}
	before := time.Now()
	k.receive(victim{}, func() bool {
		q, _ := broker.Queue("photos")
		return q.Ready == 0 && q.Unacked == 0
	})
	k.send(victim{Dies: "sent"}, nil) // and one that waits while there is a sweep
	if _, _, err := store.Sweep(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	if left := files(t, root); len(left) != 1 {
		t.Errorf("the sweep has left %v", left)
	}
	k.receive(victim{}, func() bool { q, _ := broker.Queue("photos"); return q.Ready == 0 && q.Unacked == 0 })
	for n := range k.did["sent"] {
		if !k.did["handled"][n] {
			t.Errorf("the message %d is lost", n)
		}
	}
	if parked := broker.Messages("error"); len(k.did["wrong"]) > 0 || len(parked) > 0 {
		t.Errorf("other bodies: %v; %d messages in the error queue", k.did["wrong"], len(parked))
	}
	t.Logf("%d sent, %d handled", len(k.did["sent"]), len(k.did["handled"]))
}

// killing is what was seen of the processes.
type killing struct {
	t         *testing.T
	root, url string
	next      int
	did       map[string]map[int]bool // the numbers of messages, by what was done
}

// send runs a sender until it dies, or is killed when the condition holds.
func (k *killing) send(v victim, when func() bool) {
	k.next += 1000
	v.First = k.next
	k.run(v, when)
}

// receive runs a handler until it dies, or is killed when the condition holds.
func (k *killing) receive(v victim, when func() bool) { k.run(v, when) }

func (k *killing) run(v victim, when func() bool) {
	k.t.Helper()
	v.URL, v.Dir = k.url, k.root
	cmd, lines := spawn(k.t, v)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() {
			var what string
			var n int
			if _, err := fmt.Sscan(lines.Text(), &what, &n); err == nil {
				if k.did[what] == nil {
					k.did[what] = map[int]bool{}
				}
				k.did[what][n] = true
			}
		}
	}()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-ended:
			alive = false
		case <-deadline:
			_ = cmd.Process.Kill()
			k.t.Fatalf("%+v lives on", v)
		case <-tick.C:
			if when != nil && when() {
				alive = false
			}
		}
	}
	_ = cmd.Process.Kill() // it may be dead
	<-ended
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		k.t.Errorf("%+v ended with %v", v, err)
	}
}

// partial is how many bodies are unfinished.
func (k *killing) partial() int {
	return len(slices.DeleteFunc(files(k.t, k.root), func(name string) bool { return filepath.Ext(name) != ".partial" }))
}
