package harebus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// selfSigned is a certificate that nobody vouches for.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// onStderr makes a setup whose standard error is a file. It must not run beside
// other tests.
func (r *rig) onStderr(cfg harebus.Config) (*harebus.Setup, func() string) {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "stderr")
	file, err := os.Create(name)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = file.Close() })
	before := os.Stderr
	os.Stderr = file
	s := r.setup(cfg)
	os.Stderr = before
	return s, func() string {
		text, err := os.ReadFile(name)
		if err != nil {
			r.t.Fatal(err)
		}
		return string(text)
	}
}

// refusing is a broker that is not there.
func refusing(string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", os.ErrDeadlineExceeded)}
}

// TestWaitsOnStderr: without a logger, what is waited for is told on standard error,
// after some seconds and not too often. (It changes os.Stderr, so it runs alone.)
func TestWaitsOnStderr(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*harebus.Config)
		lines  int
	}{
		"no logger":    {func(*harebus.Config) {}, 4}, // two connections, after 5 s and after 35
		"silent":       {func(cfg *harebus.Config) { cfg.Logger = zap.NewNop() }, 0},
		"sending only": {func(cfg *harebus.Config) { cfg.Queue = "" }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Dial = refusing
				c.change(&cfg)
				s, told := r.onStderr(cfg)
				short, cancel := context.WithTimeout(r.ctx, 4*time.Second)
				defer cancel()
				go func() { _ = s.Bus().Send(r.ctx, "out", order{1}) }()
				if cfg.Queue != "" {
					s.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
					go func() { _ = s.Start(r.ctx) }()
				}
				<-short.Done()
				if text := told(); text != "" {
					t.Errorf("told at once: %s", text)
				}
				time.Sleep(36 * time.Second)
				text := told()
				if n := strings.Count(text, "\n"); n != c.lines {
					t.Errorf("%d lines, want %d:\n%s", n, c.lines, text)
				}
				if c.lines > 0 {
					contains(t, text, "harebus", "publish connection", "connect to", "i/o timeout")
				}
			})
		})
	}
}

// TestEveryWaitIsTold: so are publishers that are blocked, confirms that do not come, a
// queue that is out of reach, a request without an answer, and handlers at the end.
// (It changes os.Stderr, so it runs alone.)
func TestEveryWaitIsTold(t *testing.T) {
	for name, wait := range map[string]struct {
		words []string
		begin func(r *rig, s *harebus.Setup, ch chan<- struct{})
	}{
		"blocked": {[]string{"blocks publishers", "low on memory"}, func(r *rig, s *harebus.Setup, _ chan<- struct{}) {
			r.broker.Block("low on memory")
			go func() { _ = s.Bus().Publish(r.ctx, "topic", order{1}, harebus.NonMandatory()) }()
		}},
		"confirms": {[]string{"confirms", "1 messages"}, func(r *rig, s *harebus.Setup, _ chan<- struct{}) {
			r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Drop})
			go func() { _ = s.Bus().Send(r.ctx, "orders", order{1}) }()
		}},
		"network": {[]string{"confirms", "the network takes no more"}, func(r *rig, s *harebus.Setup, _ chan<- struct{}) {
			r.bound(r.channel(), "out")
			r.tap.throttle(50_000)
			for range 4 {
				go func() {
					ctx, cancel := context.WithTimeoutCause(r.ctx, 20*time.Second, errNo)
					defer cancel()
					err := s.Bus().Send(ctx, "out", map[string]string{"large": strings.Repeat("x", 1<<20)}, harebus.WithType("Order"))
					if err == nil {
						r.t.Error("sent a megabyte in 20 s at 50 kB a second")
						return
					}
					contains(r.t, err.Error(), "the network takes no more", errNo.Error())
				}()
			}
		}},
		"queue": {[]string{"queue orders", "inaccessible"}, func(r *rig, s *harebus.Setup, _ chan<- struct{}) {
			r.broker.Inject(brokertest.Fault{
				On: "basic.consume", Times: -1, Do: brokertest.Raise, Code: 404, Text: "queue 'orders' is down or inaccessible",
			})
			r.broker.CutConnections()
		}},
		"request": {[]string{"broker to answer"}, func(r *rig, s *harebus.Setup, _ chan<- struct{}) {
			r.broker.Inject(brokertest.Fault{On: "queue.bind", Times: -1, Do: brokertest.Drop})
			go func() { _ = s.Subscribe(r.ctx, "some.topic") }()
		}},
		"handlers": {[]string{"handlers", "1 messages"}, func(r *rig, s *harebus.Setup, handling chan<- struct{}) {
			if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
				r.t.Fatal(err)
			}
			handling <- struct{}{}
			go func() { _ = s.Stop(r.ctx) }()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.QueueOptions.Type = "classic"
				s, told := r.onStderr(cfg)
				handling := make(chan struct{})
				s.HandleMessage("Order", func(ctx context.Context, _ *harebus.Bus, _ *harebus.Message) error {
					<-handling
					<-ctx.Done()
					return ctx.Err()
				})
				r.start(s)
				wait.begin(r, s, handling)
				time.Sleep(25 * time.Second)
				contains(t, told(), wait.words...)
			})
		})
	}
}
