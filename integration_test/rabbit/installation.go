package rabbit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The package's own scripts, not the wrappers on the PATH: those change to the user rabbitmq and to its service's
// folders.
const binFolder = "/usr/lib/rabbitmq/bin"

// ErrUnavailable is in the error of [Start] when there is no broker and no way to make one here. It then says for each
// way what is missing.
var ErrUnavailable = errors.New("no RabbitMQ to test with")

// An installation is a rabbitmq-server package: the machine's own (root is empty) or one in a folder with a whole Debian.
// Its programs run in a place.
type installation struct {
	root  string
	place place
}

func findInstallation(root string) (installation, error) {
	root = strings.TrimRight(root, "/")
	server := filepath.Join(root, binFolder, "rabbitmq-server")
	if _, err := os.Stat(server); err != nil {
		if root == "" {
			return installation{}, fmt.Errorf("rabbitmq-server is not installed (%w): run scripts/install-rabbitmq, or apt-get install rabbitmq-server", err)
		}
		return installation{}, fmt.Errorf("no rabbitmq-server under HAREBUS_RABBITMQ_ROOT (%w): run scripts/rabbitmq-root trixie as root, or unset it", err)
	}
	if root != "" && os.Geteuid() != 0 {
		return installation{}, fmt.Errorf("the rabbitmq-server in %s is run through chroot, which takes root: run the tests as root, or unset HAREBUS_RABBITMQ_ROOT", root)
	}
	return installation{root: root}, nil
}

// temporary is the folder, as this process sees it, for the data of the installation's nodes.
func (i installation) temporary() string {
	if i.root == "" {
		return os.TempDir()
	}
	return filepath.Join(i.root, "tmp")
}

// inside translates a path to what the installation's programs see.
func (i installation) inside(path string) string { return strings.TrimPrefix(path, i.root) }

// Both scripts end in exec, so that the process that was started becomes the broker and signals reach it. The limit of
// open files is raised because a quorum queue takes three.
const (
	directScript = `limit=$(ulimit -Hn)
{ [ "$limit" = unlimited ] || [ "$limit" -gt 65536 ]; } && limit=65536
ulimit -n "$limit"
exec "$@"`
	// The broker reads memory figures from /proc. It is mounted where no other process sees it, so that there is
	// nothing to unmount.
	chrootScript = `mount -t proc none "$1/proc" && exec chroot "$1" /bin/sh -c "$0" sh "${@:2}"`
)

// command prepares one of the installation's programs with exactly the given environment.
func (i installation) command(ctx context.Context, environment []string, program string, args ...string) *exec.Cmd {
	argv := append([]string{"/bin/sh", "-c", directScript, "sh", program}, args...)
	if i.root != "" {
		argv = append([]string{"unshare", "--mount", "/bin/bash", "-c", chrootScript, directScript, i.root, program}, args...)
	}
	argv = append(i.place.enter(), argv...)
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Env = environment
	return command
}

// Installed says whether private nodes can be had: it is nil or an [ErrUnavailable] that says what to do.
func Installed() error {
	if _, err := findInstallation(Options{}.withDefaults().Root); err != nil {
		return fmt.Errorf("rabbit: find rabbitmq-server: %w", errors.Join(ErrUnavailable, err))
	}
	return nil
}
