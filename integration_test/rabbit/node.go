package rabbit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrNotPrivate is in the error of a method that breaks or commands a broker which is not ours to break or command.
var ErrNotPrivate = errors.New("this takes a private node (Options.Kind KindNode)")

// A Node is a running RabbitMQ. Its methods may be called from several goroutines; what Start and Kill do at the same
// time is up to the caller.
type Node struct {
	kind      Kind
	url       string
	version   string     // of a broker that is not private
	private   *private   // nil unless KindNode
	container *container // nil unless KindContainer
}

// Start returns a broker that lets clients in. The caller closes it. When no way leads to one the error is
// [ErrUnavailable] and says for each way what to do. A way that exists but fails is an error of its own, and no other
// is tried: tests must not pass on another broker than the one that was meant.
func Start(ctx context.Context, options Options) (*Node, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, fmt.Errorf("rabbit: start broker: %w", err)
	}
	wanted := func(k Kind) bool { return options.Kind == "" || options.Kind == k }
	missing := []error{ErrUnavailable}
	if wanted(KindURL) {
		if url := os.Getenv("AMQP_URL"); url != "" {
			return useURL(ctx, url, options.Timeout)
		}
		missing = append(missing, errors.New("AMQP_URL is not set: export AMQP_URL=amqp://user:password@host:5672/ to use a running broker"))
	}
	if wanted(KindNode) {
		i, err := findInstallation(options.Root)
		if err == nil {
			return startNode(ctx, i, options)
		}
		missing = append(missing, err)
	}
	if wanted(KindContainer) {
		err := dockerAnswers(ctx)
		if err == nil {
			return startContainer(ctx, options)
		}
		missing = append(missing, fmt.Errorf("no Docker engine for a container (%w): start one", err))
	}
	return nil, fmt.Errorf("rabbit: start broker: %w", errors.Join(missing...))
}

func useURL(ctx context.Context, url string, timeout time.Duration) (*Node, error) {
	parsed, err := amqp.ParseURI(url)
	if err != nil {
		// The cause would print the password.
		return nil, errors.New("rabbit: use AMQP_URL: it is not of the form amqp://user:password@host:5672/vhost")
	}
	ctx, cancel := context.WithTimeout(ctx, min(timeout, 10*time.Second))
	defer cancel()
	version, err := probe(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("rabbit: use AMQP_URL (%s:%d, vhost %q): %w", parsed.Host, parsed.Port, parsed.Vhost, err)
	}
	return &Node{kind: KindURL, url: url, version: version}, nil
}

func startNode(ctx context.Context, i installation, options Options) (*Node, error) {
	p, err := newPrivate(ctx, i, options, nil)
	if err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return &Node{kind: KindNode, url: p.url(), private: p}, nil
}

// URL is where clients connect, with credentials that may do everything. It stays the same over Kill and Start.
func (n *Node) URL() string { return n.url }

// TLSURL is where clients connect by TLS, or empty when [Options.TLS] did not ask for that.
func (n *Node) TLSURL() string {
	if n.private == nil {
		return ""
	}
	return n.private.tlsURL()
}

// Authority made the node's certificates and makes those of its clients. It is nil without [Options.TLS].
func (n *Node) Authority() *Authority {
	if n.private == nil {
		return nil
	}
	return n.private.authority
}

// Version is what the broker calls itself, for instance 3.10.8.
func (n *Node) Version() string {
	if n.private == nil {
		return n.version
	}
	n.private.mu.Lock()
	defer n.private.mu.Unlock()
	return n.private.version
}

// Kind says where the broker came from.
func (n *Node) Kind() Kind { return n.kind }

// Name is a private node's Erlang name, as rabbitmqctl prints it, and empty for the other kinds.
func (n *Node) Name() string {
	if n.private == nil {
		return ""
	}
	return n.private.nodeName
}

// Log is all that a private node has logged since it was first started, and empty for the other kinds.
func (n *Node) Log() (string, error) {
	if n.private == nil {
		return "", nil
	}
	text, err := os.ReadFile(n.private.logPath())
	if err != nil {
		return "", fmt.Errorf("rabbit: read log: %w", err)
	}
	return string(text), nil
}

