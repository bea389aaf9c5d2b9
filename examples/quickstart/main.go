// Command quickstart shows in a few seconds what harebus does, step by step. It
// needs nothing but Go: without -url and AMQP_URL it runs on a broker inside this
// process. With either, it does the same on that RabbitMQ.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -url amqp://guest:guest@127.0.0.1:5672/
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

const (
	patience     = 10 * time.Second // to reach the broker
	stepPatience = 30 * time.Second // for each step to happen
)

func main() {
	url := flag.String("url", "", "run on the broker at this `address` (default AMQP_URL, else a broker in this process)")
	flag.Parse()
	if *url == "" {
		*url = os.Getenv("AMQP_URL") // not the flag's default, which -h prints, for it may hold a password
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *url, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run tells the whole story on the broker at url. Only an empty url means a broker
// in this process; if the broker at url does not answer, run fails.
func run(ctx context.Context, url string, out io.Writer) error {
	var dial func(network, address string) (net.Conn, error)
	where := "the RabbitMQ you named"
	if url == "" {
		broker := brokertest.New()
		defer broker.Close()
		url, dial = broker.URL(), broker.Dial
		where = "a broker inside this process (-url or AMQP_URL: the same on your RabbitMQ)"
	}
	n := &narrator{out: out, start: time.Now()}
	n.say("harebus quickstart, on %s", where)

	w, err := openWindow(ctx, url, dial)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.clean(); err != nil { // queues that an interrupted run has left
		return err
	}
	c := newCast(harebus.Config{URL: url, Dial: dial}, n)
	if err := c.start(ctx); err != nil {
		return err
	}
	err = c.play(ctx, w)
	if stopErr := c.stop(); err == nil {
		err = stopErr
	}
	if err != nil {
		return err
	}
	return w.clean()
}
