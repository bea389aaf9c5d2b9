package rabbit

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A private is what a Node of KindNode adds: one installed broker with its own folder, ports and processes.
type private struct {
	installation installation
	names        *nameServer
	ownsNames    bool // false in a cluster, whose name server is shared
	folder       string
	janitor      *janitor
	nodeName     string
	amqpPort     *port
	distPort     *port
	tlsPort      *port // nil without TLS
	authority    *Authority
	timeout      time.Duration

	// mu guards the fields below. It is not held while a start is awaited, so that Kill can interrupt that.
	mu      sync.Mutex
	process *process
	logged  int64 // the log's length when process was started
	version string
}

// A membership is what the nodes of a cluster share. Without a name server each has its own.
type membership struct {
	cookie    string
	names     *nameServer
	authority *Authority
}

// newPrivate prepares a node without starting it. On an error nothing is left.
func newPrivate(ctx context.Context, i installation, options Options, shared *membership) (_ *private, err error) {
	p := &private{installation: i, timeout: options.Timeout}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.folder, err = os.MkdirTemp(i.temporary(), "harebus-rabbit-"); err != nil {
		return nil, fmt.Errorf("rabbit: make folder: %w", err)
	}
	if p.janitor, err = watchFolder(p.folder); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.folder))
	}
	for _, place := range []**port{&p.amqpPort, &p.distPort} {
		if *place, err = reservePort(); err != nil {
			return nil, err
		}
	}
	p.nodeName = fmt.Sprintf("harebus%d@%s", p.amqpPort.number, i.place.nodeHost())
	if shared == nil {
		shared = &membership{cookie: newCookie()}
	}
	p.names, p.authority = shared.names, shared.authority
	if p.names == nil {
		if p.names, err = startNameServer(ctx, i); err != nil {
			return nil, err
		}
		p.ownsNames = true
	}
	if err := p.writeTLS(options.TLS); err != nil {
		return nil, err
	}
	return p, errors.Join(p.writeConfig(options), p.writePlugins(options), p.write(".erlang.cookie", shared.cookie))
}

func (p *private) writeTLS(mode TLSMode) (err error) {
	if mode == NoTLS {
		p.authority = nil
		return nil
	}
	if p.tlsPort, err = reservePort(); err != nil {
		return err
	}
	if p.authority == nil {
		if p.authority, err = NewAuthority(); err != nil {
			return err
		}
	}
	return p.writeCertificate(time.Now().Add(24 * time.Hour))
}

func (p *private) writeCertificate(notAfter time.Time) error {
	certificate, err := p.authority.server(notAfter)
	if err != nil {
		return err
	}
	return p.authority.writeFiles(p.folder, "server", certificate)
}

func (p *private) writeConfig(options Options) error {
	lines := []string{
		"listeners.tcp.1 = " + p.address(p.amqpPort),
		"log.console = true",
		"log.console.level = info",
		"log.file = false",
	}
	if options.TLS != NoTLS {
		lines = append(lines,
			"listeners.ssl.1 = "+p.address(p.tlsPort),
			"ssl_options.cacertfile = "+p.inside("authority.pem"),
			"ssl_options.certfile = "+p.inside("server.pem"),
			"ssl_options.keyfile = "+p.inside("server.key"),
			"ssl_options.verify = verify_peer",
			"ssl_options.fail_if_no_peer_cert = "+strconv.FormatBool(options.TLS == MutualTLS),
			"ssl_cert_login_from = common_name",
			"auth_mechanisms.1 = EXTERNAL",
			"auth_mechanisms.2 = PLAIN",
			"auth_mechanisms.3 = AMQPLAIN",
		)
	}
	lines = append(append(lines, p.installation.place.config()...), options.Config...)
	if options.Advanced != "" {
		if err := p.write("advanced.config", options.Advanced+"\n"); err != nil {
			return err
		}
	}
	return p.write("rabbitmq.conf", strings.Join(lines, "\n")+"\n")
}

func (p *private) writePlugins(options Options) error {
	plugins := options.Plugins
	if options.TLS != NoTLS {
		plugins = append([]string{"rabbitmq_auth_mechanism_ssl"}, plugins...)
	}
	return p.write("enabled_plugins", "["+strings.Join(plugins, ",")+"].\n")
}

