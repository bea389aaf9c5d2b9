package proof_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

// asChild makes the test binary be a service of its own, which can be killed. Its value is an assignment.
const asChild = "HAREBUS_PROOF_CHILD"

// An assignment is what a child process does.
type assignment struct {
	URL, Name string
	QueueType topology.QueueType
	// Ledger is the file it writes down everything in.
	Ledger string
	// Job is one of the jobs below.
	Job string
	// Trap kills the process at a frame.
	Trap trap
	// Step kills it at a step of handling the message Victim.
	Step   step
	Victim string
	// Consume is part of the service's configuration.
	Consume harebus.ConsumeConfig
	// Slow is how long the handler takes.
	Slow time.Duration
	// Send are the messages of the jobs that send.
	Send []proof.Work
}

// The jobs.
const (
	serve   = "serve"   // handles messages step by step
	observe = "observe" // handles them as the service of package proof
	send    = "send"    // sends messages one after the other
	commit  = "commit"  // sends them in one transaction
)

// A step is where in the handling of a message a process is killed.
type step string

// The steps that no frame shows.
const (
	beforeHandler step = "before the handler"
	midHandler    step = "in the handler"
	afterEffect   step = "after the handler's effect"
)

// Limits of the configuration below.
const (
	childPause   = 200 * time.Millisecond // before a retry
	childRetries = 1
	siblings     = 3 // messages that the handler of a parent sends
)

// config is that of the service, in the child as in the test that looks after it.
func (a *assignment) config() harebus.Config {
	return harebus.Config{
		URL: a.URL, Queue: a.Name, QueueOptions: harebus.QueueOptions{Type: a.QueueType}, Exchanges: harebus.ExchangeConfig{Direct: a.Name + ".direct", Topic: a.Name + ".topic"},
		ErrorQueue: harebus.ErrorQueueConfig{Name: a.Name + ".error"},

		Consume: a.Consume,
		Retry: harebus.RetryConfig{MaxRetries: childRetries, BackOff: func() backoff.BackOff {
			return backoff.NewConstantBackOff(childPause)
		}},
	}
}

// beChild is the main function of a child process.
func beChild(text string) int {
	var a assignment
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { // without the test there is no child
		_, _ = io.Copy(io.Discard, os.Stdin)
		die()
	}()
	if err := a.work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (a *assignment) work() error {
	book, err := ledger.NewRecorder(a.Ledger, strconv.Itoa(os.Getpid()))
	if err != nil {
		return err
	}
	cfg := a.config()
	cfg.Logger = zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), os.Stderr, zap.InfoLevel))
	if a.Trap.Method != (method{}) {
		cfg.Dial = setTrap(a.Trap).dial
	}
	c := &child{assignment: a, book: book}
	switch a.Job {
	case serve:
		return c.serve(cfg)
	case observe:
		return c.observe(cfg)
	default:
		return c.send(cfg)
	}
}

// A child is what runs in the process.
type child struct {
	*assignment

	book *ledger.Recorder
}

// record ends the process when it cannot: an account with gaps proves nothing.
func (c *child) record(e ledger.Event) {
	if err := c.book.Record(e); err != nil {
		panic(err)
	}
}

// untilTold runs the service until the test has the process stop.
func untilTold(s *harebus.Setup) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return s.Run(ctx)
}

// observe runs the service of package proof.
func (c *child) observe(cfg harebus.Config) error {
	book := ledger.NewBook()
	book.Mirror(c.book)
	s, err := proof.NewService(cfg, book, proof.Options{Pause: childPause})
	if err != nil {
		return err
	}
	return errors.Join(untilTold(s.Setup), book.MirrorErr())
}

// serve runs a service that can be killed at every step.
func (c *child) serve(cfg harebus.Config) error {
	cfg.Handling.Middleware = []harebus.Middleware{c.aroundHandler}
	cfg.Observers = []harebus.Observer{c}
	s, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	harebus.Handle(s, c.handleWork)
	harebus.Handle(s, c.handleChild)
	return untilTold(s)
}

// at dies when it is that message's last step. It takes a moment, in which whatever the library sends too early leaves.
func (c *child) at(s step, id string) {
	const moment = 50 * time.Millisecond
	if c.Step == s && c.Victim == id {
		time.Sleep(moment)
		die()
	}
}

func (c *child) aroundHandler(next harebus.HandlerFunc) harebus.HandlerFunc {
	return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		c.at(beforeHandler, m.ID)
		if err := next(ctx, bus, m); err != nil {
			return err
		}
		c.at(afterEffect, m.ID)
		return nil
	}
}

var errMeant = errors.New("meant to fail")

