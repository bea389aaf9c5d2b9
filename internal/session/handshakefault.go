package session

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// greeting listens to the beginning of a connection. If an address leads to another
// server, the client only reports bad frames or the end of the connection. The
// first bytes, or the TLS alert that ended it, show the reason.
type greeting struct {
	net.Conn

	heard atomic.Bool // first is full

	mu    sync.Mutex // guards what follows
	first []byte
	err   error // that ended reading
}

// greetingLength is how much of the beginning is kept: a protocol header.
const greetingLength = 8

func (g *greeting) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if err != nil || !g.heard.Load() {
		g.note(b[:n], err)
	}
	return n, err
}

func (g *greeting) note(b []byte, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.first = append(g.first, b[:min(len(b), greetingLength-len(g.first))]...)
	g.heard.Store(len(g.first) == greetingLength)
	if err != nil {
		g.err = err
	}
}

// errMisdirected says that an address can never work: another server answers there,
// or one that refuses our TLS.
var errMisdirected = errors.New("no AMQP 0-9-1 here")

// fault says what is wrong with the server, or returns nil when there is no
// evidence. The end of a connection is none, because a broker that starts or stops
// ends connections too.
func (g *greeting) fault() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if isAlert(g.err) {
		return tlsFault(g.err)
	}
	const method, handshake, alert, tlsMajor = 1, 0x16, 0x15, 3 // types of records and frames
	switch first := g.first; {
	case len(first) == 0 || first[0] == method:
		return nil
	case bytes.HasPrefix(first, []byte("AMQP")):
		return fmt.Errorf("%w: the server speaks another version of AMQP: it answered %q", errMisdirected, first)
	case bytes.HasPrefix(first, []byte("HTTP")):
		return fmt.Errorf("%w: an HTTP server answered; AMQP is usually at port 5672, or 5671 with TLS", errMisdirected)
	case len(first) > 1 && (first[0] == alert || first[0] == handshake) && first[1] == tlsMajor:
		return fmt.Errorf("%w: the port expects TLS; write amqps:// instead of amqp://, or use the port without TLS, usually 5672", errMisdirected)
	default:
		return fmt.Errorf("%w: some other server answered %q; AMQP is usually at port 5672, or 5671 with TLS", errMisdirected, first)
	}
}

// isAlert says whether err is a TLS alert of the server's.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && !strings.Contains(op.Error(), "internal error")
}

// tlsFault adds to the error of a failed handshake what to do.
func tlsFault(err error) error {
	var untrusted *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w; put the authority of the broker's certificate into Config.Connect.TLS.RootCAs, and the name in it into ServerName", err)
	case errors.As(err, &notTLS):
		return fmt.Errorf("%w; the port does not speak TLS: write amqp:// instead of amqps://, or use the TLS port, usually 5671", err)
	case isAlert(err):
		return fmt.Errorf("%w; the broker refuses our side of TLS: put a client certificate that it trusts into Config.Connect.TLS.Certificates", err)
	default:
		return err
	}
}

// misdirected says whether err means, for every address that was tried, that waiting
// cannot help: there is another server, or one with which TLS is not possible.
func misdirected(err error) bool {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case nil:
		return false
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(one error) bool { return !misdirected(one) })
	case *tls.CertificateVerificationError, tls.RecordHeaderError:
		return true
	case interface{ Unwrap() error }:
		return isAlert(err) || misdirected(e.Unwrap())
	default:
		return errors.Is(err, errMisdirected)
	}
}
