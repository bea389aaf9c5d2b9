package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// start runs the program until the test ends, and returns the address of its metrics.
func start(ctx context.Context, t *testing.T) string {
	t.Helper()
	broker := brokertest.New()
	ctx, cancel := context.WithCancel(ctx)
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, harebus.Config{Dial: broker.Dial}, "127.0.0.1:0", write)
		_ = write.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		broker.Close()
	})
	url, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(url)
}

func page(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
