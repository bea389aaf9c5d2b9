package rabbit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// In a process with this variable the tests are not run: it starts a node, says where, and waits to be killed.
const victimVariable = "HAREBUS_RABBIT_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		victim()
	}
	goleak.VerifyTestMain(m)
}

func victim() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintf(os.Stdout, "error %q\n", err)
			os.Exit(1)
		}
	}
	node, err := rabbit.Start(context.Background(), rabbit.Options{Kind: rabbit.KindNode})
	fail(err)
	home, err := node.Eval(context.Background(), `io:format("~s", [os:getenv("HOME")]), ok.`)
	fail(err)
	os.Stdout.WriteString(strings.TrimSuffix(strings.TrimSpace(home), "ok") + "\n")
	select {}
}

func TestStartLeavesNothingWhenKilled(t *testing.T) {
	t.Parallel()
	_, err := os.Stat("/proc/self/comm")
	if err != nil {
		t.Skip("only Linux ends a node with its test: ", err)
	}
	rabbit.SkipWithoutBroker(t, rabbit.Installed())
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), victimVariable+"=1")
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "error") {
		t.Fatal(line, err)
	}
	home := strings.TrimSpace(line)
	if len(processesOf(t, home)) == 0 {
		t.Fatalf("no process has %s as its home, so that nothing can be seen", home)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// That it was killed is its only end.
	_ = command.Wait()

	folder := os.Getenv("HAREBUS_RABBITMQ_ROOT") + home
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left := processesOf(t, home)
		_, err := os.Stat(folder)
		if len(left) == 0 && errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("left behind: processes %v; %s: %v", left, folder, err)
		}
	}
}

// processesOf lists the programs that have the folder as their HOME.
func processesOf(t *testing.T, home string) []string {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range environments {
		// Processes end between the two calls.
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains("\x00"+string(text), "\x00HOME="+home+"\x00") {
			found = append(found, path)
		}
	}
	return found
}

func TestStartTakesURLFirst(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	t.Setenv("AMQP_URL", node.URL())
	named, err := rabbit.Start(t.Context(), rabbit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if named.Kind() != rabbit.KindURL || named.URL() != node.URL() || named.Version() != node.Version() {
		t.Errorf("got %s %s %s", named.Kind(), named.URL(), named.Version())
	}
	for name, breaking := range map[string]func() error{
		"Kill":   named.Kill,
		"Pause":  named.Pause,
		"Resume": named.Resume,
		"Launch": named.Launch,
		"Start":  func() error { return named.Start(t.Context()) },
		"Stop":   func() error { return named.Stop(t.Context()) },
		"Ctl":    func() error { _, err := named.Ctl(t.Context(), "list_users"); return err },
	} {
		if err := breaking(); !errors.Is(err, rabbit.ErrNotPrivate) {
			t.Errorf("%s on a broker of the user's: %v", name, err)
		}
	}
	if err := named.Close(); err != nil {
		t.Error(err)
	}
	connect(t, node.URL())
}

func TestStartDoesNotFallBack(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AMQP_URL", strings.Replace(node.URL(), "guest:guest", "guest:hush-hush", 1))
	_, err := rabbit.Start(t.Context(), rabbit.Options{})
	if err == nil || errors.Is(err, rabbit.ErrUnavailable) || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("an AMQP_URL where nobody answers: %v", err)
	}
	t.Setenv("AMQP_URL", "amqp://guest:hush-hush@127.0.0.1:port")
	_, malformed := rabbit.Start(t.Context(), rabbit.Options{})
	if malformed == nil || errors.Is(malformed, rabbit.ErrUnavailable) {
		t.Errorf("a malformed AMQP_URL: %v", malformed)
	}
	for _, err := range []error{err, malformed} {
		if err != nil && strings.Contains(err.Error(), "hush-hush") {
			t.Errorf("the password is in %q", err)
		}
	}
}

func TestStartSaysWhatToDo(t *testing.T) {
	t.Setenv("AMQP_URL", "")
	t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	_, err := rabbit.Start(t.Context(), rabbit.Options{Root: t.TempDir()})
	if !errors.Is(err, rabbit.ErrUnavailable) {
		t.Fatalf("without any way to a broker: %v", err)
	}
	for _, hint := range []string{"AMQP_URL", "scripts/rabbitmq-root", "Docker"} {
		if !strings.Contains(err.Error(), hint) {
			t.Errorf("%q is not in %v", hint, err)
		}
	}
}

func TestStartReportsBrokenConfiguration(t *testing.T) {
	t.Parallel()
	rabbit.SkipWithoutBroker(t, rabbit.Installed())
	_, err := rabbit.Start(t.Context(), rabbit.Options{Config: []string{"no_such_key = 1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_key") {
		t.Errorf("a node that cannot start: %v", err)
	}
	_, err = rabbit.Start(t.Context(), rabbit.Options{Kind: rabbit.KindURL, TLS: 7, Timeout: -1})
	for _, fault := range []string{"TLS, Config and Plugins", "TLS mode 7", "negative Timeout"} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%q is not in %v", fault, err)
		}
	}
}

// A test without a broker is skipped on a developer's machine and fails where brokers are required. The outcome is that
// of a test binary of its own, since a failure cannot be taken back in this one.
func TestNeedSkipsOrFails(t *testing.T) {
	t.Parallel()
	run := func(extra ...string) (string, error) {
		command := exec.Command(os.Args[0], "-test.run", "^TestStartTakesURLFirst$", "-test.v")
		command.Env = append(os.Environ(), "HAREBUS_RABBITMQ_ROOT="+t.TempDir(), "HAREBUS_REQUIRE_BROKER=", "CI=")
		command.Env = append(command.Env, extra...)
		output, err := command.CombinedOutput()
		return string(output), err
	}
	output, err := run()
	if err != nil || !strings.Contains(output, "--- SKIP: TestStartTakesURLFirst") || !strings.Contains(output, "scripts/rabbitmq-root") {
		t.Errorf("without a broker: %v\n%s", err, output)
	}
	for _, variable := range []string{"HAREBUS_REQUIRE_BROKER=1", "CI=true"} {
		output, err := run(variable)
		if err == nil || !strings.Contains(output, "--- FAIL: TestStartTakesURLFirst") {
			t.Errorf("without a broker and with %s: %v\n%s", variable, err, output)
		}
	}
}
