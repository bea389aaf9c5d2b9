package database

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// process is a private server of the installed program.
type process struct {
	program *program
	bin     string
	folder  string
	port    int
	command *exec.Cmd
	over    chan struct{}
	janitor *os.File // its end removes the folder
}

// janitor removes a folder when the pipe that it reads ends, with the process that holds it.
const janitor = `trap '' HUP INT TERM
read -r _
for try in 1 2 3 4 5 6 7 8 9 10; do
	rm -rf -- "$1" && exit 0
	sleep 0.5
done 2>/dev/null`

// install makes the server's folder and data, and does not start it.
func install(p *program, bin string, port int) (_ *process, err error) {
	s := &process{program: p, bin: bin, port: port}
	if s.folder, err = os.MkdirTemp("", "harebus-"+p.name+"-"); err != nil {
		return nil, err
	}
	if err = s.watch(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.folder))
	}
	err = s.own()
	if err == nil {
		var initialise *exec.Cmd
		if initialise, err = s.prepare(p.initialise(bin, s.folder, port)); err == nil {
			err = initialise.Run()
		}
	}
	if err != nil {
		err = fmt.Errorf("%w; the end of its log:\n%s", err, s.log())
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *process) launch() error {
	command, err := s.prepare(s.program.serve(s.bin, s.folder, s.port))
	if err != nil {
		return err
	}
	s.command, s.over = command, make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The kernel ends the server with this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait() // it is killed in the end
			close(s.over)
		}
	}()
	return <-started
}

func (s *process) kill() {
	_ = s.command.Process.Kill() // it may have ended
	<-s.over
}

func (s *process) ended() <-chan struct{} { return s.over }

func (s *process) pid() int { return s.command.Process.Pid }

func (s *process) stop() {
	if s.command != nil && s.over != nil {
		s.kill()
	}
	_ = s.janitor.Close() // its other end cleans up
}

// prepare makes a command, as the server's account.
func (s *process) prepare(argv []string) (*exec.Cmd, error) {
	log, err := os.OpenFile(s.folder+"/log.txt", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	command := exec.Command(argv[0], argv[1:]...)
	command.Dir, command.Stdout, command.Stderr = "/", log, log
	command.SysProcAttr = boundToParent()
	if uid, gid, ok := s.account(); ok {
		command.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	return command, nil
}

// account is whom the server runs as: PostgreSQL refuses to be root.
func (s *process) account() (uid, gid uint32, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	u, err := user.Lookup(s.program.account)
	if err != nil {
		return 0, 0, false
	}
	id, err1 := strconv.ParseUint(u.Uid, 10, 32)
	group, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(id), uint32(group), err1 == nil && err2 == nil
}

func (s *process) own() error {
	uid, gid, ok := s.account()
	if !ok {
		return nil
	}
	return os.Chown(s.folder, int(uid), int(gid))
}

func (s *process) watch() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	command := exec.Command("/bin/sh", "-c", janitor, "sh", s.folder)
	command.Stdin, command.SysProcAttr = read, &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return errors.Join(err, write.Close())
	}
	go func() { _ = command.Wait() }() // it ends when the pipe does
	s.janitor = write
	return nil
}

func (s *process) log() string {
	const most = 2000
	text, _ := os.ReadFile(s.folder + "/log.txt") // it is only for the error's reader
	return string(text[max(0, len(text)-most):])
}
