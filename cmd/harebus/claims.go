package main

import (
	"context"
	"fmt"
	"time"

	"github.com/harebus/harebus/claim"
)

const claimsExplanation = `Removes the bodies of package claim that were stored longer ago than -older, and folders
that become empty. Give it more than the longest time that a message can wait: in a
queue, in a delay and in the error queue. A message whose body is gone cannot be handled.

  harebus claims sweep -older 720h /srv/claims`

// runClaims is the command claims.
func runClaims(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("claims sweep [flags] DIRECTORY", claimsExplanation)
	older := flags.Duration("older", 0, "how old the bodies are that go, at least an hour: `720h` is 30 days")
	if len(args) == 0 || args[0] != "sweep" {
		if code, done := parse(flags, args, std); done {
			return code
		}
		return std.misuse(flags, "the only task is sweep")
	}
	if code, done := parse(flags, args[1:], std); done {
		return code
	}
	switch {
	case flags.NArg() != 1:
		return std.misuse(flags, "give one directory")
	case *older < time.Hour:
		return std.misuse(flags, fmt.Sprintf("-older %v is less than an hour; give it more than the longest time that a message can wait", *older))
	}
	store, err := claim.OpenDir(flags.Arg(0))
	if err != nil {
		return std.fail(err)
	}
	defer store.Close()
	files, size, err := store.Sweep(ctx, time.Now().Add(-*older))
	fmt.Fprintf(std.out, "removed %d bodies, %d bytes\n", files, size)
	if err != nil {
		return std.fail(err)
	}
	return exitOK
}
