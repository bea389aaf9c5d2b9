package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/bench/nullbroker"
)

// place is a broker and a kind of queue, with counted connections to it.
type place struct {
	*server
	kind    string // classic, quorum or null
	traffic *traffic
	books   *books // nil where no database takes part
}

func (s *server) place(kind string) *place {
	return &place{server: s, kind: kind, traffic: &traffic{}}
}

func (p *place) dial(network, address string) (net.Conn, error) {
	return p.traffic.dial(network, address)
}

// queue names the i-th queue of the place.
func (p *place) queue(i int) string { return fmt.Sprintf("bench.%s.%d", p.kind, i) }

// server is a broker process.
type server struct {
	url     string
	version string // of RabbitMQ; "null" for the null broker
	pid     int    // 0 if unknown
	admin   *amqp.Connection
	stop    func() error
}

// openServer looks at a broker that runs.
func openServer(address string, stop func() error) (_ *server, err error) {
	s := &server{url: address, stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("bench: the broker's address is not a URL") // it may hold a password
	}
	if s.admin, err = amqp.Dial(address); err != nil {
		return nil, fmt.Errorf("bench: connect to the broker: %w", err)
	}
	s.version = fmt.Sprint(s.admin.Properties["version"])
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip.IsLoopback() {
		port, _ := strconv.Atoi(u.Port())
		s.pid = listener(port)
	}
	return s, nil
}

func (s *server) close() error { return errors.Join(s.admin.Close(), s.stop()) }

// purge empties queues.
func (s *server) purge(queues ...string) error {
	ch, err := s.admin.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	for _, q := range queues {
		if _, err := ch.QueuePurge(q, false); err != nil {
			return fmt.Errorf("bench: purge %s: %w", q, err)
		}
	}
	return nil
}

// remove deletes queues.
func (s *server) remove(queues ...string) error {
	ch, err := s.admin.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	for _, q := range queues {
		if _, err := ch.QueueDelete(q, false, false, false); err != nil {
			return fmt.Errorf("bench: delete %s: %w", q, err)
		}
	}
	return nil
}

// servers are started when something needs them.
type servers struct {
	rabbit, null *server
	books        *books
}

// place is where a contest takes place.
func (s *servers) place(ctx context.Context, of spec, port int) (_ *place, err error) {
	if of.kind == "null" {
		if s.null == nil {
			if s.null, err = startNull(); err != nil {
				return nil, err
			}
		}
		return s.null.place(of.kind), nil
	}
	if s.rabbit == nil {
		if s.rabbit, err = startRabbit(ctx, port); err != nil {
			return nil, err
		}
	}
	p := s.rabbit.place(of.kind)
	if of.changes() {
		if s.books == nil {
			if s.books, err = openBooks(ctx); err != nil {
				return nil, err
			}
		}
		p.books = s.books
	}
	return p, nil
}

func (s *servers) close() (err error) {
	for _, one := range []*server{s.rabbit, s.null} {
		if one != nil {
			err = errors.Join(err, one.close())
		}
	}
	return errors.Join(err, s.books.close())
}

// startRabbit uses the broker AMQP_URL names, or starts a private node.
func startRabbit(ctx context.Context, firstPort int) (*server, error) {
	if address := os.Getenv("AMQP_URL"); address != "" {
		return openServer(address, func() error { return nil })
	}
	program, err := findServer()
	if err != nil {
		return nil, err
	}
	port, err := freePort(firstPort)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "harebus-bench-")
	if err != nil {
		return nil, err
	}
	stop, err := runNode(program, folder, port)
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", port)
	if err := awaitNode(ctx, address); err != nil {
		return nil, errors.Join(err, stop())
	}
	return openServer(address, stop)
}

func findServer() (string, error) {
	const debian = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(debian); err == nil {
		return debian, nil
	}
	if found, err := exec.LookPath("rabbitmq-server"); err == nil {
		return found, nil
	}
	return "", errors.New("bench: no broker: set AMQP_URL, or install rabbitmq-server (scripts/install-rabbitmq)")
}

func freePort(first int) (int, error) {
	const tries = 50
	for port := first; port < first+tries; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("bench: no free port from %d on", first)
}

// nodeScript runs a node until its standard input ends, which happens however
// this process ends, and leaves nothing behind.
const nodeScript = `
"$1" & node=$!
trap '' INT
read -r _ || true
kill -TERM $node 2>/dev/null
wait $node
rm -rf "$2"`

// runNode starts a node without epmd, distribution or plugins.
func runNode(program, folder string, port int) (stop func() error, err error) {
	config := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nlog.console = true\nlog.console.level = warning\nlog.file = false\n", port)
	for name, text := range map[string]string{"rabbitmq.conf": config, "plugins": "[].\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	node := fmt.Sprintf("bench%d@localhost", port)
	unused := strconv.Itoa(port + 20000)
	cmd := exec.Command("/bin/sh", "-c", nodeScript, "node", program, folder) //nolint:gosec // found above
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + folder,
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_NODENAME=" + node,
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(folder, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(folder, "plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(folder, "data"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(folder, "log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE=" + filepath.Join(folder, "pid"),
		"RABBITMQ_DIST_PORT=" + unused,
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-sname " + node + " -setcookie " + node +
			" -start_epmd false -dist_listen false -erl_epmd_port " + unused,
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		if err := input.Close(); err != nil {
			return err
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			return err
		}
		return os.RemoveAll(folder)
	}, nil
}

func awaitNode(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := amqp.Dial(address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("bench: the private node does not answer: %w", err)
		}
	}
}

// nullArgument makes this program a null broker.
const nullArgument = "null-broker"

// startNull starts the null broker in a process of its own, so that its work
// does not count as the client's.
func startNull() (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, nullArgument) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() error {
		return errors.Join(input.Close(), cmd.Wait())
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bench: start the null broker: %w", err), stop())
	}
	s, err := openServer(strings.TrimSpace(line), stop)
	if err == nil {
		s.version = "null"
	}
	return s, err
}

// runNull is the process that startNull starts; it ends with its standard input.
func runNull() error {
	b, err := nullbroker.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Println(b.URL()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, b.Close())
}
