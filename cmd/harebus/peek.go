package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/topology"
)

const peekExplanation = `Shows what kind of queue QUEUE is, how much waits in it, and its first -n messages, which
stay where they are. -n 0 touches no message.

A look takes messages and gives them back in their order; for that moment nobody else
gets them, and they are marked as redelivered. In a quorum queue it counts as a delivery, and
all messages are taken, because only then they keep their order: one with more than 5000 is
refused.
So messages are shown only of a queue without consumers and without dead-lettering, that is
classic, or a quorum queue with a delivery limit of 1000 or more, as error queues have:
never of the queue of a service. For what waits in delay queues: harebus deferred list.

Exit codes: 0 done, 1 no message was looked at (stderr says why), 2 the command line is wrong.`

const (
	// fewest is the delivery limit from which on a look does not matter.
	fewest = 1000
	// mostTaken is how many messages a look takes. A quorum queue puts back what it gets back behind
	// what it got back before: when a look takes only some of those, they change their order.
	mostTaken = 5000
)

// peek is one run of the command peek.
type peek struct {
	std     stdio
	broker  access.Broker
	queue   string
	n       int
	json    bool
	timeout time.Duration
}

// runPeek is the command peek.
func runPeek(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("peek [flags] QUEUE", peekExplanation)
	p := &peek{std: std}
	connect := connectionFlags(flags)
	flags.IntVar(&p.n, "n", 10, "show `N` messages, at most 1000")
	flags.BoolVar(&p.json, "json", false, "print the messages as JSON, an object a line, and not the queue")
	flags.DurationVar(&p.timeout, "timeout", 30*time.Second, "give up `after` this long without a broker, or without an answer from it")
	if code, done := parse(flags, args, std); done {
		return code
	}
	const most = 1000
	switch p.queue = flags.Arg(0); {
	case flags.NArg() != 1:
		return std.misuse(flags, "want one queue, got "+arguments(flags))
	case p.n < 0 || p.n > most || p.timeout <= 0:
		return std.misuse(flags, "a number is out of range")
	}
	var err error
	if p.broker, err = connect.broker(std); err != nil {
		return std.misuse(flags, err.Error())
	}
	if err := p.run(ctx); err != nil {
		return std.fail(fmt.Errorf("harebus: peek: %w", err))
	}
	return exitOK
}

func (p *peek) run(ctx context.Context) error {
	conn, err := queue.Connect(ctx, queue.Options{Broker: p.broker, Name: "peek", Queue: p.queue, Hold: mostTaken, Timeout: p.timeout})
	if err != nil {
		return err
	}
	err = p.look(ctx, conn)
	return errors.Join(err, conn.Close())
}

// look shows the queue, and then messages, if it may.
func (p *peek) look(ctx context.Context, conn *queue.Conn) error {
	found, err := survey.Survey{On: conn.Session()}.Queue(ctx, topology.Queue{
		Name: p.queue, Type: topology.Quorum, Arguments: map[string]any{"x-delivery-limit": topology.LookLimit},
	})
	if err != nil {
		return err
	}
	if !p.json {
		if _, err := fmt.Fprintf(p.std.out, "%s: %s, %d messages ready, %d consumers\n", visible.Word(p.queue), kindOf(&found), found.Ready, found.Consumers); err != nil {
			return err
		}
	}
	if p.n == 0 {
		return nil
	}
	if err := harmless(&found); err != nil {
		return fmt.Errorf("no message was looked at: %w", err)
	}
	if _, err := conn.Check(ctx); err != nil { // a policy may say otherwise, and somebody may consume by now
		return fmt.Errorf("no message was looked at: %w", err)
	}
	n := found.Ready
	if found.Type != topology.Quorum && n > 0 {
		n = min(p.n, n)
	}
	messages, err := p.take(ctx, conn, n)
	if err != nil {
		return err
	}
	return p.print(messages)
}

// kindOf describes a queue.
func kindOf(q *survey.Queue) string {
	if q.Hidden != "" {
		return "a queue (" + q.Hidden + ")"
	}
	kind := string(q.Type)
	if limit, ok := q.Arguments["x-delivery-limit"]; ok {
		kind += fmt.Sprintf(" with delivery limit %v", limit)
	}
	return kind
}

// harmless says why a look at messages would change something that matters.
func harmless(q *survey.Queue) error {
	limit, limited := q.Arguments["x-delivery-limit"].(int64)
	_, deadLetters := q.Arguments["x-dead-letter-exchange"]
	switch {
	case q.Hidden != "":
		return errors.New("the broker does not tell whether a look would use up deliveries: " + q.Hidden)
	case q.Consumers > 0:
		return fmt.Errorf("it has %d consumers, and a look would take messages from them", q.Consumers)
	case deadLetters:
		return errors.New("it dead-letters messages, as the queue of a service does, and a look counts there")
	case q.Type == topology.Classic:
		return nil
	case q.Type != topology.Quorum:
		return fmt.Errorf("it is a %s queue", q.Type)
	case !limited:
		return errors.New("it is a quorum queue without a delivery limit of its own: RabbitMQ 4 drops a message at its 21st look")
	case limit < fewest:
		return fmt.Errorf("its delivery limit is %d, and a look counts", limit)
	case q.Ready > mostTaken:
		return fmt.Errorf("it has %d messages: more than %d cannot be taken at once, and otherwise they would change their order; use harebus errors -error-queue", q.Ready, mostTaken)
	}
	return nil
}

// take takes n messages and returns those to be shown. They go back when the connection is closed.
func (p *peek) take(ctx context.Context, conn *queue.Conn, n int) ([]*queue.Message, error) {
	var messages []*queue.Message
	if n == 0 {
		return nil, nil
	}
	if err := conn.Take(ctx, n); err != nil {
		return nil, err
	}
	for range n {
		m, ok, err := conn.Next(ctx)
		switch {
		case err != nil:
			return nil, err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !ok:
			return messages, nil
		}
		if len(messages) < p.n {
			messages = append(messages, m)
		}
	}
	return messages, nil
}

func (p *peek) print(messages []*queue.Message) error {
	if p.json {
		for _, m := range messages {
			line, err := newObject(p.message(m)).line()
			if err == nil {
				_, err = p.std.out.Write(line)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if len(messages) == 0 {
		return nil
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0) //nolint:mnd // columns two apart
	fmt.Fprintln(w, "ID\tTYPE\tBYTES\tBODY")
	for _, m := range messages {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", visible.Word(m.Text("PikaBus.MessageId", m.MessageId)), visible.Word(m.Text("PikaBus.MessageType", m.Type)), len(m.Body), beginning(m.Body))
	}
	_ = w.Flush() // a Builder takes everything
	_, err := io.WriteString(p.std.out, text.String())
	return err
}

// beginning is what a line has of a body.
func beginning(body []byte) string {
	const most = 80
	if len(body) <= most {
		return visible.Line(string(body))
	}
	return visible.Line(strings.ToValidUTF8(string(body[:most]), "")) + "…"
}

func (p *peek) message(m *queue.Message) *harebus.Message {
	return &harebus.Message{
		Queue: p.queue, Exchange: m.Exchange, RoutingKey: m.RoutingKey, Redelivered: m.Redelivered, Headers: m.Headers, Body: m.Body,
		Properties: harebus.Properties{
			ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, DeliveryMode: m.DeliveryMode, Priority: m.Priority,
			CorrelationID: m.CorrelationId, ReplyTo: m.ReplyTo, Expiration: m.Expiration, MessageID: m.MessageId,
			Timestamp: m.Timestamp, Type: m.Type, UserID: m.UserId, AppID: m.AppId,
		},
	}
}
