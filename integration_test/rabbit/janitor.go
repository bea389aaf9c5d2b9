package rabbit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// A janitor is a shell that cleans up as soon as the pipe to this process closes, whether that is done by close or by
// this process's sudden end.
type janitor struct {
	command *exec.Cmd
	pipe    *os.File
}

// janitorScript removes a folder. It tries again while dying nodes still write there.
const janitorScript = `trap '' HUP INT TERM
read -r _
for try in 1 2 3 4 5 6 7 8 9 10; do
	rm -rf -- "$1" && exit 0
	sleep 0.5
done 2>/dev/null
rm -rf -- "$1"`

func watchFolder(folder string) (*janitor, error) { return startJanitor(janitorScript, folder) }

// startJanitor starts a shell script that waits for the end of its input and then cleans up.
func startJanitor(script string, args ...string) (*janitor, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("rabbit: start janitor: %w", err)
	}
	defer read.Close()
	command := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	command.Stdin = read
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("rabbit: start janitor: %w", err), write.Close())
	}
	return &janitor{command: command, pipe: write}, nil
}

// close returns when everything is gone.
func (j *janitor) close() error {
	err := j.pipe.Close()
	if waitErr := j.command.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("rabbit: remove %s: %w", j.command.Args[4], waitErr))
	}
	return err
}
