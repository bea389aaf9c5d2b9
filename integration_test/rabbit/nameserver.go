package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// A nameServer is an Erlang port mapper of our own (epmd), through which rabbitmqctl finds a node and the nodes of a
// cluster find each other. The machine's, if it has one, is neither used nor started.
type nameServer struct {
	place   place
	port    *port
	process *process
}

func startNameServer(ctx context.Context, i installation) (*nameServer, error) {
	p, err := i.place.namePort()
	if err != nil {
		return nil, err
	}
	s := &nameServer{place: i.place, port: p}
	command := i.command(context.WithoutCancel(ctx), s.environment(), "epmd", "-port", strconv.Itoa(p.number))
	if s.process, err = startProcess(command); err != nil {
		return nil, errors.Join(err, p.release())
	}
	address := net.JoinHostPort(i.place.address(), strconv.Itoa(p.number))
	err = await(ctx, s.process, 20*time.Millisecond, func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rabbit: start epmd: %w", err), s.close())
	}
	return s, nil
}

// environment is what every program that talks to the name server needs.
func (s *nameServer) environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG=C.UTF-8",
		"ERL_EPMD_ADDRESS=" + s.place.address(),
		"ERL_EPMD_PORT=" + strconv.Itoa(s.port.number),
	}
}

func (s *nameServer) close() error {
	return errors.Join(s.process.kill(), s.port.release())
}

// await calls attempt, pausing in between, until it succeeds, ctx ends, or the process (nil when there is none) does.
func await(ctx context.Context, p *process, pause time.Duration, attempt func(context.Context) error) error {
	var ended chan struct{}
	if p != nil {
		ended = p.done
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.Join(errors.New("it ended"), p.err, err)
		case <-ctx.Done():
			return fmt.Errorf("it did not answer: %w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// tail is the end of a file, for an error's text: enough for the cause that RabbitMQ 4 names before its long report of a
// failed start.
func tail(path string) string {
	const limit = 16 << 10
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > limit {
		if _, err := file.Seek(-limit, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
