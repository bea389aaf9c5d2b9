package brokertest

import (
	"slices"
	"time"
)

// State of a channel.
type channelState int

const (
	channelNew channelState = iota // channel.open is expected
	channelOpen
	channelClosing // channel.close was sent
)

// channel is one channel of a connection.
type channel struct {
	conn  *connection
	num   uint16
	state channelState

	pending *basicPublish // a publish whose message is still arriving
	header  *contentHeader
	body    []byte
	got     uint64 // octets of the body that came

	nextTag         uint64
	unacked         []*delivery // by tag
	consumerUnacked int         // those of consumers
	consumers       map[string]*consumer
	prefetch        int // of consumers to come
	globalPrefetch  int // of the whole channel
	lastQueue       string
	reply           *replyConsumer

	confirming bool
	published  uint64 // messages in confirm mode
	tx         *transaction
}

func newChannel(c *connection, num uint16) *channel {
	return &channel{conn: c, num: num, nextTag: 1, consumers: map[string]*consumer{}}
}

func (ch *channel) broker() *Broker { return ch.conn.broker }

// frame assembles methods and their messages from frames, and handles them.
func (ch *channel) frame(f frame) *amqpError {
	if ch.pending != nil {
		return ch.content(f)
	}
	if f.kind != frameMethod {
		return errUnexpectedFrame("expected method frame, got non method frame instead")
	}
	m, err := decodeMethod(f.payload)
	if err != nil {
		return asAMQP(err)
	}
	if p, ok := m.(*basicPublish); ok {
		ch.pending, ch.header, ch.body, ch.got = p, nil, nil, 0
		return nil
	}
	return ch.handle(m)
}

// content takes the frames that follow a publish.
func (ch *channel) content(f frame) *amqpError {
	if ch.header == nil {
		if f.kind != frameHeader {
			return errUnexpectedFrame("expected content header for class 60, got non content header frame instead").at(idBasicPublish)
		}
		h, err := decodeHeader(f.payload)
		if err != nil {
			return errFrame("cannot decode content header: %v", err).at(idBasicPublish)
		}
		if h.class != classBasic {
			return errUnexpectedFrame("expected content header for class 60, got one for class %d instead", h.class).at(idBasicPublish)
		}
		ch.header = &h
	} else {
		if f.kind != frameBody {
			return errUnexpectedFrame("expected content body, got non content body frame instead").at(idBasicPublish)
		}
		ch.takeBody(f.payload)
	}
	if ch.got < ch.header.size {
		return nil
	}
	if ch.got > ch.header.size {
		return errFrame("body of %d octets announced, %d came", ch.header.size, ch.got).at(idBasicPublish)
	}
	m, h, body := ch.pending, ch.header, ch.body
	ch.pending, ch.header, ch.body = nil, nil, nil
	return ch.handlePublish(m, h, body)
}

// takeBody appends to the body. A body of one frame is not copied. A body that is
// too large is not kept.
func (ch *channel) takeBody(p []byte) {
	ch.got += uint64(len(p))
	switch {
	case ch.header.size > uint64(ch.broker().cfg.maxMessage):
	case ch.body == nil && uint64(len(p)) == ch.header.size:
		ch.body = p
	default:
		ch.body = append(ch.body, p...)
	}
}

// handle runs a method and turns its error into a channel.close, unless it is
// one for the connection.
func (ch *channel) handle(m method) *amqpError {
	v, err := ch.conn.intercept(m, ch.num, nil, func() { ch.conn.failed(ch.raise(m, ch.dispatch(m)), m) })
	if v == verdictPass {
		err = ch.dispatch(m)
	}
	return ch.raise(m, err)
}

// raise closes the channel or returns an error that closes the connection.
func (ch *channel) raise(m method, err *amqpError) *amqpError {
	if err == nil {
		return nil
	}
	if err.method == idNone && m != nil {
		err.method = m.id()
	}
	if err.hard {
		return err
	}
	ch.broker().logf("connection %d, channel %d: %v", ch.conn.id, ch.num, err)
	ch.release()
	ch.state = channelClosing
	ch.conn.send(ch.num, &channelClose{code: err.code, text: err.text, classID: err.method.class(), methodID: err.method.method()})
	return nil
}

