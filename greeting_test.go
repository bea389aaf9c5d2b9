package harebus_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// answering is a server that says something to whoever connects, once it has been
// spoken to, and hangs up.
func answering(answer string) func(string, string) (net.Conn, error) {
	return func(string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Read(make([]byte, 512))
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, _ = io.WriteString(theirs, answer)
			_ = theirs.Close()
		}()
		return ours, nil
	}
}

// alarming ends reading with an error, as a connection does whose TLS the server refuses after the handshake.
type alarming struct{ net.Conn }

func (alarming) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "remote error", Net: "tcp", Err: errors.New("tls: certificate required")}
}

// TestWrongServers: what waiting cannot cure is refused at once, by Start, by Init
// and by a first send, and says what to do.
func TestWrongServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer, url string
		says        []string
	}{
		"TLS port":        {"\x15\x03\x01\x00\x02\x02\x46", "amqp://guest:guest@h:5671/", []string{"amqps://"}},
		"HTTP port":       {"HTTP/1.1 400 Bad Request\r\n\r\n", "amqp://guest:guest@h:15672/", []string{"an HTTP server", "5672"}},
		"SSH":             {"SSH-2.0-OpenSSH_9.2\r\n", "amqp://guest:guest@h:22/", []string{"SSH-2.0"}},
		"AMQP 1.0":        {"AMQP\x00\x01\x00\x00", "amqp://guest:guest@h/", []string{"version of AMQP"}},
		"TLS to plain":    {"AMQP\x00\x00\x09\x01", "amqps://guest:guest@h:5672/", []string{"amqp://", "5671"}},
		"no certificate":  {"alert", "amqp://guest:guest@h/", []string{"certificate required", "Config.Connect.TLS.Certificates"}},
		"alert in TLS":    {"\x15\x03\x03\x00\x02\x02\x28", "amqps://guest:guest@h/", []string{"handshake failure", "Config.Connect.TLS.Certificates"}},
		"default address": {"HTTP/1.1 400 Bad Request\r\n\r\n", "", []string{"localhost:5672", "Config.URL is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.URL, cfg.Dial = c.url, answering(c.answer)
				if c.answer == "alert" {
					cfg.Dial = func(string, string) (net.Conn, error) {
						conn, err := answering("")("", "")
						return alarming{conn}, err
					}
				}
				s, _ := counting(r, cfg)
				start := time.Now()
				for what, call := range map[string]func(context.Context) error{
					"start": s.Start, "init": s.Init,
					"send": func(ctx context.Context) error { return r.setup(cfg).Bus().Send(ctx, "out", order{1}) },
				} {
					if err := call(r.ctx); err == nil {
						t.Errorf("%s: no error", what)
					} else {
						contains(t, err.Error(), c.says...)
					}
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestHangingUpIsNoAnswer: a broker that starts or stops ends connections without a
// word, at any point. That is waited out.
func TestHangingUpIsNoAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{"nothing": "", "half a frame": "\x01\x00\x00\x00", "reset": "reset"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				until := time.Now().Add(20 * time.Second)
				cfg.Dial = func(network, address string) (net.Conn, error) {
					if time.Now().Before(until) {
						return answering(answer)(network, address)
					}
					return r.broker.Dial(network, address)
				}
				if answer == "reset" {
					cfg.Dial = func(network, address string) (net.Conn, error) {
						if time.Now().Before(until) {
							return nil, &net.OpError{Op: "dial", Err: errors.New("connection reset by peer")}
						}
						return r.broker.Dial(network, address)
					}
				}
				s, _ := counting(r, cfg)
				r.start(s)
			})
		})
	}
}

// TestOneWrongAddress: one address of several that leads astray does not keep a setup
// from waiting for the others.
func TestOneWrongAddress(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.URL, cfg.Connect.URLs = "", []string{"amqp://guest:guest@wrong:1/", "amqp://guest:guest@right:1/"}
		until := time.Now().Add(20 * time.Second)
		cfg.Dial = func(network, address string) (net.Conn, error) {
			switch {
			case strings.HasPrefix(address, "wrong"):
				return answering("HTTP/1.1 400 Bad Request\r\n\r\n")(network, address)
			case time.Now().Before(until):
				return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}
			return r.broker.Dial(network, address)
		}
		s, _ := counting(r, cfg)
		r.start(s)
	})
}

// TestImpossiblePorts: New refuses what cannot be a port.
func TestImpossiblePorts(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"amqp://h:99999/", "amqp://h:0/", "amqp://h:65536/", "amqps://h:-1/"} {
		if _, err := harebus.New(harebus.Config{URL: url}); err == nil {
			t.Errorf("%s: no error", url)
		}
	}
}

// TestTooFewChannels: a broker that allows fewer channels than the setup needs says so
// when the connection is made.
func TestTooFewChannels(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume.Consumers = 9
		s, _ := counting(r, cfg)
		start := time.Now()
		err := s.Start(r.ctx)
		if err == nil || time.Since(start) > time.Second {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		contains(t, err.Error(), "10 channels", "needs 12", "channel_max", "Consume.Consumers")
		cfg.Consume.Consumers = 7
		s, got := counting(r, cfg)
		r.start(s)
		r.works(s, got, 1)
	}, brokertest.WithChannelMax(10))
}

// TestConnectionLimit: too many connections are a matter of time, for instance while the
// instances that this one replaces go.
func TestConnectionLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		full := r.broker.Inject(brokertest.Fault{
			On: "connection.open", Times: -1, Do: brokertest.Raise, Code: amqp.NotAllowed,
			Text: "access to vhost '/' refused for user 'guest': connection limit (10) is reached",
		})
		back := time.AfterFunc(20*time.Second, full.Remove)
		defer back.Stop()
		s, _ := counting(r, r.config("orders"))
		r.start(s)
	})
}

// TestUnknownAuthority: the error of a certificate says where to put the authority.
func TestUnknownAuthority(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.URL = "amqps://guest:guest@localhost/"
		cfg.Dial = func(string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				server := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, MinVersion: tls.VersionTLS12})
				_ = server.Handshake()
				_ = theirs.Close()
			}()
			return ours, nil
		}
		err := r.setup(cfg).Init(r.ctx)
		if err == nil {
			t.Fatal("no error")
		}
		contains(t, err.Error(), "unknown authority", "RootCAs")
	})
}
