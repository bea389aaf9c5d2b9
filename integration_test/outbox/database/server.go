package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// patience is how long a server may take to start.
const patience = time.Minute

// server is a running one.
type server struct {
	program *program
	port    int // of 127.0.0.1
	host
}

// host is where a server runs: a process of this machine, or a container.
type host interface {
	// launch starts the server, also one that was killed.
	launch() error
	// ended is closed when the server has ended; nil if that cannot be known.
	ended() <-chan struct{}
	// kill ends the server as a power cut would, as far as its clients see.
	kill()
	// stop ends it and removes its data.
	stop()
	// pid is the server's process on this machine; 0 if that cannot be known.
	pid() int
	// log is the end of what the server has written.
	log() string
}

// start starts a server, as a process if it is installed, else in a container if a Docker engine answers. HAREBUS_DATABASES=container
// leaves out the first way.
func start(p *program) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{program: p, port: port}
	bin, missing := p.find()
	if os.Getenv("HAREBUS_DATABASES") == "container" && p.image.name != "" {
		missing = fmt.Errorf("%s: HAREBUS_DATABASES allows only containers: %w", p.name, ErrMissing)
	}
	if missing == nil {
		s.host, err = install(p, bin, port)
	} else {
		s.host, err = contain(p, port, missing)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := s.launch(); err != nil {
		err = fmt.Errorf("start %s: %w; the end of its log:\n%s", p.name, err, s.log())
		s.stop()
		return nil, err
	}
	return s, nil
}

// launch starts the server and returns when it answers.
func (s *server) launch() error {
	if err := s.host.launch(); err != nil {
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
		case <-s.ended():
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("no answer in %v: %w", patience, err)
		case <-tick.C:
		}
	}
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
