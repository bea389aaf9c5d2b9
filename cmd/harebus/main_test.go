package main

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// asCommand makes the test binary be the command, for tests that need a process
// of their own to send signals to.
const asCommand = "HAREBUS_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// newBroker starts a broker that the command reaches over TCP.
func newBroker(t *testing.T) (*brokertest.Broker, string) {
	t.Helper()
	b := brokertest.New()
	t.Cleanup(b.Close)
	addr, err := b.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return b, "amqp://guest:guest@" + addr.String() + "/"
}

// client opens a channel that owes nothing to the library.
func client(t *testing.T, b *brokertest.Broker) *amqp.Channel {
	t.Helper()
	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func declare(t *testing.T, ch *amqp.Channel, queue string, args amqp.Table) {
	t.Helper()
	if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
}

// put publishes to a queue and waits until the message is there.
func put(t *testing.T, ch *amqp.Channel, queue string, msg amqp.Publishing) {
	t.Helper()
	if err := ch.PublishWithContext(t.Context(), "", queue, false, false, msg); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
}

// buffer is a bytes.Buffer for several goroutines that can be waited on.
type buffer struct {
	mu      sync.Mutex // guards what follows
	b       bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await waits until text has been written.
func (b *buffer) await(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		b.mu.Lock()
		found := strings.Contains(b.b.String(), text)
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%q was never written, only:\n%s", text, b)
		}
	}
}

// result is how a run of the command ended.
type result struct {
	code     int
	out, err string
}

// execute runs the command to its end.
func execute(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs buffer
	code := run(ctx, args, strings.NewReader(stdin), &out, &errs)
	if ctx.Err() != nil {
		t.Errorf("harebus %v did not end; stderr:\n%s", args, errs.String())
	}
	return result{code, out.String(), errs.String()}
}

func (r result) check(t *testing.T, code int, inErr string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.err, inErr) {
		t.Errorf("exit code %d, want %d with %q on stderr\nstdout:\n%s\nstderr:\n%s", r.code, code, inErr, r.out, r.err)
	}
}

func TestMisuse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"nothing", "a command is missing", nil},
		{"unknown", `no command "sned"`, []string{"sned"}},
		{"flag", "-nonsense", []string{"send", "-nonsense", "q", "b"}},
		{"no-body", "got 1 arguments", []string{"send", "q"}},
		{"flag-behind", `got 4 arguments: "-type" has to stand before the others`, []string{"send", "q", "b", "-type", "T"}},
		{"lines-and-body", "-lines reads", []string{"publish", "-lines", "t", "b"}},
		{"header", "key=value", []string{"send", "-header", "novalue", "q", "b"}},
		{"header-twice", "twice", []string{"send", "-header", "a=1", "-header", "a=2", "q", "b"}},
		{"negative-delay", "negative", []string{"send", "-defer", "-1s", "q", "b"}},
		{"address", "not of the form", []string{"send", "-url", "http://u:secret@h", "q", "b"}},
		{"no-queue", "want one queue", []string{"listen"}},
		{"type", "neither quorum nor classic", []string{"listen", "-type", "stream", "q"}},
		{"reply", "-reply is not JSON", []string{"listen", "-reply", "{", "q"}},
		{"topic", "whole word", []string{"listen", "-subscribe", "order*", "q"}},
		{"concurrency", "out of range", []string{"listen", "-concurrency", "0", "q"}},
		{"prefetch", "Prefetch", []string{"listen", "-concurrency", "5", "-prefetch", "2", "q"}},
		{"error-queue", "circles", []string{"listen", "error"}},
		{"redrive-argument", "unexpected argument", []string{"redrive", "error"}},
		{"redrive-to", "error queue itself", []string{"redrive", "-to", "error"}},
		{"redrive-name", "amq.", []string{"redrive", "-to", "amq.x"}},
		{"reseal-alone", "needs -keys", []string{"redrive", "-reseal"}},
		{"reseal-keys-alone", "need -reseal", []string{"redrive", "-keys", "main.go"}},
		{"reseal-missing", "no such file", []string{"redrive", "-reseal", "-keys", "absent"}},
		{"version-argument", "unexpected argument", []string{"version", "x"}},
		{"servername-plain", "amqps:", []string{"send", "-servername", "b.example", "q", "b"}},
		{"cacert-missing", "no such file", []string{"send", "-url", "amqps://h/", "-cacert", "absent.pem", "q", "b"}},
		{"cacert-no-pem", "no certificate in PEM", []string{"send", "-url", "amqps://h/", "-cacert", "main.go", "q", "b"}},
		{"cert-alone", "belong together", []string{"send", "-url", "amqps://h/", "-cert", "main.go", "q", "b"}},
		{"external-alone", "-cert and -key", []string{"redrive", "-external"}},
		{"password-missing", "no such file", []string{"send", "-password-file", "absent", "q", "b"}},
		{"password-empty", "first line is empty", []string{"send", "-password-file", "-", "q", "b"}},
		{"password-no-address", "not of the form", []string{"send", "-user", "u", "-url", "u:secret@h", "q", "b"}},
		{"broker-address", "loopback", []string{"broker", "-listen", "0.0.0.0:5672"}},
		{"broker-port", "host:port", []string{"broker", "-listen", "5672"}},
		{"new-nothing", "want service and one name", []string{"new"}},
		{"new-other", "want service and one name", []string{"new", "saga", "orders"}},
		{"new-two", "and 2 arguments", []string{"new", "service", "a", "b"}},
		{"new-empty", "no name for a service", []string{"new", "service", ""}},
		{"new-path", "no name for a service", []string{"new", "service", "../orders"}},
		{"new-dot", "no name for a service", []string{"new", "service", "."}},
		{"new-capital", "no name for a service", []string{"new", "service", "Orders"}},
		{"new-hyphen", "no name for a service", []string{"new", "service", "orders-"}},
		{"new-long", "no name for a service", []string{"new", "service", strings.Repeat("a", 61)}},
		{"new-module", "not the path of a module", []string{"new", "service", "-module", "a b", "orders"}},
		{"new-replace", "not a folder with harebus", []string{"new", "service", "-replace", "scaffold", "orders"}},
		{"completion-nothing", "want bash, zsh or fish", []string{"completion"}},
		{"completion-other", "want bash, zsh or fish", []string{"completion", "tcsh"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := execute(t, "", test.args...)
			want := test.want
			if test.name == "topic" {
				want = "wildcard must be a word"
			}
			r.check(t, exitUsage, want)
			if r.out != "" || strings.Contains(r.err, "secret") {
				t.Errorf("stdout %q, stderr %q", r.out, r.err)
			}
			if lines := strings.Count(r.err, "\n"); lines != 1 || !strings.Contains(r.err, "-h") {
				t.Errorf("stderr has %d lines, want one that names -h:\n%s", lines, r.err)
			}
		})
	}
}

