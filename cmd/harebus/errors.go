package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/errorqueue"
)

const errorsExplanation = `Works with the messages in the error queue. Without a task it shows them in groups:
messages of one type that failed in one queue in the same way.

	groups    show the groups (also the default)
	list      show the messages, a line each
	show      show one message: body, headers, history
	retry     move messages back to where they came from, to be handled again
	redirect  the same, but to the queue of -to
	edit      print what changes, send a message again with the body in the file -body, and
	          remove the original
	discard   move messages into the file -archive, or into the queue -archive-queue
	restore   put the messages of an archive back: those of FILE, or those of the
	          queue -archive-queue
	export    write messages to stdout, a JSON object a line, and leave them there
	import    put the messages of an export into the error queue
	watch     show the groups, and again whenever something changes
	test      write a Go test that handles the message again
	journal   read the journal FILE of an interrupted run: which messages may be there twice

ID is the id of a message, of its parking, or of a group. -type, -source, -kind, -older,
-newer, -header, -in-body and -in-error narrow the selection; all of them must match.

An action says how many messages it is about, and asks for this number. In a script, give
it with -yes. It moves these messages and no others, also if more come meanwhile. A
message leaves the error queue when the broker has confirmed it in the other one, or when
the archive is on disk: an interruption can leave it in both, never in neither. Ctrl-C
finishes the messages in hand. A journal keeps what was sent; to go on after a crash,
give the same command -journal with its file.

The error queues of MassTransit (NAME_error, NAME_skipped), NServiceBus, Wolverine and Spring AMQP are read, too: -error-queue names
one. What their bus wrote about the failure is the error, and the way home if it says one.

A look takes the messages out of the queue for a moment, and gives them back in their order.
While one operator works with the queue, a second one is refused. Each action is in the
audit trail, the queue harebus.audit.

Exit codes: 0 done, 1 something was left or went wrong, 2 the command line is wrong.`

// errorsTask is one run of the command errors.
type errorsTask struct {
	std     stdio
	do      string
	cfg     errorqueue.Config
	filter  errorqueue.Filter
	options errorqueue.Options
	args    []string

	older, newer  time.Duration
	headers       wantedHeaders
	json, all     bool
	dry           bool
	yes           int
	body, archive string
	edited        []byte // the new body
	archiveQueue  string
	every         time.Duration
	pkg, setup    string
}

// errorsTasks are the tasks, by name: how they run, and how many arguments they take.
var errorsTasks = map[string]struct {
	run        func(*errorsTask, context.Context) error
	least, top int // how many arguments
}{
	"groups":   {(*errorsTask).groups, 0, many},
	"list":     {(*errorsTask).list, 0, many},
	"show":     {(*errorsTask).show, 1, 1},
	"retry":    {(*errorsTask).retry, 0, many},
	"redirect": {(*errorsTask).retry, 0, many},
	"edit":     {(*errorsTask).edit, 1, 1},
	"discard":  {(*errorsTask).discard, 0, many},
	"restore":  {(*errorsTask).restore, 0, many},
	"export":   {(*errorsTask).export, 0, many},
	"import":   {(*errorsTask).importFile, 1, 1},
	"watch":    {(*errorsTask).watch, 0, many},
	"test":     {(*errorsTask).test, 1, 1},
	"journal":  {(*errorsTask).unclear, 1, 1},
}

const many = 1000

// errUnfinished says that an action has not done everything; the output says what.
var errUnfinished = errors.New("not everything was done")