func (p *private) write(name, text string) error {
	if err := os.WriteFile(filepath.Join(p.folder, name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("rabbit: write node's files: %w", err)
	}
	return nil
}

// inside is the path of one of the folder's files as the broker sees it.
func (p *private) inside(name string) string {
	return p.installation.inside(filepath.Join(p.folder, name))
}

func (p *private) environment() []string {
	onlyHere := "-start_epmd false -kernel inet_dist_use_interface " + p.installation.place.tuple()
	return append(append(p.names.environment(), p.installation.place.environment()...),
		"HOME="+p.inside(""),
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_NODENAME="+p.nodeName,
		"RABBITMQ_CONFIG_FILE="+p.inside("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+p.inside("advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+p.inside("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE="+p.inside("data"),
		"RABBITMQ_LOG_BASE="+p.inside("log"),
		"RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE="+p.inside("pid"),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(p.distPort.number),
		// Makes the start script become the broker instead of waiting for it, so that our signals reach the broker.
		"RUNNING_UNDER_SYSTEMD=true",
		"RABBITMQ_SERVER_START_ARGS=-noinput",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+onlyHere,
		// rabbitmqctl has to listen too: nodes of a cluster send it their parts of a listing.
		"RABBITMQ_CTL_ERL_ARGS="+onlyHere,
		"RABBITMQ_CTL_DIST_PORT_MIN="+strconv.Itoa(lastPort+1),
		"RABBITMQ_CTL_DIST_PORT_MAX="+strconv.Itoa(lastPort+700),
	)
}

func (p *private) url() string {
	return "amqp://guest:guest@" + p.address(p.amqpPort) + "/"
}

// address is where a port of the node is reached.
func (p *private) address(port *port) string {
	return net.JoinHostPort(p.installation.place.address(), strconv.Itoa(port.number))
}

func (p *private) tlsURL() string {
	if p.tlsPort == nil {
		return ""
	}
	return "amqps://guest:guest@" + p.address(p.tlsPort) + "/"
}

// launch starts the broker without waiting until it can be used.
func (p *private) launch() (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process.running() {
		return nil, errors.New("rabbit: start node: it is running")
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("rabbit: start node: %w", err)
	}
	defer log.Close()
	if p.logged, err = log.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("rabbit: start node: %w", err)
	}
	// The context only bounds the wait: a node lives until it is killed or stopped.
	command := p.installation.command(context.Background(), p.environment(), filepath.Join(binFolder, "rabbitmq-server"))
	command.Dir = "/"
	command.Stdout, command.Stderr = log, log
	p.process, err = startProcess(command)
	return p.process, err
}

func (p *private) logPath() string { return filepath.Join(p.folder, "log.txt") }

// ready returns when the launched broker has completed its start and lets a client in.
func (p *private) ready(ctx context.Context, launched *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("no answer in %v", p.timeout))
	defer cancel()
	err := await(ctx, launched, 50*time.Millisecond, func(ctx context.Context) error {
		if err := p.startupComplete(); err != nil {
			return err
		}
		version, err := probe(ctx, p.url())
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.version = version
		return nil
	})
	if err != nil {
		return fmt.Errorf("rabbit: start node %s: %w; the end of its log:\n%s", p.nodeName, err, tail(p.logPath()))
	}
	return nil
}

// startupComplete looks in the log for what the broker says last when it starts. Its ports are open before that.
func (p *private) startupComplete() error {
	p.mu.Lock()
	logged := p.logged
	p.mu.Unlock()
	log, err := os.Open(p.logPath())
	if err != nil {
		return err
	}
	defer log.Close()
	text, err := io.ReadAll(io.NewSectionReader(log, logged, 1<<30))
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte("Server startup complete")) {
		return errors.New("it has not completed its start")
	}
	return nil
}

func (p *private) start(ctx context.Context) error {
	launched, err := p.launch()
	if err != nil {
		return err
	}
	return p.ready(ctx, launched)
}

// signal fails when the broker is not running, so that a test cannot believe it paused one that is dead.
func (p *private) signal(s syscall.Signal) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.process.running() {
		return nil, fmt.Errorf("rabbit: signal %v: the node is not running", s)
	}
	return p.process, p.process.signal(s)
}

func (p *private) kill() error {
	running, err := p.signal(syscall.SIGKILL)
	if err != nil {
		return err
	}
	<-running.done
	return nil
}

// stop ends the broker in order. A paused one is resumed for it.
func (p *private) stop(ctx context.Context) error {
	if _, err := p.signal(syscall.SIGCONT); err != nil {
		return err
	}
	running, err := p.signal(syscall.SIGTERM)
	if err != nil {
		return err
	}
	select {
	case <-running.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("rabbit: stop node: %w", context.Cause(ctx))
	}
}

// ctl runs rabbitmqctl against the node. One that could not become an Erlang node itself, which was seen once in many
// hundred runs, has asked the broker nothing and is tried again.
func (p *private) ctl(ctx context.Context, args ...string) (string, error) {
	const attempts, noDistribution = 3, 78
	for attempt := 1; ; attempt++ {
		output, err := p.ctlOnce(ctx, args)
		var exit *exec.ExitError
		if err == nil || attempt == attempts || !errors.As(err, &exit) || exit.ExitCode() != noDistribution {
			return output, err
		}
	}
}

func (p *private) ctlOnce(ctx context.Context, args []string) (string, error) {
	var stdout, stderr strings.Builder
	command := p.installation.command(ctx, p.environment(), filepath.Join(binFolder, "rabbitmqctl"), append([]string{"--quiet"}, args...)...)
	command.Dir = "/"
	command.Stdout, command.Stderr = &stdout, &stderr
	// A grandchild may hold the pipes; after the kill nobody needs to wait for it.
	command.WaitDelay = time.Second
	child, err := startProcess(command)
	if err != nil {
		return "", err
	}
	<-child.done
	if child.err != nil {
		return "", fmt.Errorf("rabbit: rabbitmqctl %s: %w: %s%s", strings.Join(args, " "), errors.Join(child.err, context.Cause(ctx)), stderr.String(), stdout.String())
	}
	return stdout.String(), nil
}

// close kills the broker and removes everything of it. It copes with a node that was only partly made.
func (p *private) close() error {
	p.mu.Lock()
	err := p.process.kill()
	p.mu.Unlock()
	if p.ownsNames {
		err = errors.Join(err, p.names.close())
	}
	if p.janitor != nil {
		err = errors.Join(err, p.janitor.close())
	}
	return errors.Join(err, p.amqpPort.release(), p.distPort.release(), p.tlsPort.release())
}

// probe logs in to a broker and returns its version.
func probe(ctx context.Context, url string) (string, error) {
	timeout := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(deadline)), time.Millisecond)
	}
	connection, err := amqp.DialConfig(url, amqp.Config{
		Dial:            amqp.DefaultDial(timeout),
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		Properties:      amqp.Table{"connection_name": "harebus rabbit probe"},
	})
	if err != nil {
		return "", err
	}
	version, ok := connection.Properties["version"].(string)
	if err := connection.Close(); err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("rabbit: probe broker: no version among its server properties")
	}
	return version, nil
}
