// Command httpservice is a web service on the bus: its HTTP handlers publish, and
// it consumes in the background. Package service has the probes and the order of
// starting and stopping.
//
//	go run ./examples/httpservice     (AMQP_URL names another broker than the local one)
//	curl -i -d '{"id": 7}' http://127.0.0.1:8080/orders
//	curl -i http://127.0.0.1:8080/ready
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/service"
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

	server := &http.Server{Handler: routes(setup), ReadHeaderTimeout: 5 * time.Second}
	return service.Run(ctx, setup, server, service.WithListener(listener))
}

func routes(setup *harebus.Setup) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /", service.Probes(setup))
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var event OrderPlaced
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&event); err != nil {
			http.Error(w, "the body is not an order: "+err.Error(), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), maxWait)
		defer cancel()
		// Accepted means that the broker has the message, not that a service has
		// handled it.
		if err := setup.Bus().Publish(ctx, "examples.order.placed", event); err != nil {
			http.Error(w, "the order was not placed, or that is not known; try again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	return mux
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	logger := harebus.SlogLogger(slog.NewJSONHandler(os.Stderr, nil))
	err = run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, listener, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
