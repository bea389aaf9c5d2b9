package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/internal/manifest"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// exitDiffers says that the broker is not as the file wants it.
const exitDiffers = 3

const topologyExplanation = `Compares a topology with the broker, and brings the broker nearer to it. FILE is the JSON
of a topology, - is stdin. A service writes its own:

	json.NewEncoder(os.Stdout).Encode(setup.Topology())

plan prints each difference, down to the arguments, and what ends it; it changes nothing. It
needs the configure permission for the names, because AMQP tells the properties of an object
only to somebody who may declare it. AMQP does not tell bindings and policies: with -api, the
address of the management plugin, bindings are compared too.

apply declares what is missing. If something exists with other properties, or cannot be
seen, it changes nothing.

prune removes bindings of the file's queues that are wanted no more: those that an older
file has (-before), and with -api and -surplus all that FILE does not have. Without -yes it only
prints them.

migrate replaces a queue that has another type or other arguments, while services go on;
harebus topology migrate -h explains it.

export prints the topology as definitions for rabbitmqctl import_definitions, or (-format
kubernetes) as manifests for RabbitMQ's topology operator.

Exit codes: 0 the broker is as FILE wants it, 1 the command has failed, 2 the command line
is wrong, 3 there are differences.`

// blueprint is one run of the command topology.
type blueprint struct {
	std          stdio
	do           string
	broker       access.Broker
	want, before topology.Topology
	api          *management.Client
	replace      bool
	json, yes    bool
	surplus      bool
	format       string
	vhost        string
	cluster      manifest.Cluster
	timeout      time.Duration
	// attached are the bindings of replaced exchanges that are not made again yet. A lost connection begins apply
	// anew, and then the broker does not tell them any more.
	attached []topology.Binding
}

// runTopology is the command topology.
func runTopology(ctx context.Context, args []string, std stdio) int {
	if len(args) > 0 && args[0] == "migrate" {
		return runMigrate(ctx, args[1:], std)
	}
	flags := newFlags("topology plan|apply|prune|export [flags] FILE\n       harebus topology migrate [flags] FILE QUEUE", topologyExplanation)
	b := &blueprint{std: std}
	connect := connectionFlags(flags)
	api := flags.String("api", "", "`address` of the management plugin, http://host:15672; user and password are those of the broker unless it has its own")
	delays := flags.Bool("delays", false, "add all delay queues, and the exit of each queue of the file, as Setup.Init declares them")
	before := flags.String("before", "", "prune: the `file` of the version that ran before")
	flags.BoolVar(&b.surplus, "surplus", false, "prune: all bindings of the queues that the file does not have; needs -api")
	flags.BoolVar(&b.replace, "replace-exchanges", false, "apply: delete exchanges that have other properties and declare them anew; what is published in that moment finds none; all their bindings are made again; needs -api")
	flags.BoolVar(&b.yes, "yes", false, "prune: do it")
	flags.BoolVar(&b.json, "json", false, "plan: print a JSON object")
	flags.StringVar(&b.format, "format", "definitions", "export: `definitions` or kubernetes")
	flags.StringVar(&b.cluster.Name, "cluster", "rabbitmq", "export: `name` of the RabbitmqCluster")
	flags.StringVar(&b.cluster.Namespace, "namespace", "", "export: `namespace` of the RabbitmqCluster (default: that of the manifests)")
	flags.DurationVar(&b.timeout, "timeout", time.Minute, "give up `after` this long")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		b.do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	if fault := b.misuse(flags, *before, *api); fault != "" {
		return std.misuse(flags, fault)
	}
	var err error
	if b.want, err = readTopology(flags.Arg(0), std.in); err != nil {
		return std.misuse(flags, err.Error())
	}
	if *before != "" {
		if b.before, err = readTopology(*before, std.in); err != nil {
			return std.misuse(flags, err.Error())
		}
	}
	if *delays {
		b.want = withDelays(b.want)
	}
	if b.broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	if b.vhost, b.api, err = reach(b.broker, *api); err != nil {
		return std.misuse(flags, err.Error())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, fmt.Errorf("gave up after %v", b.timeout))
	defer cancel()
	code, err := b.run(ctx)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: topology %s: %w", b.do, err))
	}
	return code
}

