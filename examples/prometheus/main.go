// Command prometheus is a service that serves its metrics to Prometheus, by OpenTelemetry. It sends orders to
// itself. Some of them fail at their first attempt, and a few for good, so that every panel of the board in
// deploy/grafana has something to show.
//
//	cd examples/prometheus && go run .     (AMQP_URL names a broker; without it, one runs in this process)
//	curl localhost:9464/metrics
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/otelbus"
)

// PlaceOrder is a command.
type PlaceOrder struct{ ID int }

// MessageType is the wire name.
func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// OrderPlaced is an event.
type OrderPlaced struct{ ID int }

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// OptionalEvent allows that nobody has subscribed.
func (OrderPlaced) OptionalEvent() bool { return true }

// place handles an order: each tenth fails at its first attempt, each fiftieth always.
func place(ctx context.Context, bus *harebus.Bus, order PlaceOrder) error {
	switch {
	case order.ID%50 == 0:
		return errors.New("there is no such article")
	case order.ID%10 == 0 && harebus.Incoming(ctx).Attempt == 1:
		return errors.New("no connection to the database")
	default:
		return bus.Publish(ctx, "orders.placed", OrderPlaced(order))
	}
}

// observed makes a setup whose metrics the default registry of Prometheus has.
func observed(cfg harebus.Config) (*harebus.Setup, error) {
	exporter, err := prometheus.New()
	if err != nil {
		return nil, err
	}
	telemetry, err := otelbus.New(otelbus.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))})
	if err != nil {
		return nil, err
	}
	cfg.Queue, cfg.Observers = "orders", []harebus.Observer{telemetry}
	cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(100 * time.Millisecond) }}
	setup, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	harebus.Handle(setup, place)
	return setup, nil
}

// serve answers scrapes until ctx ends.
func serve(ctx context.Context, address string, out io.Writer) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	fmt.Fprintf(out, "http://%s/metrics\n", listener.Addr())
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// run sends orders every 20 ms, and serves the metrics at an address, until ctx ends.
func run(ctx context.Context, cfg harebus.Config, address string, out io.Writer) error {
	setup, err := observed(cfg)
	if err != nil {
		return err
	}
	defer setup.Close()
	if err := setup.Start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		defer cancel() // without the page there is nothing to see
		served <- serve(ctx, address, out)
	}()
	sent := send(ctx, setup.Bus())
	cancel()
	return errors.Join(sent, <-served)
}

// send sends orders until ctx ends.
func send(ctx context.Context, bus *harebus.Bus) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for id := 1; ; id++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := bus.Send(ctx, "orders", PlaceOrder{ID: id}); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func main() {
	address := flag.String("address", "localhost:9464", "where to serve the metrics")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	cfg := harebus.Config{URL: os.Getenv("AMQP_URL")}
	end := func() {}
	if cfg.URL == "" {
		broker := brokertest.New()
		cfg.Dial, end = broker.Dial, broker.Close
	}
	err := run(ctx, cfg, *address, os.Stdout)
	stop()
	end()
	if err != nil {
		log.Fatal(err)
	}
}