// TestHelp: -h explains every flag on stdout.
func TestHelp(t *testing.T) {
	t.Parallel()
	for command, flags := range map[string]string{
		"send":    "type header defer reply-to lines url user password-file cacert cert key servername external",
		"publish": "type header defer reply-to lines url",
		"listen":  "subscribe create take type reply fail concurrency prefetch count retry-base url",
		"redrive": "count match to dry-run body json url",
		"broker":  "listen v",
	} {
		r := execute(t, "", command, "-h")
		r.check(t, exitOK, "")
		for name := range strings.FieldsSeq(flags) {
			if !strings.Contains(r.out, "\n  -"+name) {
				t.Errorf("harebus %s -h does not explain -%s:\n%s", command, name, r.out)
			}
		}
	}
	r := execute(t, "", "-h")
	r.check(t, exitOK, "")
	for _, c := range table() {
		if !strings.Contains(r.out, c.name) {
			t.Errorf("harebus -h does not name %s", c.name)
		}
	}
}

func TestBroker(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs buffer
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{"broker", "-listen", "127.0.0.1:0", "-v"}, strings.NewReader(""), &out, &errs)
	}()
	out.await(t, "\n")
	url := strings.TrimSpace(out.String())
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatalf("dial %q: %v", url, err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	declare(t, ch, "q", nil)
	execute(t, "", "send", "-url", url, "q", "1").check(t, exitOK, "")
	if d, ok, err := ch.Get("q", true); !ok || err != nil || string(d.Body) != "1" {
		t.Errorf("got %q, %v, %v", d.Body, ok, err)
	}
	execute(t, "", "broker", "-listen", strings.TrimSuffix(url[strings.Index(url, "@")+1:], "/")).check(t, exitFailed, "in use")
	cancel()
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d", c)
	}
	if errs.String() == "" {
		t.Error("-v logged nothing")
	}
	if _, err := amqp.Dial(url); err == nil {
		t.Error("the broker is still there")
	}
}

// TestVersion: the versions that a report of a fault needs.
func TestVersion(t *testing.T) {
	t.Parallel()
	r := execute(t, "", "version")
	r.check(t, exitOK, "")
	want := regexp.MustCompile(`^harebus \S+\ngo1\.\S+ \w+/\w+\namqp091-go v1\.\d+\.\d+\n$`)
	if !want.MatchString(r.out) {
		t.Errorf("printed %q", r.out)
	}
}
