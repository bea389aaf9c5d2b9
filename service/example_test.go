package service_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/service"
)

// The probes of a service that runs, and of one that was stopped.
func ExampleProbes() {
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, string) error { return nil }, harebus.WithType("PlaceOrder"))
	probes := service.Probes(setup)
	ask := func(path string) {
		answer := httptest.NewRecorder()
		probes.ServeHTTP(answer, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil))
		fmt.Println(path, answer.Code)
	}

	if err := setup.Start(context.Background()); err != nil {
		log.Fatal(err)
	}
	ask("/live")
	ask("/ready")
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	ask("/live")
	ask("/ready")
	// Output:
	// /live 200
	// /ready 200
	// /live 503
	// /ready 503
}
