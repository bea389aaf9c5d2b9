package main

import (
	"context"
	"time"

	"github.com/harebus/harebus"
)

const sendExplanation = `Sends BODY as a command to QUEUE and prints its MessageId once the broker has
confirmed it. The body - is read from stdin; with -lines every line of stdin is a
message, an empty line included, all sent in one transaction that is held in
memory until the end of the input. A body that is JSON is sent as
application/json, other text as text/plain, the rest as application/octet-stream;
the bytes are never changed.

With -as the message is written as another bus does, for a service that uses it: -as
masstransit -type Acme.Orders:PlaceOrder. As a task of Celery, the fields of BODY are the keyword
arguments.

Exit codes: 0 everything is confirmed, 1 something is not (stderr says what and
why; stdout has the ids of what is), 2 the command line is wrong.`

// runSend is the command send.
func runSend(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("send [flags] QUEUE BODY\n       harebus send [flags] -lines QUEUE", sendExplanation)
	return runOutgoing(ctx, flags, args, std, func(ctx context.Context, bus emitter, queue string, delay time.Duration, body any, opts []harebus.SendOption) error {
		if delay > 0 {
			return bus.Defer(ctx, queue, delay, body, opts...)
		}
		return bus.Send(ctx, queue, body, opts...)
	})
}