// misuse says what is wrong with the command line.
func (b *blueprint) misuse(flags *flag.FlagSet, before, api string) string {
	switch {
	case !slices.Contains([]string{"plan", "apply", "prune", "export"}, b.do):
		return fmt.Sprintf("want plan, apply, prune, migrate or export, got %q", b.do)
	case flags.NArg() != 1:
		return fmt.Sprintf("%s needs one file, got %s", b.do, arguments(flags))
	case b.timeout <= 0:
		return "-timeout must be more than 0"
	case b.foreign(flags) != "":
		return b.foreign(flags)
	case b.do == "prune" && before == "" && !b.surplus:
		return "prune needs -before, or -surplus with -api"
	case b.surplus && api == "":
		return "-surplus needs -api: AMQP does not tell bindings"
	case b.replace && api == "":
		return "-replace-exchanges needs -api: the bindings of an exchange go with it, and AMQP does not tell them"
	case b.format != "definitions" && b.format != "kubernetes":
		return fmt.Sprintf("-format %q is neither definitions nor kubernetes", b.format)
	}
	return ""
}

// foreign says which flag is for another verb: its explanation begins with that.
func (b *blueprint) foreign(flags *flag.FlagSet) (fault string) {
	flags.Visit(func(f *flag.Flag) {
		if verb, _, ok := strings.Cut(f.Usage, ": "); ok && fault == "" && verb != b.do && slices.Contains([]string{"plan", "apply", "prune", "export"}, verb) {
			fault = fmt.Sprintf("-%s is for %s, not for %s", f.Name, verb, b.do)
		}
	})
	return fault
}

// readTopology reads a file of a topology; - is in. One without any object is refused: nothing differs from it, so a program that
// has written a wrong file would pass for one whose broker is as wanted.
func readTopology(name string, in io.Reader) (topology.Topology, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return topology.Topology{}, err
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	t, err := topology.Read(in)
	if err == nil && len(t.Exchanges)+len(t.Queues)+len(t.Bindings) == 0 {
		err = fmt.Errorf("%s has no exchange, no queue and no binding, so it is not the topology of a service", name)
	}
	return t, err
}

// withDelays adds what Setup.Init declares beside the topology of Start.
func withDelays(t topology.Topology) topology.Topology {
	var delays topology.Delays
	parts := []topology.Topology{t, delays.Topology(), delays.Cancelled()}
	for _, q := range t.Queues {
		parts = append(parts, delays.Exit("", q.Name))
	}
	return topology.Join(parts...)
}

// reach returns the virtual host of a broker, and the client of its management API if there
// is an address.
func reach(broker access.Broker, address string) (vhost string, _ *management.Client, err error) {
	uri, err := amqp.ParseURI(broker.URLs[0])
	if err != nil {
		return "", nil, errors.New("an address is not of the form amqp://user:password@host:port/vhost")
	}
	if address == "" {
		return uri.Vhost, nil, nil
	}
	api, err := management.New(address, uri.Username, uri.Password, uri.Vhost)
	return uri.Vhost, api, err
}

// run does what was asked for and returns the exit code.
func (b *blueprint) run(ctx context.Context) (code int, err error) {
	if b.do == "export" {
		if b.format == "kubernetes" {
			return exitOK, manifest.Kubernetes(b.std.out, b.want, b.vhost, b.cluster)
		}
		return exitOK, manifest.Definitions(b.std.out, b.want, b.vhost)
	}
	link, err := b.broker.Link("topology")
	if err != nil {
		return exitFailed, err
	}
	defer link.Close()
	defer func() { err = errors.Join(err, b.tellAttached()) }()
	err = link.With(ctx, func(on *session.Session) (err error) {
		s := survey.Survey{On: on}
		switch b.do {
		case "plan":
			code, err = b.plan(ctx, s)
		case "apply":
			code, err = b.apply(ctx, s)
		default:
			code, err = b.prune(ctx, s)
		}
		return err
	})
	return code, err
}

func (b *blueprint) plan(ctx context.Context, s survey.Survey) (int, error) {
	p, err := plan.Make(ctx, s, b.api, b.want)
	if err != nil {
		return exitFailed, err
	}
	if err := b.print(p); err != nil {
		return exitFailed, err
	}
	if len(p.Differences) > 0 {
		return exitDiffers, nil
	}
	return exitOK, nil
}

