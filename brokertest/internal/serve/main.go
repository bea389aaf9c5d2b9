// Command serve runs a broker on a loopback port until it is interrupted, for
// clients in other processes such as another client library's own test suite.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/harebus/harebus/brokertest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	verbose := flag.Bool("v", false, "log what happens")
	flag.Parse()
	if err := run(*listen, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen string, verbose bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var opts []brokertest.Option
	if verbose {
		opts = append(opts, brokertest.WithLog(log.Printf))
	}
	b := brokertest.New(opts...)
	defer b.Close()
	addr, err := b.Listen(listen)
	if err != nil {
		return err
	}
	fmt.Printf("amqp://guest:guest@%s/\n", addr)
	<-ctx.Done()
	return nil
}
