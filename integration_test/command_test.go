package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// commandPlace is a place with the built command harebus, and the files for its TLS flags.
type commandPlace struct {
	*place
	binary, folder, address string
}

// newCommandPlace builds the command, and makes a user "service-x" who can log in only with a certificate: the
// password of guest, which the command takes when nothing names a user, is wrong.
func newCommandPlace(t *testing.T) *commandPlace {
	t.Helper()
	p := private(t, rabbit.Options{TLS: rabbit.MutualTLS})
	c := &commandPlace{place: p, folder: t.TempDir()}
	c.binary = filepath.Join(c.folder, "harebus")
	build := exec.CommandContext(c.Context(), "go", "build", "-o", c.binary, "github.com/harebus/harebus/cmd/harebus")
	if output, err := build.CombinedOutput(); err != nil {
		c.Fatalf("%v: %s", err, output)
	}
	c.try(p.node.Authority().ClientFiles(c.folder, "service-x"))
	p.ctl("add_user", "service-x", "unused")
	p.ctl("set_permissions", "service-x", ".*", ".*", ".*")
	p.ctl("change_password", "guest", "another")
	u, err := url.Parse(p.node.TLSURL())
	c.try(err)
	u.User = nil
	c.address = u.String()
	return c
}

func (c *commandPlace) file(name string) string { return filepath.Join(c.folder, name) }

// command is a run of the command with these flags for the connection, and arguments.
func (c *commandPlace) command(connection []string, name string, args ...string) *exec.Cmd {
	all := append([]string{name, "-url", c.address}, append(connection, args...)...)
	cmd := exec.CommandContext(c.within(2*patience), c.binary, all...)
	cmd.Env = []string{"HOME=" + c.folder} // no AMQP_URL, no AMQP_PASSWORD
	return cmd
}

// external are the flags of a login with the client certificate.
func (c *commandPlace) external() []string {
	return []string{"-cacert", c.file("authority.pem"), "-cert", c.file("client.pem"), "-key", c.file("client.key"), "-external"}
}

// run runs the command as service-x and returns what it printed.
func (c *commandPlace) run(name string, args ...string) string {
	c.Helper()
	cmd := c.command(c.external(), name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	output, err := cmd.Output()
	if err != nil {
		c.Fatalf("harebus %s: %v: %s", name, err, said.String())
	}
	return strings.TrimSpace(string(output))
}

// refused expects the command to fail, and to say why.
func (c *commandPlace) refused(name string, connection []string, words ...string) {
	c.Helper()
	cmd := c.command(connection, name)
	switch name {
	case "send":
		cmd.Args = append(cmd.Args, "-timeout", "10s", c.queue("orders"), "{}")
	case "listen":
		cmd.Args = append(cmd.Args, "-create", c.queue("orders"))
	}
	output, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		c.Errorf("harebus %s %v: %v, exit code %d: %s", name, connection, err, code, output)
	}
	c.mentions(fmt.Errorf("harebus %s %v: %s", name, connection, output), words...)
}

// messageID is the id in a line of listen.
func (c *commandPlace) messageID(line string) string {
	c.Helper()
	var object struct {
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		c.Fatalf("%v: %s", err, line)
	}
	id, _ := object.Properties["message_id"].(string)
	return id
}

// works sends, lets the message fail until it is parked, moves it back and takes it.
func (c *commandPlace) works() {
	c.Helper()
	queue, parked := c.queue("orders"), c.queue("parked")

	listen := c.command(c.external(), "listen", "-create", "-count", "1", "-fail", "-1", "-retry-base", "10ms", "-error-queue", parked, queue)
	var said bytes.Buffer
	listen.Stderr = &said
	out, err := listen.StdoutPipe()
	c.try(err)
	c.try(listen.Start())
	c.eventually(patience, func() error {
		if list := c.ctl("list_queues", "name", "consumers"); !strings.Contains(list, queue+"\t1") {
			return fmt.Errorf("it does not listen: %s", list)
		}
		return nil
	})
	if list := c.ctl("list_connections", "user", "auth_mechanism", "ssl"); !strings.Contains(list, "service-x\tEXTERNAL\ttrue") {
		c.Errorf("it is not connected by its certificate: %s", list)
	}
	id := c.run("send", "-type", "Order", "-timeout", "30s", queue, `{"ID":7}`)
	lines := bufio.NewScanner(out)
	attempts := 0
	for lines.Scan() {
		if got := c.messageID(lines.Text()); got != id {
			c.Errorf("listen printed %q; sent was %q", got, id)
		}
		attempts++
	}
	if err := listen.Wait(); err != nil || attempts != 6 {
		c.Fatalf("listen printed %d attempts and ended with %v: %s", attempts, err, said.String())
	}
	if looked := c.run("redrive", "-error-queue", parked, "-dry-run"); !strings.Contains(looked, id) {
		c.Errorf("redrive -dry-run does not show %s: %s", id, looked)
	}
	c.run("redrive", "-error-queue", parked)
	if again := c.messageID(c.run("listen", "-take", "-count", "1", "-error-queue", parked, queue)); again != id {
		c.Errorf("redriven was %q; sent was %q", again, id)
	}
}

// The command speaks TLS and logs in as the user whom its client certificate names. Wrong TLS flags end it at once,
// with the reason.
func TestCommandTLS(t *testing.T) {
	t.Parallel()
	c := newCommandPlace(t)
	c.works()

	other, err := rabbit.NewAuthority()
	c.try(err)
	stranger := &commandPlace{place: c.place, folder: t.TempDir()}
	c.try(other.ClientFiles(stranger.folder, "service-x"))
	ca, pair := []string{"-cacert", c.file("authority.pem")}, []string{"-cert", c.file("client.pem"), "-key", c.file("client.key")}
	for name, test := range map[string]struct {
		flags []string
		words []string
	}{
		"unknown authority":                {[]string{"-cacert", stranger.file("authority.pem")}, []string{"certificate", "authority"}},
		"no client certificate":            {ca, []string{"certificate required"}},
		"client certificate of a stranger": {append(ca[:2:2], "-cert", stranger.file("client.pem"), "-key", stranger.file("client.key")), []string{"certificate"}},
		"another name":                     {append(ca[:2:2], append(pair[:4:4], "-servername", "rabbit.example")...), []string{"rabbit.example"}},
		"password instead of EXTERNAL":     {append(ca[:2:2], pair...), []string{"username or password"}},
	} {
		t.Run(name, func(t *testing.T) {
			on := *c
			on.place = &place{T: t, node: c.node, url: c.url, name: c.name}
			for _, command := range []string{"send", "listen", "redrive"} {
				on.refused(command, test.flags, test.words...)
			}
		})
	}
}
