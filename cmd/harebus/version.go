package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

const versionExplanation = `Prints the version of this command, of Go and of the AMQP client, a line each.`

// clientModule is the AMQP client.
const clientModule = "github.com/rabbitmq/amqp091-go"

// runVersion is the command version.
func runVersion(_ context.Context, args []string, std stdio) int {
	flags := newFlags("version", versionExplanation)
	if code, done := parse(flags, args, std); done {
		return code
	}
	if flags.NArg() > 0 {
		return std.misuse(flags, fmt.Sprintf("unexpected argument %q", flags.Arg(0)))
	}
	command, client := versions()
	fmt.Fprintf(std.out, "harebus %s\n%s %s/%s\namqp091-go %s\n", command, runtime.Version(), runtime.GOOS, runtime.GOARCH, client)
	return exitOK
}

// versions are those of the command and of the AMQP client. A command that was built
// from a working copy says from which commit.
func versions() (command, client string) {
	command, client = "unknown", "unknown"
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return command, client
	}
	command = build.Main.Version
	for _, m := range build.Deps {
		if m.Path == clientModule {
			client = m.Version
		}
	}
	return command, client
}
