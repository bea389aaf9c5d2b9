package stream_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/stream"
)

// readerEnv has the URLs of the broker's nodes; a process of the test that has it is a reader.
const readerEnv = "HAREBUS_TEST_READER"

// counted is the event of the tests: the Nth.
type counted struct{ N int }

func (counted) MessageType() string { return "Counted" }

// read is the main function of a reader: it writes a line for each event that it handles, until it is told to stop.
func read() int {
	journal, err := os.OpenFile(os.Getenv("HAREBUS_TEST_JOURNAL"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		err = run(journal)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(journal *os.File) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	setup, err := harebus.New(readerConfig(strings.Fields(os.Getenv(readerEnv)), os.Getenv("HAREBUS_TEST_STREAM")))
	if err != nil {
		return err
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, e counted) error {
		_, err := fmt.Fprintf(journal, "%d %d\n", e.N, os.Getpid())
		time.Sleep(time.Millisecond)
		return err
	})
	return setup.Run(ctx)
}

func readerConfig(urls []string, name string) harebus.Config {
	return harebus.Config{
		Connect: harebus.ConnectConfig{URLs: urls}, Queue: name, Exchanges: harebus.ExchangeConfig{Topic: name + ".topic", Direct: "amq.direct"},
		ErrorQueue: harebus.ErrorQueueConfig{Name: name + ".error"},
		Consume:    harebus.ConsumeConfig{Concurrency: 1, Stream: &stream.Config{Group: "g"}},
	}
}
