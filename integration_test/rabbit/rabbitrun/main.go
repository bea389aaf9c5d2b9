// Command rabbitrun gets a broker the way the tests do, runs a command with AMQP_URL set to it, and takes the broker
// away again. Without a command it prints the URL and keeps the broker until it is interrupted.
//
//	go run ./rabbit/rabbitrun go test ./...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/harebus/harebus/integration_test/rabbit"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	node, err := rabbit.Start(ctx, rabbit.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "RabbitMQ %s (%s)\n", node.Version(), node.Kind())
	status := 0
	if len(args) == 0 {
		fmt.Println(node.URL())
		<-ctx.Done()
	} else {
		status = runWith(ctx, node.URL(), args)
	}
	if err := node.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(status, 1)
	}
	return status
}

// runWith returns the command's exit status. An interruption is passed on, and the command's end awaited.
func runWith(ctx context.Context, url string, args []string) int {
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Env = append(os.Environ(), "AMQP_URL="+url)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	err := command.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.Exited() {
		return ended.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
