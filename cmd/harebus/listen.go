package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

const listenExplanation = `Makes QUEUE with -subscribe or -create and prints every message that comes as one
JSON object a line, until it is stopped. What it prints is removed from the queue, so
it takes from a queue that is there already only with -take: its messages are then lost
to the service that owns it. To see what lies in an error queue and leave it there:
harebus redrive -dry-run -json. A queue that listen has made stays when it ends.

An object has queue, exchange, routing_key, redelivered, attempt, properties, headers, body. A
body that is not JSON is printed in base64, with "body_base64": true. Header
values that JSON has no form for are objects such as {"$bytes": "base64"},
{"$timestamp": "2026-11-21T08:46:59Z"} or {"$decimal": "1.50"}.

A sealed body is printed as it came, unless -keys has the key. Messages that cannot be opened with
it are moved to the error queue.

A message is acknowledged after it was printed and replied to. A failing one
(-fail) is printed at every attempt; it is tried again up to 5 times, with
growing pauses, and then moved to the error queue. Logs go to stderr.

The first SIGINT or SIGTERM ends the command when the messages in hand are done,
the second at once, saying what was abandoned and will be delivered again.

Exit codes: 0 stopped in order, 1 not so, or the queue cannot be had, 2 the
command line is wrong.`

// drainTimeout is how long messages in hand may take to be done.
const drainTimeout = 30 * time.Second

// listener is one run of listen.
type listener struct {
	std    stdio
	log    *zap.Logger
	broker access.Broker
	quota  *quota
	fail   int
	reply  json.RawMessage

	mu     sync.Mutex // guards std.out
	broken chan error // printing has failed
}

// topicsFlag collects -subscribe.
type topicsFlag []string

func (t *topicsFlag) String() string { return strings.Join(*t, ",") }

// Set adds one topic.
func (t *topicsFlag) Set(topic string) error {
	if err := topology.ValidTopic(topic); err != nil {
		return err
	}
	*t = append(*t, topic)
	return nil
}

// runListen is the command listen.
func runListen(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("listen [flags] QUEUE", listenExplanation)
	var cfg harebus.Config
	var topics topicsFlag
	connect := connectionFlags(flags)
	flags.Var(&topics, "subscribe", "make the queue and bind `topic` to it (* is one word, # any number); may be repeated")
	create := flags.Bool("create", false, "make the queue without any topic")
	take := flags.Bool("take", false, "take messages out of a queue that is there already")
	kind := flags.String("type", "quorum", "`type` of the queue, quorum or classic; classic takes over the queue of a PikaBus service")
	reply := flags.String("reply", "", "reply with this `JSON` to messages that name an address for it")
	fail := flags.Int("fail", 0, "fail the first `N` attempts of every message; -1 fails all")
	flags.IntVar(&cfg.Consume.Concurrency, "concurrency", 10, "handle `N` messages at once")
	flags.IntVar(&cfg.Consume.Prefetch, "prefetch", 0, "take up to `N` messages from the broker in advance (default 5 × concurrency)")
	count := flags.Int("count", 0, "exit after `N` messages have been handled or moved to the error queue")
	base := flags.Duration("retry-base", 2*time.Second, "`pause` before the first retry; it doubles each time, up to a minute")
	var sealed sealedFlags
	flags.StringVar(&sealed.keys, "keys", "", "open sealed messages, and verify signed ones, with the keys of this `file`")
	flags.Var(&sealed.headers, "bound", "with -keys: this `header` is bound to messages, as the senders' policies say; may be repeated")
	flags.StringVar(&cfg.ErrorQueue.Name, "error-queue", "error", "`queue` for messages that keep failing")
	if code, done := parse(flags, args, std); done {
		return code
	}
	switch {
	case flags.NArg() != 1:
		return std.misuse(flags, fmt.Sprintf("want one queue after the flags, got %s", arguments(flags)))
	case *kind != string(topology.Quorum) && *kind != string(topology.Classic):
		return std.misuse(flags, fmt.Sprintf("-type %q is neither quorum nor classic", *kind))
	case *reply != "" && !isJSON([]byte(*reply)):
		return std.misuse(flags, "-reply is not JSON")
	case *fail < -1 || *count < 0 || *base <= 0 || cfg.Consume.Concurrency < 1 || cfg.Consume.Prefetch < 0:
		return std.misuse(flags, "a number is out of range")
	}
	l := &listener{
		std: std, log: newLogger(std.err, zapcore.InfoLevel), quota: newQuota(*count), fail: *fail,
		reply: json.RawMessage(*reply), broken: make(chan error, 1),
	}
	var err error
	if cfg.Payload.Guards, err = sealed.guards(); err != nil {
		return std.misuse(flags, err.Error())
	}
	if l.broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	l.broker.Apply(&cfg)
	cfg.Queue, cfg.Subscriptions, cfg.QueueOptions.Type = flags.Arg(0), topics, topology.QueueType(*kind)
	if *count > 0 {
		cfg.Consume.Concurrency = min(cfg.Consume.Concurrency, *count)
	}
	cfg.Retry.BackOff = func() backoff.BackOff { return retryBackOff(*base) }
	cfg.Payload.Codecs = []harebus.Codec{verbatim{}}
	cfg.Logger, cfg.Observers, cfg.ShutdownTimeout = l.log, []harebus.Observer{l.quota}, drainTimeout
	setup, err := harebus.New(cfg)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	setup.HandleMessage(harebus.AnyType, l.handle)
	if err := l.claim(ctx, cfg.Queue, *create || len(topics) > 0, *take); err != nil {
		return std.fail(err)
	}
	return l.run(ctx, setup)
}