// Kill ends the node by SIGKILL and returns when it is gone. What it had not yet written is lost with it.
func (n *Node) Kill() error {
	if n.private == nil {
		return fmt.Errorf("rabbit: kill node: %w", ErrNotPrivate)
	}
	return n.private.kill()
}

// Stop ends the node in order and returns when it is gone.
func (n *Node) Stop(ctx context.Context) error {
	if n.private == nil {
		return fmt.Errorf("rabbit: stop node: %w", ErrNotPrivate)
	}
	return n.private.stop(ctx)
}

// Start brings a killed or stopped node up again, on the same ports and data, and returns when it lets clients in.
func (n *Node) Start(ctx context.Context) error {
	if n.private == nil {
		return fmt.Errorf("rabbit: start node: %w", ErrNotPrivate)
	}
	return n.private.start(ctx)
}

// Launch is Start without the wait: clients have to wait themselves.
func (n *Node) Launch() error {
	if n.private == nil {
		return fmt.Errorf("rabbit: launch node: %w", ErrNotPrivate)
	}
	_, err := n.private.launch()
	return err
}

// Pause freezes the node by SIGSTOP and returns when it has stopped: its connections stay open and nothing answers on
// them.
func (n *Node) Pause() error {
	if n.private == nil {
		return fmt.Errorf("rabbit: pause node: %w", ErrNotPrivate)
	}
	paused, err := n.private.signal(syscall.SIGSTOP)
	if err != nil {
		return err
	}
	return awaitStopped(paused.command.Process.Pid)
}

// Resume undoes Pause.
func (n *Node) Resume() error {
	if n.private == nil {
		return fmt.Errorf("rabbit: resume node: %w", ErrNotPrivate)
	}
	_, err := n.private.signal(syscall.SIGCONT)
	return err
}

// Ctl runs rabbitmqctl --quiet with these arguments against a private node or a container, and returns what it
// printed. It waits for as long as ctx lets it, for ever on a paused node.
func (n *Node) Ctl(ctx context.Context, args ...string) (string, error) {
	switch {
	case n.private != nil:
		return n.private.ctl(ctx, args...)
	case n.container != nil:
		return n.container.ctl(ctx, args...)
	}
	return "", fmt.Errorf("rabbit: run rabbitmqctl: %w", ErrNotPrivate)
}

// Eval evaluates an Erlang expression, which ends in a full stop, inside the node.
func (n *Node) Eval(ctx context.Context, expression string) (string, error) {
	return n.Ctl(ctx, "eval", expression)
}

// Sync makes the node write down which quorum queues it has. RabbitMQ does that by itself half a second after the last
// declaration; a quorum queue that is younger when a single node is killed has no leader after the restart, ever (3.10
// and 4.0), and what was confirmed into it is out of reach. A test of anything else calls Sync before Kill.
func (n *Node) Sync(ctx context.Context) error {
	output, err := n.Eval(ctx, "lists:usort([dets:sync(Table) || Table <- dets:all()]).")
	if err != nil {
		return err
	}
	if strings.TrimSpace(output) != "[ok]" {
		return fmt.Errorf("rabbit: sync node: %s", output)
	}
	return nil
}

// ReplaceCertificate gives the node a new certificate of the same authority that is valid until notAfter, which may be
// past. TLS connections opened afterwards meet it.
func (n *Node) ReplaceCertificate(ctx context.Context, notAfter time.Time) error {
	if n.Authority() == nil {
		return errors.New("rabbit: replace certificate: the node was started without TLS")
	}
	if err := n.private.writeCertificate(notAfter); err != nil {
		return err
	}
	_, err := n.Eval(ctx, "ssl:clear_pem_cache().")
	return err
}

// Close ends what Start began and removes what it left on disk. It does nothing to a broker named by AMQP_URL.
func (n *Node) Close() error {
	switch {
	case n.private != nil:
		return n.private.close()
	case n.container != nil:
		return n.container.close()
	}
	return nil
}