// runErrors is the command errors.
func runErrors(ctx context.Context, args []string, std stdio) int {
	t := &errorsTask{std: std, do: "groups"}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		t.do, args = args[0], args[1:]
	}
	flags := newFlags("errors ["+strings.Join(slices.Sorted(maps.Keys(errorsTasks)), "|")+"] [flags] [ID...|FILE]", errorsExplanation)
	connect := connectionFlags(flags)
	t.flags(flags)
	task, ok := errorsTasks[t.do]
	if !ok {
		return std.misuse(flags, fmt.Sprintf("want one of %s, got %q", strings.Join(slices.Sorted(maps.Keys(errorsTasks)), ", "), t.do))
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	t.args = flags.Args()
	if err := t.validate(task.least, task.top, flags); err != nil {
		return std.misuse(flags, err.Error())
	}
	broker, err := connect.broker(std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	t.cfg.Connect = harebus.ConnectConfig{URLs: broker.URLs, TLS: broker.TLS, ExternalAuth: broker.ExternalAuth}
	t.cfg.Log, t.cfg.Operator = broker.Log, whoActs()
	switch err := task.run(t, ctx); {
	case errors.Is(err, errUnfinished):
		return exitFailed
	case err != nil:
		return std.fail(fmt.Errorf("harebus: errors %s: %w", t.do, err))
	}
	return exitOK
}

func (t *errorsTask) flags(flags *flag.FlagSet) {
	flags.StringVar(&t.cfg.Name, "error-queue", "error", "`queue` to work with")
	flags.StringVar(&t.cfg.HeaderPrefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&t.cfg.Timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from it")
	flags.IntVar(&t.cfg.Most, "most", 100_000, "refuse to look at a queue with more than `N` messages: the broker needs up to 5 kB of memory for each")
	flags.BoolVar(&t.cfg.NoLock, "no-lock", false, "do not keep a second operator out; for users who may not declare queues named harebus.operator.*")
	flags.BoolVar(&t.cfg.NoAudit, "no-audit", false, "write no audit trail")

	flags.StringVar(&t.filter.Type, "type", "", "only messages of this `type`")
	flags.StringVar(&t.filter.Queue, "source", "", "only messages that failed in this `queue`")
	flags.StringVar(&t.filter.Kind, "kind", "", "only failures of this `kind`: panic, timeout, error, or a reason code such as bad-payload")
	flags.DurationVar(&t.older, "older", 0, "only messages that were parked longer ago than this `duration`")
	flags.DurationVar(&t.newer, "newer", 0, "only messages that were parked within this `duration`")
	flags.Var(&t.headers, "header", "only messages with this header, `name=value`; may be repeated")
	flags.StringVar(&t.filter.Body, "in-body", "", "only messages with this `text` in the body")
	flags.StringVar(&t.filter.Failure, "in-error", "", "only messages with this `text` in the error")

	flags.BoolVar(&t.json, "json", false, "print JSON, an object a line")
	flags.BoolVar(&t.all, "all", false, "show all groups, not only the 20 largest")
	flags.IntVar(&t.yes, "yes", -1, "do not ask, if the selection has `N` messages; otherwise nothing is done")
	flags.BoolVar(&t.dry, "dry-run", false, "only say what would be done")
	flags.StringVar(&t.options.To, "to", "", "move the messages to this `queue`")
	flags.IntVar(&t.options.Rate, "rate", 100, "move `N` messages a second; -1 is as many as possible")
	flags.IntVar(&t.options.Refusals, "refusals", defaultRefusals, "stop when the broker has refused `N` messages")
	flags.StringVar(&t.options.Journal, "journal", "", "`file` that keeps what was sent, and with which to go on after a crash (default: one in the folder for temporary files, removed when all went well)")
	flags.StringVar(&t.body, "body", "", "`file` with the new body for edit; - is stdin")
	flags.StringVar(&t.archive, "archive", "", "`file` to which discard adds the messages")
	flags.StringVar(&t.archiveQueue, "archive-queue", "", "existing `queue` to which discard moves the messages, or from which restore takes them")
	flags.DurationVar(&t.every, "every", 2*time.Second, "how often watch asks: a `duration`")
	flags.StringVar(&t.pkg, "package", "main", "`package` of the test that is written")
	flags.StringVar(&t.setup, "setup", "newSetup", "`function` of the package that makes the service: func(harebus.Config) (*harebus.Setup, error)")
}

// wantedHeaders collects -header.
type wantedHeaders map[string]string

func (h *wantedHeaders) String() string { return "" }

// Set adds a header.
func (h *wantedHeaders) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("want name=value")
	}
	if *h == nil {
		*h = wantedHeaders{}
	}
	if _, twice := (*h)[name]; twice {
		return fmt.Errorf("%q is there twice", name)
	}
	(*h)[name] = value
	return nil
}

