package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/internal/doctor"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

const uiExplanation = `Shows failed and deferred messages, services, the topology and the doctor on a web page, has failed
messages retried, redirected, edited and archived there, and queues paused, until it is interrupted. It prints an address
that works once, in one browser. It listens on this machine only.

The page is the command harebus errors with a mouse: an action is about the messages of a look
and no others, asks for their number, and is in the audit trail. -read-only has no actions.
Archived messages go into files in the folder of -archive, from which harebus errors restore
puts them back. With -topology, the file that a service prints (see harebus topology -h), the
page compares it with the broker, and examines the broker.

	harebus ui -read-only
	harebus ui -archive /var/lib/orders -topology orders.json`

// desk is one run of the command ui.
type desk struct {
	config        page.Config
	broker        access.Broker
	want          topology.Topology
	file, api     string
	listen        string
	prefix        string
	timeout       time.Duration
	errorQueue    string
	most          int
	noLock, quiet bool
}

// runUI is the command ui.
func runUI(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("ui [flags]", uiExplanation)
	d := &desk{}
	connect := connectionFlags(flags)
	d.flags(flags)
	if code, done := parse(flags, args, std); done {
		return code
	}
	err := d.validate(flags)
	if err == nil {
		d.broker, err = connect.broker(std)
	}
	if err == nil {
		err = d.configure(std)
	}
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	if err := d.serve(ctx, std); err != nil {
		return std.fail(fmt.Errorf("harebus: ui: %w", err))
	}
	return exitOK
}

func (d *desk) flags(flags *flag.FlagSet) {
	flags.StringVar(&d.listen, "listen", "127.0.0.1:0", "loopback `address` to listen on; port 0 takes a free one")
	flags.BoolVar(&d.config.ReadOnly, "read-only", false, "have no actions on the page")
	flags.BoolVar(&d.config.NoBodies, "no-bodies", false, "do not show the bodies of messages")
	flags.StringVar(&d.config.Archive, "archive", "", "`folder` for messages that are archived and removed; without it none can be")
	flags.IntVar(&d.config.Rate, "rate", 100, "move `N` messages a second, unless the operator says otherwise")
	flags.StringVar(&d.file, "topology", "", "`file` with the topology of a service, for the plan and the doctor")
	flags.StringVar(&d.api, "api", "", "`address` of the management plugin, http://host:15672, for the plan and the doctor")
	flags.StringVar(&d.errorQueue, "error-queue", "error", "`queue` to work with")
	flags.StringVar(&d.prefix, "prefix", "PikaBus.", "`start` of the names of the standard headers")
	flags.DurationVar(&d.timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from it")
	flags.IntVar(&d.most, "most", 100_000, "refuse to look at a queue with more than `N` messages: the broker needs up to 5 kB of memory for each")
	flags.BoolVar(&d.noLock, "no-lock", false, "do not keep a second operator out; for users who may not declare queues named harebus.operator.*")
	flags.BoolVar(&d.quiet, "no-audit", false, "write no audit trail")
}

func (d *desk) validate(flags *flag.FlagSet) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if d.config.Rate < 1 || d.timeout <= 0 || d.most <= 0 {
		return errors.New("a number is out of range")
	}
	if d.api != "" && d.file == "" {
		return errors.New("-api needs -topology")
	}
	if err := topology.ValidName("queue", d.errorQueue); err != nil {
		return err
	}
	if d.config.Archive != "" {
		if info, err := os.Stat(d.config.Archive); err != nil {
			return fmt.Errorf("-archive: %w", err)
		} else if !info.IsDir() {
			return fmt.Errorf("-archive %q is not a folder", d.config.Archive)
		}
	}
	return loopback(d.listen)
}

