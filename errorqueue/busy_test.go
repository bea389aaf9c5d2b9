package errorqueue_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/errorqueue"
)

// busy is a connection to a broker whose queues are too busy to say what is in them: three of four answers to
// queue.declare have no messages and no consumers.
type busy struct {
	net.Conn

	answers *atomic.Int64
	ready   bytes.Buffer
	// late is how long each of the first twelve answers takes, which say nothing then.
	late time.Duration
}

// Read reads frame by frame (AMQP 0-9-1, 2.3.5).
func (c *busy) Read(b []byte) (int, error) {
	const methodFrame, declareOK, numbers = 1, 50<<16 | 11, 8
	if c.ready.Len() == 0 {
		head := make([]byte, 7)
		if _, err := io.ReadFull(c.Conn, head); err != nil {
			return 0, err
		}
		rest := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(c.Conn, rest); err != nil {
			return 0, err
		}
		if head[0] == methodFrame && binary.BigEndian.Uint32(rest) == declareOK && c.empty() {
			clear(rest[len(rest)-1-numbers : len(rest)-1])
		}
		c.ready.Write(head)
		c.ready.Write(rest)
	}
	return c.ready.Read(b)
}

func (c *busy) empty() bool {
	n := c.answers.Add(1)
	if c.late == 0 {
		return n%4 != 0
	}
	if n > 12 {
		return false
	}
	time.Sleep(c.late)
	return true
}

// TestVeryBusyQueue: an answer that took a quarter of a second is none, however often it comes.
func TestVeryBusyQueue(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 5)
		x.with(func(q *errorqueue.Queue) {
			if found := x.look(q, errorqueue.Filter{}); len(found.Messages) != 5 {
				x.Errorf("found %d", len(found.Messages))
			}
		}, func(c *errorqueue.Config) {
			inner, answers := c.Dial, new(atomic.Int64)
			c.Timeout = time.Minute
			c.Dial = func(network, address string) (net.Conn, error) {
				conn, err := inner(network, address)
				return &busy{Conn: conn, answers: answers, late: 250 * time.Millisecond}, err
			}
		})
	})
}

// TestRemovedBeforeTheNext: what was moved is removed before more is moved. Acknowledgements go on another channel, so
// only an answer there tells; here each takes ten seconds, the first of them before anything is taken.
func TestRemovedBeforeTheNext(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 96) // three times what is on its way at once
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			x.broker.Inject(brokertest.Fault{On: "basic.qos", Times: -1, Do: brokertest.Delay, For: 10 * time.Second})
			began := time.Now()
			report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{Rate: -1})
			x.reports(report, err, "done 96, left 0, gone 0, remaining 0, twice 0")
			if took := time.Since(began); took < 30*time.Second {
				x.Errorf("it took %v", took)
			}
		}, func(c *errorqueue.Config) { c.Timeout = time.Minute })
	})
}

// TestBusyQueue: RabbitMQ says that a queue is empty that does not answer in time. A look and a retry do not believe
// that, neither before the first message nor while none comes.
func TestBusyQueue(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 5)
		dial := func(c *errorqueue.Config) {
			inner, answers := c.Dial, new(atomic.Int64)
			c.Dial = func(network, address string) (net.Conn, error) {
				conn, err := inner(network, address)
				return &busy{Conn: conn, answers: answers}, err
			}
		}
		slow := x.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: 2 * time.Second})
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			if len(found.Messages) != 5 {
				x.Fatalf("found %d", len(found.Messages))
			}
			report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{})
			x.reports(report, err, "done 5, left 0, gone 0, remaining 0, twice 0")
		}, dial)
		slow.Remove()
		x.expect("orders", "1 2 3 4 5")
	})
}

// TestSlowQueue: a quorum queue that has assigned all messages to this consumer has none left that are ready, and may
// need seconds to send the first one. A look and a retry wait for it.
func TestSlowQueue(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 5)
		slow := x.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: 2 * time.Second})
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			if len(found.Messages) != 5 {
				x.Fatalf("found %d", len(found.Messages))
			}
			report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{})
			x.reports(report, err, "done 5, left 0, gone 0, remaining 0, twice 0")
		})
		slow.Remove()
		x.expect("orders", "1 2 3 4 5")
	})
}