// validate checks the command line.
func (t *errorsTask) validate(least, most int, flags *flag.FlagSet) error {
	looksLikeFlag := func(arg string) bool { return len(arg) > 1 && arg[0] == '-' }
	n := len(t.args)
	switch {
	case slices.ContainsFunc(t.args, looksLikeFlag):
		return errors.New("got " + arguments(flags))
	case n < least || n > most:
		return fmt.Errorf("%s takes %d argument, got %s", t.do, most, arguments(flags))
	case t.cfg.Timeout <= 0 || t.cfg.Most <= 0 || t.options.Refusals <= 0 || t.options.Rate == 0 || t.older < 0 || t.newer < 0 || t.every <= 0:
		return errors.New("a number is out of range")
	}
	var err error
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "older" && t.older == 0 || f.Name == "newer" && t.newer == 0 {
			err = fmt.Errorf("-%s is 0, which would be as if it were not there", f.Name)
		}
	})
	if err = cmp.Or(err, t.lacks()); err != nil {
		return err
	}
	now := time.Now()
	if t.older > 0 {
		t.filter.Before = now.Add(-t.older)
	}
	if t.newer > 0 {
		t.filter.After = now.Add(-t.newer)
	}
	t.filter.Headers = t.headers
	if t.do != "journal" && !t.fromFile() {
		t.filter.IDs = t.args
	}
	return nil
}

// lacks says which flag the task needs or does not have.
func (t *errorsTask) lacks() error {
	switch {
	case t.do == "redirect" && t.options.To == "":
		return errors.New("redirect needs -to")
	case t.options.To != "" && !slices.Contains([]string{"retry", "redirect", "edit"}, t.do):
		return fmt.Errorf("-to is not for %s", t.do)
	case t.do == "discard" && (t.archive == "") == (t.archiveQueue == ""):
		return errors.New("discard needs -archive or -archive-queue: nothing is thrown away")
	case t.do == "restore" && t.archiveQueue == "" && len(t.args) != 1:
		return errors.New("restore needs one file, or -archive-queue")
	case t.fromFile() && t.narrowed():
		return fmt.Errorf("%s puts back all messages of the file: -type, -source, -kind, -older, -newer, -header, -in-body and -in-error are not for it", t.do)
	case t.fromFile() && (t.options.Journal != "" || t.options.Refusals != defaultRefusals):
		return fmt.Errorf("-journal and -refusals are not for %s: repeat it after an interruption, it leaves out what is there", t.do)
	case t.do == "edit" && t.body == "":
		return errors.New("edit needs -body")
	}
	return nil
}

// fromFile says whether the task puts back the messages of a file.
func (t *errorsTask) fromFile() bool {
	return t.do == "import" || t.do == "restore" && t.archiveQueue == ""
}

// narrowed says whether a flag narrows the selection.
func (t *errorsTask) narrowed() bool {
	f := &t.filter
	return f.Type+f.Queue+f.Kind+f.Body+f.Failure != "" || t.older > 0 || t.newer > 0 || len(t.headers) > 0
}

const defaultRefusals = 10

// whoActs is the operator in the audit trail.
func whoActs() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// with opens the error queue for fn.
func (t *errorsTask) with(ctx context.Context, fn func(*errorqueue.Queue) error) error {
	return errorqueue.With(ctx, t.cfg, fn)
}

// look finds the selection. Ids that nothing has are an error.
func (t *errorsTask) look(ctx context.Context, q *errorqueue.Queue) (*errorqueue.Index, error) {
	x, err := q.Look(ctx, t.filter)
	if err == nil && len(x.Messages) == 0 {
		err = t.noneOf(x.Seen)
	}
	return x, err
}

// noneOf is the error if ids were given, and none of so many messages has one.
func (t *errorsTask) noneOf(seen int) error {
	if len(t.filter.IDs) == 0 {
		return nil
	}
	return fmt.Errorf("no message among %d has %s", seen, t.conditions())
}

// conditions are what a message needs if ids were given.
func (t *errorsTask) conditions() string {
	quoted := make([]string, len(t.filter.IDs))
	for i, id := range t.filter.IDs {
		quoted[i] = fmt.Sprintf("%q", id)
	}
	return fmt.Sprintf("the id %s, or the other conditions do not match", strings.Join(quoted, " or "))
}
