package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/harebus/harebus/contract"
)

// exitBreaks says that a change of a contract breaks other services.
const exitBreaks = 3

const contractExplanation = `Works on AsyncAPI documents of version 3 in JSON, without a broker. A service writes its own
with package asyncapi, in a test; - is stdin.

show lists what the service of a document receives and sends.

diff compares two versions of a document, and marks with ! the changes that break services on
the other side: an operation is gone, or its queue, topic, exchange, type or content type has
another name; the service requires a field that it did not require, or takes less (type,
format, enum, bounds); or it sends less than was always there, or something that it did not
send. Give it the version that is in production and the new one:

	git show main:contract.json | harebus contract diff - contract.json

Exit codes: 0 nothing breaks, 1 the command has failed, 2 the command line is wrong, 3 a change
breaks others.`

// runContract is the command contract.
func runContract(_ context.Context, args []string, std stdio) int {
	flags := newFlags("contract show FILE\n       harebus contract diff [flags] OLD NEW", contractExplanation)
	asJSON := flags.Bool("json", false, "diff: print a JSON object")
	quiet := flags.Bool("breaking", false, "diff: print only the changes that break others")
	do := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	if fault := misusedContract(do, flags); fault != "" {
		return std.misuse(flags, fault)
	}
	documents := make([]*contract.Document, flags.NArg())
	for i, name := range flags.Args() {
		var err error
		if documents[i], err = readContract(name, std.in); err != nil {
			return std.fail(fmt.Errorf("harebus: contract %s: %s: %w", do, name, err))
		}
	}
	if do == "show" {
		for _, operation := range documents[0].Operations() {
			fmt.Fprintln(std.out, operation)
		}
		return exitOK
	}
	changes, err := contract.Diff(documents[0], documents[1])
	if err == nil {
		err = printChanges(std.out, changes, *asJSON, *quiet)
	}
	if err != nil {
		return std.fail(fmt.Errorf("harebus: contract diff: %w", err))
	}
	if len(changes) > 0 && changes[0].Breaking {
		return exitBreaks
	}
	return exitOK
}

// misusedContract says what is wrong with the command line.
func misusedContract(do string, flags *flag.FlagSet) string {
	switch {
	case do != "show" && do != "diff":
		return fmt.Sprintf("want show or diff, got %q", do)
	case do == "show" && flags.NArg() != 1:
		return "show needs one file, got " + arguments(flags)
	case do == "diff" && flags.NArg() != 2:
		return "diff needs two files, the older one first, got " + arguments(flags)
	case do == "diff" && flags.Arg(0) == "-" && flags.Arg(1) == "-":
		return "only one of the files can be -"
	}
	return ""
}

// readContract reads a document from a file; - is in.
func readContract(name string, in io.Reader) (*contract.Document, error) {
	if name == "-" {
		return contract.Read(in)
	}
	file, err := os.Open(name)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err // the name is in the error already
		}
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	return contract.Read(file)
}

func printChanges(w io.Writer, changes []contract.Change, asJSON, quiet bool) error {
	breaking := 0
	for breaking < len(changes) && changes[breaking].Breaking { // they come first
		breaking++
	}
	shown := changes
	if quiet {
		shown = changes[:breaking]
	}
	if asJSON {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(struct {
			Breaking int               `json:"breaking"`
			Changes  []contract.Change `json:"changes"`
		}{breaking, append([]contract.Change{}, shown...)})
	}
	for _, c := range shown {
		sign := " "
		if c.Breaking {
			sign = "!"
		}
		if _, err := fmt.Fprintf(w, "%s %s\n", sign, c); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "= %d changes, %d of them break others\n", len(changes), breaking)
	return err
}
