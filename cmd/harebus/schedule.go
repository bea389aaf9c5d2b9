package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/session"
)

const scheduleExplanation = `Shows and changes the recurring schedules of the service whose listener queue is
QUEUE. The instance of the service that leads carries out what is asked:

	ls      list the schedules: when each was fired last and is due next, and what is
	        unusual: paused, running (without overlaps), not defined by the leader, in
	        the future (a clock was wrong)
	run     run a schedule now, once; its due times stay as they are
	pause   fire no due times, until resume; those that pass are left out
	resume  end a pause
	rm      remove the token of a schedule. One that the service still defines begins
	        anew, as a new one; so this mends a token from the future

When no instance runs, ls shows the tokens as they lie in the queue. The others need
an instance.

Exit codes: 0 done, 1 not done (stderr says why), 2 the command line is wrong.`

// The wire names and the bodies are those of package schedule, which is in a module of its own, because
// of its cron parser.
const (
	scheduleRequest = "harebus.schedule.request"
	scheduleToken   = "harebus.schedule.token"
)

// scheduled is the token of a schedule.
type scheduled struct {
	Name    string     `json:"name"`
	Last    time.Time  `json:"last"`
	Fresh   bool       `json:"fresh"`
	Running *time.Time `json:"running"`
	Paused  bool       `json:"paused"`
	Orphan  *time.Time `json:"orphan"`
	Cron    string     `json:"cron"`
	Zone    string     `json:"zone"`
	Next    *time.Time `json:"next"`
}

// scheduler is one run of the command schedule.
type scheduler struct {
	std      stdio
	broker   access.Broker
	queue    string // of the tokens
	do, name string
}

// runSchedule is the command schedule.
func runSchedule(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("schedule ls [flags] QUEUE\n       harebus schedule run|pause|resume|rm [flags] QUEUE NAME", scheduleExplanation)
	s := &scheduler{std: std}
	connect := connectionFlags(flags)
	flags.StringVar(&s.queue, "tokens", "", "`queue` of the tokens (default: QUEUE with .schedules)")
	timeout := flags.Duration("timeout", 30*time.Second, "give up `after` this long without an answer")
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		s.do, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	want := 2
	if s.do == "ls" {
		want = 1
	}
	switch {
	case !slices.Contains([]string{"ls", "run", "pause", "resume", "rm"}, s.do):
		return std.misuse(flags, fmt.Sprintf("want ls, run, pause, resume or rm, got %q", s.do))
	case flags.NArg() != want:
		return std.misuse(flags, fmt.Sprintf("%s needs %d arguments, got %s", s.do, want, arguments(flags)))
	case *timeout <= 0:
		return std.misuse(flags, "-timeout must be more than 0")
	}
	if s.name = flags.Arg(1); s.queue == "" {
		s.queue = flags.Arg(0) + ".schedules"
	}
	var err error
	if s.broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := s.run(ctx); err != nil {
		return std.fail(fmt.Errorf("harebus: schedule %s: %w", s.do, err))
	}
	return exitOK
}

func (s *scheduler) run(ctx context.Context) error {
	tokens, led, err := s.look(ctx)
	switch {
	case err != nil:
		return err
	case led:
		return s.ask(ctx)
	case s.do != "ls":
		return errors.New("no instance of the service runs; start one, because it has to carry this out")
	}
	return s.print(tokens, nil, "no instance runs; these are the tokens in the queue")
}

// look says whether somebody consumes from the queue. If not, it reads the tokens and leaves them there.
func (s *scheduler) look(ctx context.Context) (tokens []scheduled, led bool, err error) {
	link, err := s.broker.Link("schedule")
	if err != nil {
		return nil, false, err
	}
	defer link.Close()
	err = link.With(ctx, func(on *session.Session) error {
		return on.WithChannel(ctx, func(ch *amqp.Channel) error {
			found, err := ch.QueueDeclarePassive(s.queue, true, false, false, false, nil)
			if isMissing(err) {
				return fmt.Errorf("there is no queue %q; correct the name of the service's queue, or name that of the tokens with -tokens", s.queue)
			}
			if led = found.Consumers > 0; led || err != nil || s.do != "ls" {
				return err
			}
			tokens, err = s.read(ctx, ch, found.Messages)
			return err
		})
	})
	return tokens, led, err
}

// read reads the tokens among n messages. The broker takes them back when the channel is closed.
func (s *scheduler) read(ctx context.Context, ch *amqp.Channel, n int) ([]scheduled, error) {
	deliveries, err := ch.Consume(s.queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	latest := map[string]scheduled{}
	for range n {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return nil, errors.New("the broker has cancelled the consumer")
			}
			var t scheduled
			if d.Type == scheduleToken && json.Unmarshal(d.Body, &t) == nil && !t.Last.Before(latest[t.Name].Last) {
				latest[t.Name] = t
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	var tokens []scheduled
	for _, t := range latest {
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b scheduled) int { return strings.Compare(a.Name, b.Name) })
	return tokens, nil
}

// ask asks the leader.
func (s *scheduler) ask(ctx context.Context) error {
	setup, err := sender(s.broker, s.std)
	if err != nil {
		return err
	}
	defer func() { _ = setup.Close() }() // every outcome is known by then
	reply, err := harebus.Request[*harebus.Message](ctx, setup.Bus(), s.queue,
		map[string]string{"do": s.do, "name": s.name}, harebus.WithType(scheduleRequest))
	if err != nil {
		return err
	}
	var answer struct {
		Leader  string          `json:"leader"`
		Error   string          `json:"error"`
		Tokens  []scheduled     `json:"tokens"`
		Defined map[string]bool `json:"defined"`
	}
	if err := json.Unmarshal(reply.Body, &answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch {
	case answer.Error != "":
		return errors.New(answer.Error)
	case s.do == "ls":
		return s.print(answer.Tokens, answer.Defined, "led by "+answer.Leader)
	}
	return nil
}

// print prints a table. defined is nil if nobody leads.
func (s *scheduler) print(tokens []scheduled, defined map[string]bool, head string) error {
	w := tabwriter.NewWriter(s.std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tCRON\tZONE\tLAST\tNEXT\tREMARKS") //nolint:errcheck // Flush reports it
	for _, t := range tokens {
		last := "never"
		if !t.Fresh {
			last = t.Last.UTC().Format(time.RFC3339)
		}
		next := "-"
		if t.Next != nil {
			next = t.Next.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%q\t%q\t%q\t%s\t%s\t%s\n", t.Name, t.Cron, t.Zone, last, next, //nolint:errcheck // likewise
			strings.Join(t.remarks(defined != nil && !defined[t.Name]), ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(s.std.err, "%s\n", printable([]byte(head)))
	return nil
}

// remarks are what is unusual.
func (t *scheduled) remarks(undefined bool) (remarks []string) {
	if t.Paused {
		remarks = append(remarks, "paused")
	}
	if t.Running != nil {
		remarks = append(remarks, "runs since "+t.Running.UTC().Format(time.RFC3339))
	}
	if undefined || t.Orphan != nil {
		remarks = append(remarks, "not defined by the leader")
	}
	if time.Until(t.Last) > time.Minute {
		remarks = append(remarks, "in the future: a clock was wrong; rm mends it")
	}
	return remarks
}
