// Command httpservice is a web service on the bus: its HTTP handlers publish, and
// it consumes in the background. It shows the probes and the order of stopping.
//
//	go run ./examples/httpservice     (AMQP_URL names another broker than the local one)
//	curl -i -d '{"id": 7}' http://127.0.0.1:8080/orders
//	curl -i http://127.0.0.1:8080/readyz
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// OrderPlaced is an event.
type OrderPlaced struct {
	ID int `json:"id"`
}

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// maxWait is how long a client waits for the broker at most.
const maxWait = 5 * time.Second

func run(ctx context.Context, cfg harebus.Config, listener net.Listener, out io.Writer) error {
	cfg.Queue = "examples.web"
	cfg.Subscriptions = []string{"examples.order.placed"}
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, event OrderPlaced) error {
		fmt.Fprintf(out, "order %d was placed\n", event.ID)
		return nil
	})

	// HTTP first: Start waits for a broker that is not up yet, and all the while
	// the process is alive, and not ready.
	server := &http.Server{Handler: routes(ctx, setup), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = setup.Start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-served: // it should not end by itself
			served <- http.ErrServerClosed
		}
	}

	// The order of stopping: no new requests, the requests under way finish –
	// they may still publish – and then the bus stops: handlers finish, what
	// they sent is confirmed, the connections close.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*maxWait)
	defer cancel()
	err = errors.Join(err, server.Shutdown(finish))
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return errors.Join(err, setup.Close())
}

func routes(stopping context.Context, setup *harebus.Setup) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", probe(setup.Live))
	mux.HandleFunc("GET /readyz", probe(func() error {
		if stopping.Err() != nil {
			return errors.New("stopping")
		}
		return setup.Ready()
	}))
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var event OrderPlaced
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&event); err != nil {
			http.Error(w, "the body is not an order: "+err.Error(), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), maxWait)
		defer cancel()
		// Accepted means that the broker has it, not that somebody handled it.
		if err := setup.Bus().Publish(ctx, "examples.order.placed", event); err != nil {
			http.Error(w, "the order was not placed, or that is not known; try again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	return mux
}

func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	logger := zap.Must(zap.NewProduction())
	err = run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, listener, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
