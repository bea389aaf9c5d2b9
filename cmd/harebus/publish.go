package main

import (
	"context"
	"time"

	"github.com/harebus/harebus"
)

const publishExplanation = `Publishes BODY as an event to everybody who has subscribed to TOPIC and prints
its MessageId once the broker has confirmed it. Nobody being subscribed is an
error. A deferred event goes to whoever is subscribed when it is due; that nobody
is then cannot be reported. Body, -lines and exit codes are as in harebus send.`

// topicExchange is where a deferred event leaves the delay queues.
const topicExchange = "PikaBusTopic"

// runPublish is the command publish.
func runPublish(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("publish [flags] TOPIC BODY\n       harebus publish [flags] -lines TOPIC", publishExplanation)
	return runOutgoing(ctx, flags, args, std, func(ctx context.Context, bus emitter, topic string, delay time.Duration, body any, opts []harebus.SendOption) error {
		if delay > 0 {
			return bus.Defer(ctx, topic, delay, body, append(opts, harebus.WithExchange(topicExchange))...)
		}
		return bus.Publish(ctx, topic, body, opts...)
	})
}
