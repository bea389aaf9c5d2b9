// Command bench measures harebus against the plain client and two other Go
// libraries on RabbitMQ, in one process and one run.
//
//	go run .                    # everything, as a table; fifteen to thirty minutes
//	go run . -short -json       # the decisive rows as JSON lines, under 50 seconds
//	go run . -svg plot.svg      # with a plot
//	go run . -from rows.jsonl -svg plot.svg
//	go run . -shape all         # how the figures grow, as tables; about twenty minutes
//	go run . -shape size,soak -short
//
// The broker is the one AMQP_URL names, else a private node of the installed
// RabbitMQ, which is stopped and removed at the end. For the ceiling of the
// clients themselves there is a null broker, in a process of its own.
//
// Every contender publishes the same message, built again for every publish: the
// same typed value encoded to JSON, the same headers, two UUIDs and the time;
// persistent, mandatory, confirmed. They use the same queues by the same exchange.
// The contenders' rounds are interleaved, and each figure is the median of the
// rounds during which the rest of the machine was quiet.
//
// The workload "ways" compares ways to consume – an ordered queue, whole and in four partitions, fairness, batches of a hundred, a stream – with plain
// consumption of the same messages in the same run. In "ways-1ms" each call of a handler takes a millisecond, one call at a time.
//
// With -shape it varies one thing at a time – goroutines, queues, size, window,
// consumers, concurrency, prefetch – and measures memory as well; it drains a
// million messages, and publishes and consumes for five minutes to see whether
// the client grows.
package main
