// Package brokertest is an AMQP 0-9-1 broker in the test's own process: it
// speaks frames, not an interface, so a program under test uses its real client.
//
//	b := brokertest.New()
//	defer b.Close()
//	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
//
// Nothing but the client library is needed, nothing is written to disk, and it
// works inside a testing/synctest bubble.
package brokertest