// claim checks that messages may be taken from the queue: it is new, or the user has
// allowed it with -take.
func (l *listener) claim(ctx context.Context, queue string, create, take bool) error {
	found, exists, err := l.look(ctx, queue)
	switch {
	case err != nil:
		return fmt.Errorf("harebus: listen: look for queue %q: %w", queue, err)
	case exists && !take:
		return fmt.Errorf("harebus: listen: queue %q is there already, with %d messages and %d consumers: listen would remove what it prints; -take allows that, and harebus redrive -dry-run -json -error-queue %s shows the messages and leaves them there", queue, found.Messages, found.Consumers, queue)
	case !exists && !create && !take:
		return fmt.Errorf("harebus: listen: there is no queue %q; correct the name, or make it with -create or -subscribe", queue)
	case !exists && !create:
		return fmt.Errorf("harebus: listen: there is no queue %q to take from", queue)
	case !exists:
		fmt.Fprintf(l.std.err, "harebus: listen: making queue %q; it stays when this command has ended, and fills if topics are bound to it\n", queue)
	}
	return nil
}

// look checks whether a queue exists without changing it.
func (l *listener) look(ctx context.Context, queue string) (found amqp.Queue, exists bool, err error) {
	link, err := l.broker.Link("listen")
	if err != nil {
		return found, false, err
	}
	defer link.Close()
	err = link.With(ctx, func(s *session.Session) error {
		return s.WithChannel(ctx, func(ch *amqp.Channel) error {
			var err error
			found, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			if exists = err == nil; isMissing(err) {
				return nil
			}
			return err
		})
	})
	return found, exists, err
}

// isMissing says whether err is the broker's answer for a queue that does not exist; it
// has the same code for one whose node is down.
func isMissing(err error) bool {
	broker, ok := errors.AsType[*amqp.Error](err)
	return ok && broker.Code == amqp.NotFound && strings.Contains(broker.Reason, "no queue")
}

func retryBackOff(base time.Duration) backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(base),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(max(base, time.Minute)),
		backoff.WithMaxElapsedTime(0),
	)
}

// handle prints a message, then fails or replies as asked.
func (l *listener) handle(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
	if err := l.quota.admit(ctx, m.ID); err != nil {
		return err // the service stops; the message goes back to its queue
	}
	if err := l.print(m); err != nil {
		// A message that was not printed is neither retried nor parked: it goes
		// back when the service stops.
		select {
		case l.broken <- err:
		default:
		}
		<-ctx.Done()
		return err
	}
	if l.fail < 0 || m.Attempt <= l.fail {
		return fmt.Errorf("attempt %d fails as asked by -fail", m.Attempt)
	}
	switch {
	case len(l.reply) == 0:
		return nil
	case m.ReplyTo == "":
		l.log.Warn("no reply: the message names no address", zap.String("message_id", fmt.Sprintf("%q", m.ID)))
		return nil
	default:
		return bus.Reply(ctx, l.reply)
	}
}

func (l *listener) print(m *harebus.Message) error {
	line, err := newObject(m).line()
	if err != nil {
		return fmt.Errorf("harebus: listen: print message %q: %w", m.ID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.std.out.Write(line)
	if err == nil && n < len(line) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("harebus: listen: print message %q: %w", m.ID, err)
	}
	return nil
}

// run consumes until enough messages are done, ctx ends or printing fails. A second
// signal ends it at once.
func (l *listener) run(ctx context.Context, setup *harebus.Setup) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	done := make(chan int, 1)
	go func() { done <- l.consume(ctx, setup) }()
	for seen := 0; ; {
		select {
		case code := <-done:
			return code
		case <-signals: // the first is the one that ended ctx
			if seen++; seen == 2 {
				fmt.Fprintln(l.std.err, "harebus: listen: ended before everything was done")
				l.abandoned()
				return exitFailed
			}
		}
	}
}

func (l *listener) consume(ctx context.Context, setup *harebus.Setup) int {
	if err := setup.Start(ctx); err != nil {
		var refusal *amqp.Error
		if errors.As(err, &refusal) && refusal.Code == amqp.PreconditionFailed {
			err = fmt.Errorf("%w\nharebus: a queue that a PikaBus service declared is taken over with -type classic", err)
		}
		return l.std.fail(err)
	}
	var broken error
	select {
	case <-l.quota.reached:
	case <-ctx.Done():
		l.log.Info("stopping; a second signal ends at once")
	case broken = <-l.broken:
	}
	if err := errors.Join(broken, l.stop(setup, broken != nil)); err != nil {
		l.abandoned()
		return l.std.fail(err)
	}
	return exitOK
}

// stop ends consuming. Handlers that the quota makes wait return only when their
// context ends. So it ends their context as soon as the other handlers are done.
func (l *listener) stop(setup *harebus.Setup, atOnce bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if l.quota.limit > 0 || atOnce {
		l.quota.close()
		if !atOnce {
			l.quota.empty(ctx)
		}
		cancel()
	}
	return setup.Stop(ctx)
}

// abandoned says which messages were not done.
func (l *listener) abandoned() {
	ids := l.quota.held()
	if len(ids) == 0 {
		return
	}
	const shown = 20
	quoted := make([]string, 0, shown)
	for _, id := range ids[:min(len(ids), shown)] {
		quoted = append(quoted, fmt.Sprintf("%q", id))
	}
	fmt.Fprintf(l.std.err, "harebus: listen: abandoned %d messages, which will be delivered again: %s\n", len(ids), strings.Join(quoted, ", "))
}
