package rabbit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// A process is a running child that cannot outlive this one.
type process struct {
	command *exec.Cmd
	done    chan struct{} // closed when the child has ended and was waited for
	err     error         // how it ended; may be read when done is closed
}

// startProcess starts command with its own session, so that a signal from the terminal reaches only the test, and
// bound to this process by the kernel where the kernel can do that. The goroutine lives as long as the child and keeps
// the thread that started it, because it is that thread whose end the kernel watches.
func startProcess(command *exec.Cmd) (*process, error) {
	p := &process{command: command, done: make(chan struct{})}
	command.SysProcAttr = boundToParent()
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = command.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("rabbit: start %s: %w", command.Path, err)
	}
	return p, nil
}

// signal does nothing to a process that has ended.
func (p *process) signal(s syscall.Signal) error {
	if err := p.command.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("rabbit: signal %v: %w", s, err)
	}
	return nil
}

// kill returns when the process is gone. A nil process is gone.
func (p *process) kill() error {
	if p == nil {
		return nil
	}
	err := p.signal(syscall.SIGKILL)
	<-p.done
	return err
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
