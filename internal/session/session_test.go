package session_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test in virtual time, with a broker.
func bubble(t *testing.T, fn func(t *testing.T, b *brokertest.Broker)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		fn(t, b)
	})
}

// config reaches the broker at each of the hosts.
func config(b *brokertest.Broker, hosts ...string) session.Config {
	c := session.Config{
		Name: "test", Dial: b.Dial, BackOff: wait.Default, Log: zap.NewNop(), Waits: wait.Teller{Log: zap.NewNop()},
		Timeout: 10 * time.Second, RequestTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, Heartbeat: 5 * time.Second,
	}
	for _, host := range hosts {
		c.Addresses = append(c.Addresses, amqp.URI{Scheme: "amqp", Host: host, Port: 5672, Username: "guest", Password: "guest", Vhost: "/"})
	}
	return c
}

// linked makes a link that the test's end closes.
func linked(t *testing.T, cfg session.Config) *session.Link {
	t.Helper()
	l := session.NewLink("link", session.NewDialer(cfg), 0)
	t.Cleanup(l.Close)
	return l
}

// up waits for a session.
func up(t *testing.T, l *session.Link) *session.Session {
	t.Helper()
	s, err := l.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lose ends a session and waits until the link knows.
func lose(s *session.Session) {
	s.Abort()
	<-s.Done()
}

// TestAddresses: an address that cannot be reached is tried once and then comes last, and a
// lost connection is followed by one to the address whose trouble is the oldest.
func TestAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		cfg := config(b, "dead", "one", "two")
		var dead atomic.Int32
		cfg.Dial = func(network, address string) (net.Conn, error) {
			if address == "dead:5672" {
				dead.Add(1)
				return nil, errors.New("nobody there")
			}
			return b.Dial(network, address)
		}
		l := linked(t, cfg)
		last := up(t, l)
		if last.User() != "guest" {
			t.Errorf("the user is %q", last.User())
		}
		for range 20 {
			lose(last)
			next := up(t, l)
			if next.Address() != 3-last.Address() {
				t.Fatalf("address %d follows %d", next.Address(), last.Address())
			}
			last = next
		}
		if n := dead.Load(); n > 1 {
			t.Errorf("the dead address was tried %d times", n)
		}
	})
}

// TestNoAddress: when none can be reached, the error names them all, and no password.
func TestNoAddress(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		cfg := config(b, "one", "two")
		cfg.Addresses[0].Password, cfg.AddressNote = "secret", " (a note)"
		cfg.Dial = func(string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := linked(t, cfg).Session(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		for _, part := range []string{"connect to one:5672 (a note)", "connect to two:5672", "nobody there"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q, want %q in it", err, part)
			}
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q", err)
		}
	})
}

// TestGreets: only a server that takes the connection and says nothing does not greet.
func TestGreets(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		release := make(chan struct{})
		defer close(release)
		closing := func(string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			return ours, theirs.Close()
		}
		mute := func(string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = theirs.Read(make([]byte, 8))
				_, _ = theirs.Read(make([]byte, 1)) // until it is closed
			}()
			return ours, nil
		}
		for name, test := range map[string]struct {
			dial func(string, string) (net.Conn, error)
			want bool
		}{
			"broker": {b.Dial, true}, "closing": {closing, true}, "mute": {mute, false},
			"refused": {func(string, string) (net.Conn, error) { return nil, errors.New("refused") }, true},
			"hanging": {func(string, string) (net.Conn, error) { <-release; return nil, errors.New("late") }, true},
		} {
			cfg := config(b, "host")
			cfg.Dial = test.dial
			began := time.Now()
			if got := session.NewDialer(cfg).Greets(t.Context(), 0); got != test.want {
				t.Errorf("%s: greets %v", name, got)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
		}
	})
}

// TestRefused: before its first session a link gives up when it is refused, and begins
// anew when it is asked again. Later it goes on.
func TestRefused(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		cfg := config(b, "host")
		var wrong atomic.Bool
		cfg.Credentials = func(context.Context) (string, string, error) {
			if wrong.Load() {
				return "guest", "wrong", nil
			}
			return "guest", "guest", nil
		}
		l := linked(t, cfg)
		wrong.Store(true)
		for range 2 {
			if _, err := l.Session(t.Context()); !session.Permanent(err) || t.Context().Err() != nil {
				t.Fatalf("refused with %v", err)
			}
		}
		wrong.Store(false)
		s := up(t, l)
		wrong.Store(true)
		lose(s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.Session(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "user name") {
			t.Errorf("after the first session: %v", err)
		}
		if refused, err := l.RefusedFor(); refused < 30*time.Second || !session.Permanent(err) {
			t.Errorf("refused for %v: %v", refused, err)
		}
		wrong.Store(false)
		up(t, l)
		if refused, err := l.RefusedFor(); refused != 0 || err != nil {
			t.Errorf("still refused for %v: %v", refused, err)
		}
	})
}

// TestTooFewChannels: the link refuses a broker that allows fewer than it needs.
func TestTooFewChannels(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		l := session.NewLink("link", session.NewDialer(config(b, "host")), 1<<16)
		defer l.Close()
		if _, err := l.Session(t.Context()); !session.Permanent(err) || !strings.Contains(err.Error(), "channel_max") {
			t.Errorf("error %v", err)
		}
	})
}

// TestWith: a function is called again when its connection ends, and not when it is refused.
func TestWith(t *testing.T) {
	bubble(t, func(t *testing.T, b *brokertest.Broker) {
		l := linked(t, config(b, "host"))
		cuts := b.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.CutBefore, Times: 3})
		declare := func(passive bool) (calls int, err error) {
			err = l.With(t.Context(), func(s *session.Session) error {
				calls++
				return s.WithChannel(t.Context(), func(ch *amqp.Channel) error {
					ask := ch.QueueDeclare
					if passive {
						ask = ch.QueueDeclarePassive
					}
					_, err := ask("orders", true, false, false, false, nil)
					return err
				})
			})
			return calls, err
		}
		var refusal *amqp.Error
		if calls, err := declare(true); calls != 4 || cuts.Fired() != 3 || !errors.As(err, &refusal) || refusal.Code != amqp.NotFound {
			t.Errorf("%d calls, %d cuts, %v", calls, cuts.Fired(), err)
		}
		if calls, err := declare(false); calls != 1 || err != nil {
			t.Errorf("%d calls, %v", calls, err)
		}
		if _, err := l.Up(); err != nil {
			t.Errorf("the session has ended: %v", err)
		}
		l.Close()
		if _, err := declare(false); !errors.Is(err, session.ErrStopped) {
			t.Errorf("on a closed link: %v", err)
		}
	})
}
