package rabbit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from a range below the ephemeral one, so that no outgoing connection can sit on a node's port while
// the node is down.
const (
	firstPort = 21000
	lastPort  = 31999
)

// A port is a TCP port on 127.0.0.1 that no other test process takes as long as it is held. The hold is a name in the
// abstract Unix socket namespace: it ends with the process at the latest and leaves no file.
type port struct {
	number int
	hold   net.Listener
}

func reservePort() (*port, error) {
	const attempts = 200
	var last error
	for range attempts {
		number := firstPort + rand.IntN(lastPort-firstPort+1)
		hold, err := net.Listen("unix", fmt.Sprintf("@harebus-rabbit-port-%d", number))
		if err != nil {
			last = err
			continue
		}
		probe, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", number))
		if err != nil {
			last = errors.Join(err, hold.Close())
			continue
		}
		if err := probe.Close(); err != nil {
			return nil, errors.Join(fmt.Errorf("rabbit: probe port %d: %w", number, err), hold.Close())
		}
		return &port{number: number, hold: hold}, nil
	}
	return nil, fmt.Errorf("rabbit: reserve port: none of %d tried between %d and %d is free: %w", attempts, firstPort, lastPort, last)
}

// release lets others take the port. A nil port, and one that nobody else could take, is released already.
func (p *port) release() error {
	if p == nil || p.hold == nil {
		return nil
	}
	return p.hold.Close()
}