// configure fills in the config of the page.
func (d *desk) configure(std stdio) error {
	uri, err := amqp.ParseURI(d.broker.URLs[0])
	if err != nil {
		return errors.New("an address is not of the form amqp://user:password@host:port/vhost")
	}
	c := &d.config
	c.Broker = fmt.Sprintf("%s@%s:%d, virtual host %s", uri.Username, uri.Host, uri.Port, uri.Vhost)
	c.Errors.Connect = harebus.ConnectConfig{URLs: d.broker.URLs, TLS: d.broker.TLS, ExternalAuth: d.broker.ExternalAuth}
	c.Errors.Name, c.Errors.HeaderPrefix, c.Errors.Timeout, c.Errors.Most = d.errorQueue, d.prefix, d.timeout, d.most
	c.Errors.NoLock, c.Errors.NoAudit, c.Errors.Log, c.Errors.Operator = d.noLock, d.quiet, d.broker.Log, whoActs()+" (ui)"
	c.Deferred = deferred.Options{Broker: d.broker, HeaderPrefix: d.prefix, Timeout: d.timeout}
	c.Schedules = d.schedules(std)
	c.Services = services.Options{Broker: d.broker, Operator: c.Errors.Operator, Wait: 2 * time.Second, Quiet: 250 * time.Millisecond, Timeout: d.timeout}
	c.Peer = func(content *errorqueue.Content) *page.Peer {
		f := foreignOf(messageOf(content), d.prefix)
		if f == nil {
			return nil
		}
		return &page.Peer{Dialect: f.Dialect, Payload: string(f.Payload), Unreadable: f.Unreadable}
	}
	if d.file == "" {
		return nil
	}
	if d.want, err = readTopology(d.file, std.in); err != nil {
		return err
	}
	for _, q := range d.want.Queues {
		switch {
		case scheduled.Holds(q):
			c.ScheduleQueues = append(c.ScheduleQueues, q.Name)
		case listened(q, d.want, d.errorQueue):
			c.ServiceQueues = append(c.ServiceQueues, q.Name)
		}
	}
	vhost, api, err := reach(d.broker, d.api)
	if err != nil {
		return err
	}
	c.Plan = func(ctx context.Context) (p *plan.Plan, err error) {
		err = d.linked(ctx, func(ctx context.Context, link *session.Link) error {
			return link.With(ctx, func(on *session.Session) error {
				p, err = plan.Make(ctx, survey.Survey{On: on}, api, d.want)
				return err
			})
		})
		return p, err
	}
	c.Doctor = func(ctx context.Context) (r *doctor.Report, err error) {
		err = d.linked(ctx, func(ctx context.Context, link *session.Link) error {
			r, err = doctor.Examine(ctx, doctor.Options{
				Link: link, API: api, Address: d.api, Want: d.want, File: d.file, VHost: vhost, ErrorQueue: d.errorQueue, Now: time.Now,
			})
			return err
		})
		return r, err
	}
	return nil
}

// listened says whether a service handles the messages of a queue of its topology, as far as the name tells. What an ordered queue has
// beside itself is no queue of which an instance answers.
func listened(q topology.Queue, all topology.Topology, errorQueue string) bool {
	for _, other := range all.Queues {
		if q.Name == order.ParkingQueue(other.Name) || q.Name == order.MembersQueue(other.Name) {
			return false
		}
	}
	return q.Name != errorQueue && !strings.HasPrefix(q.Name, "harebus.") && !q.Exclusive && q.Type != topology.Stream
}

// schedules sees recurring schedules with connections of its own.
func (d *desk) schedules(std stdio) func(context.Context, string) (*scheduled.State, error) {
	return func(ctx context.Context, queue string) (found *scheduled.State, err error) {
		setup, err := sender(d.broker, std)
		if err != nil {
			return nil, err
		}
		defer func() { _ = setup.Close() }() // every outcome is known by then
		err = d.linked(ctx, func(ctx context.Context, link *session.Link) error {
			client := scheduled.Client{Link: link, Bus: setup.Bus(), Queue: queue}
			found, err = client.Look(ctx)
			return err
		})
		return found, err
	}
}

// linked calls fn with a connection of its own.
func (d *desk) linked(ctx context.Context, fn func(context.Context, *session.Link) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("gave up after %v", d.timeout))
	defer cancel()
	link, err := d.broker.Link("ui")
	if err != nil {
		return err
	}
	defer link.Close()
	return fn(ctx, link)
}

// serve serves the page until ctx ends. An action that runs then finishes the messages in hand.
func (d *desk) serve(ctx context.Context, std stdio) error {
	listener, err := net.Listen("tcp", d.listen)
	if err != nil {
		return err
	}
	site := page.New(d.config, listener.Addr().String())
	const patience, largestHeader = 10 * time.Second, 64 << 10
	server := &http.Server{Handler: site, ReadHeaderTimeout: patience, ReadTimeout: patience, MaxHeaderBytes: largestHeader}
	if _, err := fmt.Fprintf(std.out, "open %s\nThe address works once. Ctrl-C ends this.\n", site.Address()); err != nil {
		return errors.Join(err, listener.Close())
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		site.Close()
		err = server.Close()
		<-ended
	}
	site.Close()
	return err
}
