package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// patience is how long a server may take to start.
const patience = time.Minute

// program is an installed database server.
type program struct {
	name    string
	account string // that it runs as when the tests run as root
	driver  string
	// find returns the folder of its programs.
	find func() (string, error)
	// initialise and serve are the commands that make an empty data folder and use it.
	initialise, serve func(bin, folder string, port int) []string
	dsn               func(port int, database string) string
}

// ErrMissing says that the server is not installed.
var ErrMissing = errors.New("not installed; run scripts/install-databases")

func postgres() *program {
	return &program{
		name: "postgres", account: "postgres", driver: "pgx",
		find: func() (string, error) {
			found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
			if err != nil || len(found) == 0 {
				return "", fmt.Errorf("PostgreSQL: %w", ErrMissing)
			}
			return filepath.Dir(found[len(found)-1]), nil
		},
		initialise: func(bin, folder string, _ int) []string {
			return []string{filepath.Join(bin, "initdb"), "-D", folder + "/data", "-U", "harebus", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"}
		},
		serve: func(bin, folder string, port int) []string {
			return []string{filepath.Join(bin, "postgres"), "-D", folder + "/data", "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-k", "", "-c", "fsync=off"}
		},
		dsn: func(port int, database string) string {
			if database == "" {
				database = "postgres"
			}
			return fmt.Sprintf("postgres://harebus@127.0.0.1:%d/%s?sslmode=disable", port, database)
		},
	}
}

func mariadb() *program {
	return &program{
		name: "mariadb", account: "mysql", driver: "mysql",
		find: func() (string, error) {
			if _, err := os.Stat("/usr/sbin/mariadbd"); err != nil {
				return "", fmt.Errorf("MariaDB: %w", ErrMissing)
			}
			return "/usr/sbin", nil
		},
		initialise: func(_, folder string, _ int) []string {
			return []string{"/usr/bin/mariadb-install-db", "--no-defaults", "--datadir=" + folder + "/data", "--auth-root-authentication-method=normal", "--skip-test-db"}
		},
		serve: func(bin, folder string, port int) []string {
			return []string{
				filepath.Join(bin, "mariadbd"), "--no-defaults", "--datadir=" + folder + "/data", "--bind-address=127.0.0.1", "--port=" + strconv.Itoa(port),
				"--socket=" + folder + "/socket", "--pid-file=" + folder + "/pid", "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M",
			}
		},
		dsn: func(port int, database string) string {
			return fmt.Sprintf("root@tcp(127.0.0.1:%d)/%s", port, database)
		},
	}
}

// server is a running one.
type server struct {
	program *program
	bin     string
	folder  string
	port    int
	command *exec.Cmd
	ended   chan struct{}
	janitor *os.File // its end removes the folder
}

// janitor removes a folder when the pipe that it reads ends, with the process that holds it.
const janitor = `trap '' HUP INT TERM
read -r _
for try in 1 2 3 4 5 6 7 8 9 10; do
	rm -rf -- "$1" && exit 0
	sleep 0.5
done 2>/dev/null`

func start(p *program) (_ *server, err error) {
	s := &server{program: p}
	if s.bin, err = p.find(); err != nil {
		return nil, err
	}
	if s.folder, err = os.MkdirTemp("", "harebus-"+p.name+"-"); err != nil {
		return nil, err
	}
	if err = s.watch(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.folder))
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w; the end of its log:\n%s", p.name, err, s.logTail())
			s.stop()
		}
	}()
	if err = s.own(); err != nil {
		return nil, err
	}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	initialise, err := s.process(p.initialise(s.bin, s.folder, s.port))
	if err != nil {
		return nil, err
	}
	if err = initialise.Run(); err != nil {
		return nil, err
	}
	return s, s.launch()
}

// launch starts the server and returns when it answers.
func (s *server) launch() error {
	command, err := s.process(s.program.serve(s.bin, s.folder, s.port))
	if err != nil {
		return err
	}
	s.command, s.ended = command, make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The kernel ends the server with this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait() // it is killed in the end
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	return s.await()
}

func (s *server) await() error {
	db, err := sql.Open(s.program.driver, s.program.dsn(s.port, ""))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond) //nolint:mnd // often enough
	defer tick.Stop()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("no answer in %v: %w", patience, err)
		case <-tick.C:
		}
	}
}

// kill ends the server as a power cut would, as far as its clients see.
func (s *server) kill() {
	_ = s.command.Process.Kill() // it may have ended
	<-s.ended
}

func (s *server) stop() {
	if s.command != nil && s.ended != nil {
		s.kill()
	}
	_ = s.janitor.Close() // its other end cleans up
}

// process prepares a command, as the server's account.
func (s *server) process(argv []string) (*exec.Cmd, error) {
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
func (s *server) account() (uid, gid uint32, ok bool) {
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

func (s *server) own() error {
	uid, gid, ok := s.account()
	if !ok {
		return nil
	}
	return os.Chown(s.folder, int(uid), int(gid))
}

func (s *server) watch() error {
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

func (s *server) logTail() string {
	const most = 2000
	text, _ := os.ReadFile(s.folder + "/log.txt") // it is only for the error's reader
	return string(text[max(0, len(text)-most):])
}

// freePort finds a port below those of outgoing connections.
func freePort() (int, error) {
	const first, last, attempts = 21000, 31999, 100
	var err error
	for range attempts {
		port := first + rand.IntN(last-first+1)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}
