// Package harebus is a service bus on RabbitMQ: commands, events, replies,
// deferred messages, transactions, retries and an error queue, for services
// that must not lose a message. It shares its wire format with PikaBus, so Go
// and Python services work on one bus.
//
// A [Setup] is one service. It declares its topology, keeps its connections and
// runs the handlers registered with [Handle]. Its [Bus] sends: each call returns
// when the broker has confirmed the message.
//
//	setup, err := harebus.New(harebus.Config{URL: url, Queue: "orders", Subscriptions: []string{"payment.*"}})
//	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
//		return bus.Publish(ctx, "order.placed", OrderPlaced{ID: cmd.ID})
//	})
//	err = setup.Run(ctx) // consumes until ctx ends, then finishes the messages in hand
//
// # What is promised
//
// A message whose Send returned nil is not lost. It is handled at least once, or
// lies in the error queue with the reason, or waits in a durable queue. Duplicates
// are possible after a crash or an unknown outcome; all copies carry the same
// message id. Not promised are the order of messages across failures, messages in a
// classic queue whose only node is lost, and messages that the broker has not
// written to disk.
//
// # Where things are
//
// Config is in config.go, the life of a Setup in setup.go. An outgoing message passes through bus.go, outgoing.go
// (headers, checks), internal/buffer (of a transaction) and internal/publish (attempts, outcomes, delays). A received
// one passes through internal/consume, receive.go, handler.go, errorhandler.go and internal/resend (retried and parked
// copies). client.go configures internal/session, the AMQP client, which keeps the connections.
// What is optional has packages of its own: order, stream, dedup, batch, limit, fair, outbox, saga, schedule, seal,
// claim, dialect, pulse. Package topology describes exchanges, queues, bindings and the delay queues; package brokertest
// is an in-process broker for tests.
package harebus
