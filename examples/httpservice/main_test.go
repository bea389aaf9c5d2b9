package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

type process struct {
	t     *testing.T
	url   string
	lines chan string
	ended chan error
	stop  context.CancelFunc
}

func start(t *testing.T, broker *brokertest.Broker) *process {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(stop)
	s := &process{t: t, url: "http://" + listener.Addr().String(), lines: make(chan string, 10), ended: make(chan error, 1), stop: stop}
	go func() { s.ended <- run(ctx, harebus.Config{Dial: broker.Dial}, listener, lineWriter(s.lines)) }()
	return s
}

type lineWriter chan<- string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func (s *process) status(method, path, body string) int {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func (s *process) awaitConsumer(broker *brokertest.Broker) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	err := broker.WaitQueue(ctx, "examples.web", func(q brokertest.Queue) bool { return len(q.Consumers) > 0 })
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestOrderIsPlaced(t *testing.T) {
	broker := brokertest.New()
	defer broker.Close()
	s := start(t, broker)
	s.awaitConsumer(broker)

	if got := s.status("POST", "/orders", `{"id": 7}`); got != http.StatusAccepted {
		t.Errorf("an order: status %d", got)
	}
	if got, want := <-s.lines, "order 7 was placed\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := s.status("POST", "/orders", `7`); got != http.StatusBadRequest {
		t.Errorf("no order: status %d", got)
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	if n := len(broker.Connections()); n != 0 {
		t.Errorf("%d connections after the end", n)
	}
}

func TestProbesWithoutBroker(t *testing.T) {
	broker := brokertest.New()
	defer broker.Close()
	broker.Refuse(time.Hour)
	s := start(t, broker)

	if got := s.status("GET", "/live", ""); got != http.StatusOK {
		t.Errorf("alive while waiting for the broker: status %d", got)
	}
	if got := s.status("GET", "/ready", ""); got != http.StatusServiceUnavailable {
		t.Errorf("ready while waiting for the broker: status %d", got)
	}
	broker.Refuse(0)
	s.awaitConsumer(broker)
	deadline := time.Now().Add(10 * time.Second)
	for s.status("GET", "/ready", "") != http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatal("not ready although it consumes")
		}
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}
