package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harebus/harebus/brokertest"
)

// TestPasswordOutsideOfTheCommandLine: a password can come from a file, from stdin and
// from the environment, where other users of the machine do not see it.
func TestPasswordOutsideOfTheCommandLine(t *testing.T) {
	const password = "s3cret/ä @,:"
	b := brokertest.New(brokertest.WithUser("ops", password))
	t.Cleanup(b.Close)
	at, err := b.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	declare(t, client(t, b), "orders", nil)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\r\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, stdin, env, url string
		args                  []string
		code                  int
	}{
		{"file", "", "", "amqp://ops@%/", []string{"-password-file", file}, exitOK},
		{"stdin", password, "", "amqp://ops@%/", []string{"-password-file", "-"}, exitOK},
		{"file-and-user", "", "", "amqp://guest:guest@%/", []string{"-user", "ops", "-password-file", file}, exitOK},
		{"environment", "", password, "amqp://ops@%/", nil, exitOK},
		{"environment-and-user", "", password, "amqp://%/", []string{"-user", "ops"}, exitOK},
		{"address-before-environment", "", password, "amqp://guest:guest@%/", nil, exitOK},
		{"file-before-address", "", "", "amqp://guest:guest@%/", []string{"-password-file", file}, exitFailed},
		{"several", "", password, "amqp://ops@127.0.0.1:1/,amqp://ops@%/", nil, exitOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("AMQP_PASSWORD", test.env)
			url := strings.ReplaceAll(test.url, "%", at.String())
			args := append([]string{"send", "-url", url}, test.args...)
			execute(t, test.stdin, append(args, "orders", "{}")...).check(t, test.code, "")
			args = append([]string{"redrive", "-url", url, "-dry-run", "-error-queue", "orders", "-to", "other"}, test.args...)
			execute(t, test.stdin, args...).check(t, test.code, "")
		})
	}
}

// TestAddresses: a comma separates addresses only where another one begins.
func TestAddresses(t *testing.T) {
	t.Parallel()
	got := addresses("amqp://u:a,b@one/,amqps://u:c@two/, amqp://three/v,w")
	if strings.Join(got, " | ") != "amqp://u:a,b@one/ | amqps://u:c@two/ | amqp://three/v,w" {
		t.Errorf("got %q", got)
	}
}
