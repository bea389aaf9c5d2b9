package service_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/service"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

type order struct{ ID int }

func (order) MessageType() string { return "Order" }

// rig is a service with its broker and a client.
type rig struct {
	t       *testing.T
	broker  *brokertest.Broker
	setup   *harebus.Setup
	mux     *http.ServeMux
	client  *http.Client
	url     string
	handled chan int
	stop    context.CancelFunc
	ended   chan error
}

func newRig(t *testing.T, change func(*harebus.Config)) *rig {
	t.Helper()
	r := &rig{t: t, broker: brokertest.New(), mux: http.NewServeMux(), handled: make(chan int, 10), ended: make(chan error, 1)}
	r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	t.Cleanup(r.broker.Close)
	cfg := harebus.Config{Dial: r.broker.Dial, Queue: "orders"}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r.setup, err = harebus.New(cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Queue != "" {
		harebus.Handle(r.setup, func(_ context.Context, _ *harebus.Bus, o order) error {
			r.handled <- o.ID
			return nil
		})
	}
	r.mux.Handle("/", service.Probes(r.setup))
	return r
}

func (r *rig) run(opts ...service.Option) net.Listener {
	r.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.url = "http://" + listener.Addr().String()
	ctx, stop := context.WithCancel(r.t.Context())
	r.stop = stop
	server := &http.Server{Handler: r.mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		r.ended <- service.Run(ctx, r.setup, server, append(opts, service.WithListener(listener))...)
	}()
	return listener
}

func (r *rig) get(path string) (status int, text string) {
	r.t.Helper()
	response, err := r.client.Get(r.url + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// expect asks until a probe has the status.
func (r *rig) expect(path string, want int, part string) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		status, text := r.get(path)
		if status == want && strings.Contains(text, part) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %d %q, want %d with %q", path, status, text, want, part)
		}
	}
}

// closed asks until the server takes no more requests.
func (r *rig) closed() {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		response, err := r.client.Get(r.url + "/live")
		if err != nil {
			return
		}
		response.Body.Close()
		if time.Now().After(deadline) {
			r.t.Fatal("the server goes on taking requests")
		}
	}
}

func (r *rig) end() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(20 * time.Second):
		r.t.Fatal("it does not end")
		return nil
	}
}

// TestProbesTellWhy: the reason is there, the password is not, and only GET is answered.
func TestProbesTellWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(cfg *harebus.Config) {
		cfg.URL = "amqp://guest:guest@brokertest:5672"
	})
	r.broker.Refuse(time.Hour)
	r.run()
	r.expect("/live", http.StatusOK, "ok")
	r.expect("/ready", http.StatusServiceUnavailable, "connection refused")
	if _, text := r.get("/ready"); strings.Contains(text, "guest") {
		t.Errorf("a password in %q", text)
	}
	response, err := r.client.Post(r.url+"/live", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", response.StatusCode)
	}
	r.broker.Refuse(0)
	r.expect("/ready", http.StatusOK, "ok")
	r.stop()
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if r.setup.Live() == nil {
		t.Error("the setup has not been stopped")
	}
}

// TestRequestsFinishBeforeTheBusStops: readiness fails, a new request is still taken during the pause, and one
// that is under way can publish, also when the server takes no new ones any more.
func TestRequestsFinishBeforeTheBusStops(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	begun, goOn := make(chan struct{}), make(chan struct{})
	r.mux.HandleFunc("/order", func(w http.ResponseWriter, req *http.Request) {
		close(begun)
		<-goOn
		if err := r.setup.Bus().Send(req.Context(), "orders", order{7}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	r.run(service.WithPause(2 * time.Second))
	r.expect("/ready", http.StatusOK, "ok")
	answer := make(chan error, 1)
	go func() {
		response, err := r.client.Get(r.url + "/order")
		if err == nil {
			if response.Body.Close(); response.StatusCode != http.StatusOK {
				err = errors.New(response.Status)
			}
		}
		answer <- err
	}()
	<-begun
	r.stop()
	r.expect("/ready", http.StatusServiceUnavailable, "stopping")
	r.expect("/live", http.StatusOK, "ok")
	r.closed()
	close(goOn)
	if err := <-answer; err != nil {
		t.Error("the request under way:", err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if got := <-r.handled; got != 7 {
		t.Errorf("handled %d", got)
	}
	if n := len(r.broker.Connections()); n != 0 {
		t.Errorf("%d connections left", n)
	}
}

// TestStuckRequest: one that does not end is reported, and the bus is stopped all the same.
func TestStuckRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	begun := make(chan struct{})
	r.mux.HandleFunc("/stuck", func(_ http.ResponseWriter, req *http.Request) {
		close(begun)
		<-req.Context().Done()
	})
	r.run(service.WithRequestTimeout(50 * time.Millisecond))
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if response, err := r.client.Get(r.url + "/stuck"); err == nil {
			response.Body.Close()
		}
	}()
	<-begun
	r.stop()
	if err := r.end(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "requests have not finished") {
		t.Error(err)
	}
	select {
	case <-answered:
	case <-time.After(5 * time.Second): // the client waits for 20 s
		t.Error("the connection of the stuck request is still open")
	}
	if r.setup.Live() == nil {
		t.Error("the setup has not been stopped")
	}
}

// TestEitherEndsTheOther: what cannot go on takes the other along, and its error is the result.
func TestEitherEndsTheOther(t *testing.T) {
	t.Parallel()
	t.Run("setup", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(cfg *harebus.Config) { cfg.URL = "amqp://guest:wrong@brokertest:5672" })
		listener := r.run(service.WithPause(time.Hour))
		if err := r.end(); !errors.Is(err, amqp.ErrCredentials) || strings.Contains(err.Error(), "wrong") {
			t.Error(err)
		}
		if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			t.Error("it still listens")
		}
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, nil)
		listener := r.run(service.WithPause(time.Hour))
		r.expect("/ready", http.StatusOK, "ok")
		listener.Close()
		if err := r.end(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if r.setup.Live() == nil {
			t.Error("the setup has not been stopped")
		}
	})
	t.Run("address-in-use", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, nil)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		server := &http.Server{Addr: listener.Addr().String(), ReadHeaderTimeout: time.Second}
		if err := service.Run(t.Context(), r.setup, server); err == nil || !strings.Contains(err.Error(), "listen") {
			t.Error(err)
		}
	})
}

// TestSenderOnly: a setup without a queue has nothing to start.
func TestSenderOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(cfg *harebus.Config) { cfg.Queue = "" })
	r.run()
	r.expect("/ready", http.StatusOK, "ok")
	r.stop()
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