func (b *blueprint) print(p *plan.Plan) error {
	if b.json {
		out := json.NewEncoder(b.std.out)
		out.SetIndent("", "  ")
		return out.Encode(p)
	}
	var text strings.Builder
	for _, d := range p.Differences {
		fmt.Fprintf(&text, "%s %s: %s  (%s)\n", signs[d.Action], d.Object, d.Text, d.Remedy)
	}
	fmt.Fprintf(&text, "= %d objects as wanted, %d differences\n", p.Same, len(p.Differences))
	for _, unseen := range p.Unseen {
		fmt.Fprintf(&text, "? not compared: %s\n", unseen)
	}
	_, err := io.WriteString(b.std.out, text.String())
	return err
}

var signs = map[plan.Action]string{
	plan.Create: "+", plan.Bind: "+", plan.Migrate: "~", plan.Replace: "~", plan.Surplus: "-", plan.Absent: "!", plan.Hidden: "?",
}

func (b *blueprint) apply(ctx context.Context, s survey.Survey) (int, error) {
	p, err := plan.Make(ctx, s, b.api, b.want)
	if err != nil {
		return exitFailed, err
	}
	stuck := slices.DeleteFunc(p.Stuck(), func(d plan.Difference) bool { return b.replace && d.Action == plan.Replace })
	if len(stuck) > 0 {
		p.Differences = stuck
		if err := b.print(p); err != nil {
			return exitFailed, err
		}
		_, err := fmt.Fprintln(b.std.err, "harebus: topology apply: nothing was changed, because apply cannot end these differences")
		return exitDiffers, err
	}
	if err := b.declare(ctx, s, p); err != nil {
		return exitFailed, err
	}
	created := slices.DeleteFunc(p.Differences, func(d plan.Difference) bool { return d.Action == plan.Surplus })
	_, err = fmt.Fprintf(b.std.out, "declared %d objects; %d of them were missing\n", len(b.want.Exchanges)+len(b.want.Queues)+len(b.want.Bindings), len(created))
	return exitOK, err
}

// declare declares everything. It replaces the exchanges that differ, and makes their bindings again, also when not all
// could be replaced.
func (b *blueprint) declare(ctx context.Context, s survey.Survey, p *plan.Plan) error {
	attached, err := p.Attached(ctx, b.api)
	if err != nil {
		return err
	}
	for _, one := range attached {
		fmt.Fprintf(b.std.err, "is deleted with its exchange, and made again: %s\n", plan.Describe(one))
	}
	b.attached = topology.Join(topology.Topology{Bindings: b.attached}, topology.Topology{Bindings: attached}).Bindings
	failed := p.Replace(ctx, s, b.want)
	if failed == nil {
		failed = plan.Apply(ctx, s, b.want)
	}
	left, refused, err := plan.Restore(ctx, s, b.attached)
	b.attached = left
	return errors.Join(failed, refused, err)
}

// tellAttached prints how to make the bindings that are not made again.
func (b *blueprint) tellAttached() error {
	if len(b.attached) == 0 {
		return nil
	}
	encoded, err := json.Marshal(topology.Topology{Bindings: b.attached})
	if err == nil {
		_, err = fmt.Fprintf(b.std.err, "%d bindings were not made again; a user who may make them does it with:\nharebus topology apply - <<'END'\n%s\nEND\n", len(b.attached), encoded)
	}
	return err
}

func (b *blueprint) prune(ctx context.Context, s survey.Survey) (int, error) {
	former := plan.Former(b.before, b.want)
	if b.surplus {
		p, err := plan.Make(ctx, s, b.api, b.want)
		if err != nil {
			return exitFailed, err
		}
		former = topology.Join(topology.Topology{Bindings: former}, topology.Topology{Bindings: p.Surplus}).Bindings
	}
	verb := "would remove"
	if b.yes {
		if err := plan.Prune(ctx, s, former); err != nil {
			return exitFailed, err
		}
		verb = "removed"
	}
	var text strings.Builder
	for _, one := range former {
		fmt.Fprintf(&text, "- %s: %s\n", plan.Describe(one), verb)
	}
	fmt.Fprintf(&text, "%s %d bindings\n", verb, len(former))
	_, err := io.WriteString(b.std.out, text.String())
	if len(former) > 0 && !b.yes {
		return exitDiffers, err
	}
	return exitOK, err
}
