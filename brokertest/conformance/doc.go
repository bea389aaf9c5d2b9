// Package conformance holds the behaviours brokertest promises to share with
// RabbitMQ, as tests. Each runs on a broker in process always, and on every
// real broker named in AMQP_URL or AMQP_URLS (separated by commas), so that a
// difference shows up as a failure on one side only:
//
//	AMQP_URL=amqp://guest:guest@127.0.0.1:5672/ go test ./brokertest/conformance
//
// The tests leave nothing behind on a broker they share with others.
package conformance