// dispatch runs a method.
func (ch *channel) dispatch(m method) *amqpError {
	switch m.(type) {
	case *channelOpenMethod:
		return ch.open()
	case *channelCloseOk:
		if ch.state == channelClosing {
			delete(ch.conn.channels, ch.num)
			return nil
		}
	case *channelClose:
		if ch.state == channelClosing {
			ch.conn.send(ch.num, &channelCloseOk{})
			return nil
		}
		if ch.state == channelOpen {
			ch.release()
			ch.conn.send(ch.num, &channelCloseOk{})
			delete(ch.conn.channels, ch.num)
			return nil
		}
	}
	switch ch.state {
	case channelNew:
		return errChannel("expected 'channel.open'")
	case channelClosing:
		return nil
	}
	return ch.command(m)
}

func (ch *channel) open() *amqpError {
	switch ch.state {
	case channelOpen:
		return errChannel("second 'channel.open' seen")
	case channelClosing:
		return nil
	}
	ch.state = channelOpen
	ch.conn.send(ch.num, &channelOpenOk{})
	return nil
}

// command runs a method on an open channel.
func (ch *channel) command(m method) *amqpError {
	switch m := m.(type) {
	case *exchangeDeclare, *exchangeDelete, *exchangeBind, *exchangeUnbind:
		return ch.exchangeCommand(m)
	case *queueDeclare, *queueBind, *queueUnbind, *queuePurge, *queueDelete:
		return ch.queueCommand(m)
	case *basicConsume:
		return ch.consume(m)
	case *basicCancel:
		return ch.cancel(m)
	case *basicGet:
		return ch.get(m)
	case *basicQos:
		return ch.qos(m)
	case *basicAck, *basicNack, *basicReject, *basicRecover, *basicRecoverAsync:
		return ch.settleCommand(m)
	case *confirmSelect:
		return ch.confirmSelect(m)
	case *txSelect, *txCommit, *txRollback:
		return ch.txCommand(m)
	case *channelFlow:
		if !m.active {
			return errNotImplemented("active=false")
		}
		return ch.respond(&channelFlowOk{active: true})
	case *accessRequest:
		return ch.respond(&accessRequestOk{ticket: 1})
	}
	return errCommandInvalid("unimplemented method")
}

// respond sends the answer to a command.
func (ch *channel) respond(m method) *amqpError {
	ch.conn.send(ch.num, m)
	return nil
}

// answer sends the answer to a command unless the client wants none.
func (ch *channel) answer(noWait bool, m method) *amqpError {
	if !noWait {
		ch.conn.send(ch.num, m)
	}
	return nil
}

// track numbers a delivery and remembers it until it is settled.
func (ch *channel) track(e *entry, q *queue, c *consumer, noAck bool) *delivery {
	d := &delivery{tag: ch.nextTag, entry: e, queue: q, consumer: c, channel: ch}
	ch.nextTag++
	if noAck {
		return d
	}
	ch.unacked = append(ch.unacked, d)
	q.unacked[d] = struct{}{}
	if c != nil {
		c.unacked++
		ch.consumerUnacked++
	}
	if t := ch.broker().cfg.consumerTimeout; t > 0 && c != nil {
		d.timeout = ch.broker().clock.after(t, func() { ch.timedOut(t) })
	}
	return d
}

// timedOut closes the channel of a consumer that takes too long.
func (ch *channel) timedOut(t time.Duration) {
	if ch.state != channelOpen {
		return
	}
	_ = ch.raise(nil, errPrecondition("delivery acknowledgement on channel %d timed out. Timeout value used: %d ms. "+
		"This timeout value can be configured, see consumers doc guide to learn more", ch.num, t.Milliseconds())) // it closes the channel only
}

// untrack forgets a delivery that was settled.
func (ch *channel) untrack(d *delivery) {
	delete(d.queue.unacked, d)
	ch.broker().clock.cancel(d.timeout)
	if d.consumer != nil {
		d.consumer.unacked--
		ch.consumerUnacked--
	}
	d.queue.touch()
}

// touchQueues marks every queue that the channel consumes from for the next settle.
func (ch *channel) touchQueues() {
	for _, tag := range slices.Sorted(mapKeys(ch.consumers)) {
		ch.consumers[tag].queue.touch()
	}
}

// release gives back the channel's deliveries. It removes the consumers first, so
// that none of these is delivered to them again.
func (ch *channel) release() {
	if ch.state == channelClosing {
		return
	}
	ch.state = channelClosing
	ch.reply = nil
	ch.pending, ch.header, ch.body = nil, nil, nil
	if ch.tx != nil {
		ch.tx.restore(ch)
	}
	unacked := ch.unacked
	ch.unacked = nil
	for _, tag := range slices.Sorted(mapKeys(ch.consumers)) {
		ch.consumers[tag].stop()
	}
	for _, d := range inTurn(unacked) {
		ch.untrack(d)
		d.queue.requeue(d.entry, true)
	}
}
