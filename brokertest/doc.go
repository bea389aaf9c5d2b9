// Package brokertest is an AMQP 0-9-1 broker in the test's own process. It
// speaks frames, not an interface, so a program under test keeps its real
// client, and returns, confirms, errors and redeliveries are those of a broker.
//
//	b := brokertest.New()
//	defer b.Close()
//	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
//
// A broker costs no more than a tenth of a millisecond: give each test its own.
// It works inside a testing/synctest bubble, where a delay of a day takes no
// time (some tenths of a second of CPU time for a harebus service that waits with
// it); create and close it inside the bubble. Listen serves other processes on
// a loopback port as well.
//
// # What is modelled
//
// RabbitMQ 3.10 as a client sees it, down to its name and version in the server
// properties; cluster_name there is "brokertest":
//
//   - Connections: PLAIN and AMQPLAIN, virtual hosts, negotiated limits,
//     heartbeats, connection.blocked, update-secret; channels and their errors.
//   - Exchanges: direct, topic, fanout, headers; the default and the predeclared
//     amq.* ones; bindings between exchanges; alternate, internal and
//     auto-delete exchanges; CC and BCC.
//   - Queues: classic and quorum, durable, exclusive, auto-delete, server-named;
//     x-message-ttl, x-expires, x-max-length, x-max-length-bytes, x-overflow,
//     x-max-priority, x-single-active-consumer, x-delivery-limit,
//     x-dead-letter-exchange, -routing-key and -strategy. Accepted without
//     effect: x-queue-mode, x-queue-version, x-queue-master-locator,
//     x-queue-leader-locator, x-quorum-initial-group-size, x-max-in-memory-*.
//   - Streams: offsets with a gap where a segment rolls, retention by x-max-length-bytes and x-max-age (whole segments,
//     when one rolls), x-stream-offset, credit by ack, what they do to headers and properties. One operation writes
//     one chunk: a publish, or a commit of class tx. Accepted without effect: x-initial-cluster-size.
//   - Messages: message and queue TTL at the head of the queue, dead-lettering
//     with x-death and x-first-death-*, cycles dropped, at-least-once
//     dead-lettering with its window of 32 and retry after three minutes.
//   - Publishing: confirms (one for each message), mandatory returns before
//     their confirms, nacks of reject-publish, tx, user-id and expiration checks.
//   - Consuming: ack, nack, reject, recover, multiple, prefetch for a consumer
//     and for a channel, priorities, exclusive and single active consumers,
//     basic.get, direct reply-to, broker-sent cancel, the consumer timeout.
//
// # What is refused
//
// What is not modelled is refused, never ignored: filters of streams, other exchange types
// and other x-arguments of queues, exchanges and consumers (406, or 503 for an
// exchange type), methods of other classes (540), immediate (540), prefetch size
// (540), channel.flow off (540). Policies, permissions, plugins, federation,
// TLS and AMQP 1.0 are absent: every user may do everything.
//
// # Where it differs
//
// Durable objects survive Restart, but not the end of the process. Order is total:
// one operation at a time, so what is a race on RabbitMQ has one outcome here. A
// quorum queue that is deleted under a publisher does not end its connection with
// 541. A consumer whose message reaches the delivery limit does not get the extra
// credit RabbitMQ 3.10 gives it. A queue expires on time instead of within five
// seconds of it. A body longer than announced is 501 at once.
//
// Later versions differ from 3.10 in ways programs should not rest on; the suite
// in brokertest/conformance, which runs on any broker, names each. 4.0: an
// unknown exchange type is 406; quorum queues have a delivery limit of 20, see
// WithDeliveryLimit; the CC header survives a dead-letter routing key;
// x-last-death-* headers. 4.3: a quorum message that is given back does not
// count towards the limit, channel prefetch is not applied, priorities order
// quorum queues. Streams differ more, see WithModernStreams; 4.3 also lets a stream have a channel's prefetch, and
// answers what ends the connection with 541 on 3.10 (an x-max-age without a number, an unknown offset) with 406.
//
// # What goes wrong on request
//
// Restart, Refuse, Freeze, CutConnections, CloseConnections, Block,
// CancelConsumers, DeleteQueue, TruncateStream, SkipOffsets, RecreateStream and LoseReplica are outages. Inject makes a rule about one method: cut the
// connection before or after the nth, drop, hold, delay, nack, return or poison
// it, or answer it with an error. The same seed makes the same choices.
//
// # What can be seen
//
// Queue, Queues, Messages, Exchanges, Bindings and Connections describe the broker
// at one moment. WaitQuiet waits until all messages have been handled, and fails
// when messages are left in queues without a consumer. WaitQueue waits for a state
// of a queue. Both wait for events and do not sleep. WithLog logs what happens.
//
// # How it works
//
// One lock orders everything. A connection has a goroutine that reads frames and
// handles each under the lock, and one that writes what the broker put into its
// outbox, so the broker never waits for a client. A client that does not read
// gets no more deliveries beyond a megabyte, is not read from, and is cut when
// nothing moves for 30 seconds. All timers are one heap and one runtime timer.
package brokertest
