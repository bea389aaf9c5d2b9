package main

import (
	"context"
	"errors"
	"time"

	"github.com/harebus/harebus"
)

const requestExplanation = `Sends BODY as a command to QUEUE, waits for the reply and prints its body, with a
line break if it ends in none. The body - is read from stdin. What the body is
sent as is decided as by the command send.

Exit codes: 0 a reply was printed, 1 there is none (stderr says why; the request
may have been handled if it says that no reply came), 2 the command line is wrong,
3 the service has given the request up and says why on stderr.`

// runRequest is the command request.
func runRequest(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("request [flags] QUEUE BODY", requestExplanation)
	o := &outgoing{std: std, headers: headerFlag{}}
	connect := connectionFlags(flags)
	flags.StringVar(&o.messageType, "type", "", "wire `name` of the message's type")
	flags.Var(o.headers, "header", "add a header `key=value`; may be repeated")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up `after` this long without a reply; it must be more than 0")
	if code, done := parse(flags, args, std); done {
		return code
	}
	switch {
	case flags.NArg() != 2:
		return std.misuse(flags, "want a queue and a body after the flags, got "+arguments(flags))
	case o.timeout <= 0:
		return std.misuse(flags, "-timeout must be more than 0")
	}
	broker, err := connect.broker(std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	setup, err := sender(broker, std)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	defer func() { _ = setup.Close() }() // every outcome is known by then
	err = o.request(ctx, setup, flags.Arg(0), flags.Arg(1))
	o.notePlain()
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(*harebus.FaultError)):
		_ = std.fail(err)
		return exitFault
	default:
		return std.fail(err)
	}
}

// request makes the request and prints the body of the reply.
func (o *outgoing) request(ctx context.Context, setup *harebus.Setup, queue, argument string) error {
	body, err := o.body(ctx, argument)
	if err != nil {
		return err
	}
	ctx, cancel := o.bounded(ctx)
	defer cancel()
	message, opts := o.message(harebus.NewMessageID(), body)
	reply, err := harebus.Request[*harebus.Message](ctx, setup.Bus(), queue, message, opts...)
	if err != nil {
		return err
	}
	text := reply.Body
	if n := len(text); n == 0 || text[n-1] != '\n' {
		text = append(text, '\n')
	}
	_, err = o.std.out.Write(text)
	return err
}