func (c *child) handleWork(ctx context.Context, bus *harebus.Bus, w proof.Work) error {
	m := harebus.Incoming(ctx)
	c.record(ledger.Event{
		Op: ledger.Recv, ID: w.ID, Key: m.ID, Attempt: m.Attempt, Redelivered: m.Redelivered, Sum: ledger.Sum(m.Body),
	})
	if w.Kind == proof.Failing || w.Kind == proof.Flaky && m.Attempt == 1 {
		c.record(ledger.Event{Op: ledger.Failed, ID: w.ID, Attempt: m.Attempt, Pause: childPause})
		return errMeant
	}
	if w.Kind == proof.Parent {
		for _, id := range childrenOf(w.ID) {
			c.record(ledger.Event{Op: ledger.SendInvoke, ID: id, Parent: w.ID})
			if err := bus.Send(ctx, c.Name, proof.Child{ID: id}); err != nil {
				return err
			}
		}
	}
	if err := proof.Wait(ctx, c.Slow); err != nil {
		return err
	}
	c.at(midHandler, w.ID)
	c.record(ledger.Event{Op: ledger.Effect, ID: w.ID, Attempt: m.Attempt})
	return nil
}

// handleChild keeps the message id as the key, so that the copies of one can be compared.
func (c *child) handleChild(ctx context.Context, _ *harebus.Bus, w proof.Child) error {
	m := harebus.Incoming(ctx)
	c.record(ledger.Event{Op: ledger.Recv, ID: w.ID, Key: m.ID, Attempt: m.Attempt, Redelivered: m.Redelivered})
	c.record(ledger.Event{Op: ledger.Effect, ID: w.ID, Attempt: m.Attempt})
	return nil
}

func childrenOf(id string) []string {
	ids := make([]string, siblings)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s/child/%d", id, i)
	}
	return ids
}

// ObserveStart takes note of attempts to connect.
func (c *child) ObserveStart(ctx context.Context, e harebus.Observation) context.Context {
	if e.Operation == harebus.OpConnect {
		c.record(ledger.Event{Op: ledger.Crash, Err: "connect " + e.Connection})
	}
	return ctx
}

// ObserveEnd takes note that what a handler sent is confirmed.
func (c *child) ObserveEnd(_ context.Context, e harebus.Observation, err error) {
	if e.Operation != harebus.OpHandle || err != nil || !strings.Contains(e.Incoming.ID, "/"+string(proof.Parent)+"/") {
		return
	}
	for _, id := range childrenOf(e.Incoming.ID) {
		c.record(ledger.Event{Op: ledger.SendOK, ID: id})
	}
}

// send sends as its job says, and ends.
func (c *child) send(cfg harebus.Config) error {
	book := ledger.NewBook()
	book.Mirror(c.book)
	s, err := proof.NewService(cfg, book, proof.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c.Job == commit {
		err = s.SendTogether(ctx, c.Send, true)
	} else {
		for _, w := range c.Send {
			err = errors.Join(err, s.Send(ctx, w, 0))
		}
	}
	return errors.Join(err, s.Setup.Close(), book.MirrorErr())
}

// A process is a child that runs.
type process struct {
	*testing.T

	cmd    *exec.Cmd
	stderr string        // a file
	done   chan struct{} // closed when it has ended
	err    error         // how; may be read when done is closed
}

// spawn starts a child. It does not outlive the test.
func spawn(t *testing.T, a *assignment) *process {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable)
	cmd.Env = append(os.Environ(), asChild+"="+string(text))
	return launch(t, cmd)
}

// launch starts a command with its stdin held open and its stderr in a file.
func launch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	stderr, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // closed with the test's process
		t.Fatal(err)
	}
	cmd.Stderr = stderr
	p := &process{T: t, cmd: cmd, stderr: stderr.Name(), done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		_ = stderr.Close()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error says that it has ended
		<-p.done
	})
	return p
}

// wait returns when the process has ended by itself.
func (p *process) wait() {
	p.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.Fatalf("the process goes on; its stderr:\n%s", p.says())
	}
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// says is the process's stderr so far.
func (p *process) says() string {
	p.Helper()
	text, err := os.ReadFile(p.stderr)
	if err != nil {
		p.Fatal(err)
	}
	return string(text)
}

// killed waits until the process is dead and makes sure that it was killed and did not end otherwise.
func (p *process) killed() {
	p.Helper()
	p.wait()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		p.Fatalf("the process was not killed: %v; its stderr:\n%s", p.err, p.says())
	}
}

// ended waits until the process has ended in order.
func (p *process) ended() {
	p.Helper()
	p.wait()
	if p.err != nil {
		p.Fatalf("%v; its stderr:\n%s", p.err, p.says())
	}
}

func (p *process) signal(s os.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.Fatalf("%v; its stderr:\n%s", err, p.says())
	}
}

// ledgerFile is a new file for a process to write its ledger to.
func ledgerFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readLedger returns what a process has written so far. A last line that a SIGKILL cut short is passed over.
func readLedger(t *testing.T, path string) []ledger.Event {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var events []ledger.Event
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events
		}
		var e ledger.Event
		if err := errors.Join(err, json.Unmarshal(line, &e)); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}
