// Command house measures the root package and fails when it has grown: `go run ./internal/house`, in the root of the
// repository. bars.go has what is measured and how much there may be.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	if err := run(os.Stdout, root, bars); err != nil {
		fmt.Fprintf(os.Stderr, "house: %v\n", err)
		os.Exit(1)
	}
}

// run measures the package in a folder, prints each figure beside its bar and its goal, and returns an error that names the
// bars which do not hold.
func run(w io.Writer, root string, bars []bar) error {
	h, err := read(root)
	if err != nil {
		return err
	}
	return report(w, h, bars)
}
