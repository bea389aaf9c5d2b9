package main

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/harebus/harebus/brokertest"
)

const brokerExplanation = `Runs a broker in this process and prints its URL, until it is interrupted. It
speaks AMQP 0-9-1 to any client on this machine and keeps everything in memory:
for trying things out and for tests, not for data that matters. Anybody who can
reach the port may do everything, so it listens on loopback only.`

// runBroker is the command broker.
func runBroker(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("broker [flags]", brokerExplanation)
	address := flags.String("listen", "127.0.0.1:5672", "loopback `address` to listen on; port 0 takes a free one")
	verbose := flags.Bool("v", false, "log what happens on stderr")
	if code, done := parse(flags, args, std); done {
		return code
	}
	if flags.NArg() > 0 {
		return std.misuse(flags, fmt.Sprintf("unexpected argument %q", flags.Arg(0)))
	}
	if err := loopback(*address); err != nil {
		return std.misuse(flags, err.Error())
	}
	var opts []brokertest.Option
	if *verbose {
		opts = append(opts, brokertest.WithLog(log.New(std.err, "", log.LstdFlags|log.Lmicroseconds).Printf))
	}
	broker := brokertest.New(opts...)
	defer broker.Close()
	at, err := broker.Listen(*address)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: broker: %w", err))
	}
	if _, err := fmt.Fprintf(std.out, "amqp://guest:guest@%s/\n", at); err != nil {
		return std.fail(fmt.Errorf("harebus: broker: print the URL: %w", err))
	}
	<-ctx.Done()
	return exitOK
}

// loopback refuses addresses that other machines can reach.
func loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("-listen %q is not of the form host:port", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("-listen %q is not a loopback address such as 127.0.0.1", address)
	}
	return nil
}
