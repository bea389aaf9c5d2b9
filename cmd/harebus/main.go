// Command harebus sends, publishes and receives messages on the bus, and moves
// parked messages back to where they came from.
//
//	harebus send [flags] QUEUE BODY
//	harebus publish [flags] TOPIC BODY
//	harebus request [flags] QUEUE BODY
//	harebus listen [flags] QUEUE
//	harebus errors [TASK] [flags] [ID...|FILE]
//	harebus ui [flags]
//	harebus redrive [flags]
//	harebus replay -stream STREAM -queue QUEUE [flags]
//	harebus status [flags] [QUEUE...]
//	harebus top [flags] [QUEUE...]
//	harebus peek [flags] QUEUE
//	harebus control pause|resume|concurrency|rate|log [flags] QUEUE [N|LEVEL]
//	harebus doctor [flags] FILE
//	harebus topology plan|apply|prune|export [flags] FILE
//	harebus topology migrate [flags] FILE QUEUE
//	harebus contract show FILE
//	harebus contract diff [flags] OLD NEW
//	harebus deferred [list|cancel|restore] [flags] [TICKET...]
//	harebus parked list|retry|discard [flags] QUEUE [KEY]
//	harebus outbox schema|sql [flags] [TASK [ID...]]
//	harebus claims sweep [flags] DIRECTORY
//	harebus schedule ls|run|pause|resume|rm [flags] QUEUE [NAME]
//	harebus keys new|list [flags] FILE
//	harebus soak [flags]
//	harebus broker [flags]
//	harebus new service [flags] NAME
//	harebus completion bash|zsh|fish
//	harebus version
//
// The broker is the one of -url, else of the environment variable AMQP_URL,
// else amqp://guest:guest@127.0.0.1:5672/. A command line can be read by everybody
// on the machine; a password can be given in AMQP_URL, in AMQP_PASSWORD or with
// -password-file instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the reason is on stderr
	exitUsage  = 2 // the command line is wrong
	exitFault  = 3 // a request was given up by the service
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal has its usual effect
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// command is one subcommand.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, std stdio) int
}

var commands = []command{
	{"send", "send commands to a queue", runSend},
	{"publish", "publish events to a topic", runPublish},
	{"request", "send a command and print the reply", runRequest},
	{"listen", "print the messages of a queue", runListen},
	{"errors", "show, retry, edit, archive and export failed messages", runErrors},
	{"ui", "show all of this on a web page", runUI},
	{"replay", "publish events of a stream to a queue again", runReplay},
	{"redrive", "move parked messages back to their source", runRedrive},
	{"status", "ask the instances of services how they are", runStatus},
	{"top", "show what services handle, again and again", runTop},
	{"peek", "show what lies in a queue, and leave it there", runPeek},
	{"control", "pause and resume queues of services, and change their limits", runControl},
	{"doctor", "look for what is wrong with the broker, and say how to mend it", runDoctor},
	{"topology", "compare, declare, prune, migrate and export queues and bindings", runTopology},
	{"contract", "compare two versions of the AsyncAPI document of a service", runContract},
	{"deferred", "show, cancel and restore messages that wait for their time", runDeferred},
	{"parked", "show what an ordered queue has parked, and decide about it", runParked},
	{"outbox", "print SQL for the tables of package outbox", runOutbox},
	{"claims", "remove old bodies from a directory of package claim", runClaims},
	{"schedule", "show and change recurring schedules", runSchedule},
	{"keys", "make and show keys for sealing messages", runKeys},
	{"soak", "send for a while and account for every message", runSoak},
	{"broker", "run a broker in this process, for trying things out", runBroker},
	{"new", "make a service: a folder with code, tests and a Dockerfile", runNew},
	{"version", "print the versions of this command, Go and the AMQP client", runVersion},
}

// stdio is what a command reads and writes. err may be written to by several
// goroutines at once.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // err is one
	// collect, if not nil, is called with the flags of a command, which then does nothing.
	collect func(*flag.FlagSet)
}

// run is the whole command: it returns the exit code when ctx ends or the work
// is done.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	std := stdio{in: stdin, out: stdout, err: &lockedWriter{w: stderr}, terminal: isTerminal(stderr)}
	if len(args) == 0 {
		fmt.Fprintln(std.err, "harebus: a command is missing; harebus -h lists them")
		return exitUsage
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		printUsage(stdout)
		return exitOK
	}
	for _, c := range table() {
		if c.name == args[0] {
			return c.run(ctx, args[1:], std)
		}
	}
	fmt.Fprintf(std.err, "harebus: there is no command %q; harebus -h lists them\n", args[0])
	return exitUsage
}

// table has all commands. completion is not in commands, because it needs them.
func table() []command {
	return append(slices.Clip(commands), command{"completion", "print a script that has a shell complete commands and flags", runCompletion})
}

func printUsage(w io.Writer) {
	fmt.Fprintln(w, "usage: harebus COMMAND [flags] [arguments]")
	for _, c := range table() {
		fmt.Fprintf(w, "  %-10s  %s\n", c.name, c.summary)
	}
	fmt.Fprintln(w, "harebus COMMAND -h explains a command and its flags.")
}

// newFlags returns a flag set whose -h shows synopsis and explanation. The synopsis
// begins with the name of the command.
func newFlags(synopsis, explanation string) *flag.FlagSet {
	name, _, _ := strings.Cut(synopsis, " ")
	flags := flag.NewFlagSet("harebus "+name, flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: harebus %s\n\n%s\n\nflags:\n", synopsis, explanation)
		flags.PrintDefaults()
	}
	return flags
}

// parse reads the command line. When done is true the command must end with
// code: the usage was asked for, or the flags are wrong and that has been said.
func parse(flags *flag.FlagSet, args []string, std stdio) (code int, done bool) {
	if std.collect != nil {
		std.collect(flags)
		return exitOK, true
	}
	flags.SetOutput(io.Discard) // what to print where is decided below
	err := flags.Parse(args)
	if err == nil {
		err = empty(flags)
	}
	if err == nil {
		return exitOK, false
	}
	if errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(std.out)
		flags.Usage()
		return exitOK, true
	}
	return std.misuse(flags, err.Error()), true
}

// empty refuses a flag without a value, such as -source "$QUEUE" where QUEUE is not set: without it the command would
// act on more than was meant, or on something else.
func empty(flags *flag.FlagSet) (err error) {
	flags.Visit(func(f *flag.Flag) {
		value, ok := f.Value.(flag.Getter)
		if ok && value.Get() == "" && err == nil {
			err = fmt.Errorf("-%s is empty; give it a value, or leave it out", f.Name)
		}
	})
	return err
}

// misuse says what is wrong with the command line, in one line.
func (s stdio) misuse(flags *flag.FlagSet, problem string) int {
	problem = strings.ReplaceAll(strings.TrimPrefix(problem, "harebus: "), "\n", "; ")
	fmt.Fprintf(s.err, "%s: %s; %s -h explains\n", strings.Replace(flags.Name(), " ", ": ", 1), problem, flags.Name())
	return exitUsage
}

// arguments counts what follows the flags, and names what looks like a flag: flags come
// first.
func arguments(flags *flag.FlagSet) string {
	for _, arg := range flags.Args() {
		if len(arg) > 1 && arg[0] == '-' {
			return fmt.Sprintf("%d arguments: %q has to stand before the others", flags.NArg(), arg)
		}
	}
	return fmt.Sprintf("%d arguments", flags.NArg())
}

// fail says why the command could not do its work.
func (s stdio) fail(err error) int {
	fmt.Fprintln(s.err, err)
	return exitFailed
}
