package brokertest

import "slices"

// handlePublish takes a complete message.
func (ch *channel) handlePublish(m *basicPublish, h *contentHeader, body []byte) *amqpError {
	later := func() { ch.conn.failed(ch.accept(m, h, body, verdictPass), m) }
	v, err := ch.conn.intercept(m, ch.num, &h.props, later)
	if err != nil || v == verdictGone {
		return ch.raise(m, err)
	}
	return ch.accept(m, h, body, v)
}

// accept publishes when the channel is open.
func (ch *channel) accept(m *basicPublish, h *contentHeader, body []byte, v verdict) *amqpError {
	switch ch.state {
	case channelNew:
		return errChannel("expected 'channel.open'").at(m.id())
	case channelClosing:
		return nil
	}
	ch.conn.throttle()
	return ch.raise(m, ch.publish(m, h, body, v))
}

// publish routes a message, or keeps it for tx.commit.
func (ch *channel) publish(m *basicPublish, h *contentHeader, body []byte, v verdict) *amqpError {
	if m.immediate {
		return errNotImplemented("immediate=true")
	}
	x, err := ch.acceptable(m, h)
	if err != nil {
		return err
	}
	copies, err := carbonCopies(h.props.headers)
	if err != nil {
		return err
	}
	if h.props.has(flagHeaders) {
		if _, ok := h.props.headers.lookup("BCC"); ok {
			h.props.headers = h.props.headers.without("BCC")
		}
	}
	if err := ch.replaceReply(&h.props); err != nil {
		return err
	}
	p := &publication{
		msg:       newMessage(x.name, append([]string{m.key}, copies...), h.props, body),
		exchange:  x,
		mandatory: m.mandatory,
		verdict:   v,
	}
	if ch.tx != nil {
		ch.tx.publications = append(ch.tx.publications, p)
		return nil
	}
	if ch.confirming {
		ch.published++
		p.number = ch.published
	}
	accepted := ch.route(p)
	if p.fatal {
		return errStreamCrash()
	}
	ch.confirm(p, accepted)
	return nil
}

// errStreamCrash is how the channel ends that cannot convert a message for a stream.
func errStreamCrash() *amqpError { return errInternal("a header cannot be converted for a stream") }

// acceptable makes the checks that close the channel.
func (ch *channel) acceptable(m *basicPublish, h *contentHeader) (*exchange, *amqpError) {
	if limit := ch.broker().cfg.maxMessage; h.size > uint64(limit) {
		return nil, errPrecondition("message size %d is larger than configured max size %d", h.size, limit)
	}
	x, err := ch.conn.vhost.exchange(m.exchange)
	if err != nil {
		return nil, err
	}
	if x.internal {
		return nil, errAccessRefused("cannot publish to internal %s", x)
	}
	p := &h.props
	if p.has(flagReplyTo) && p.replyTo == replyQueue && ch.reply == nil {
		return nil, errPrecondition("fast reply consumer does not exist")
	}
	if p.has(flagUserID) && p.userID != ch.conn.user {
		return nil, errPrecondition("user_id property set to '%s' but authenticated user was '%s'", p.userID, ch.conn.user)
	}
	if err := checkExpiration(p); err != nil {
		return nil, err
	}
	if p.has(flagDeliveryMode) && p.deliveryMode != 1 && p.deliveryMode != 2 {
		return nil, errPrecondition("invalid message: {delivery_mode_unknown,%d}", p.deliveryMode)
	}
	return x, nil
}

// publication is a message on its way to the queues.
type publication struct {
	msg       *message
	exchange  *exchange
	mandatory bool
	number    uint64 // its confirm, 0 when none is wanted
	verdict   verdict
	fatal     bool // a stream could not take it, which ends the connection
}

// route puts a message into its queues; false means that one rejected it. A
// mandatory message that reaches none is returned first.
func (ch *channel) route(p *publication) bool {
	switch p.verdict {
	case verdictNack:
		return false
	case verdictReturn:
		ch.giveBack(p)
		return true
	}
	v := ch.conn.vhost
	queues := v.route(p.exchange, p.msg.keys, p.msg.props.headers)
	if p.exchange.name == "" {
		ch.broker().deliverReplies(v, p.msg)
	}
	if len(queues) == 0 {
		if p.mandatory { // also when it was a direct reply
			ch.giveBack(p)
		}
		return true
	}
	accepted := true
	p.fatal = crashes(queues, p.msg)
	for _, q := range queues {
		if !p.fatal || q.log == nil {
			accepted = q.enqueue(p.msg) && accepted
		}
	}
	return accepted
}

// giveBack returns a message that no queue takes.
func (ch *channel) giveBack(p *publication) {
	m := &basicReturn{code: 312, text: "NO_ROUTE", exchange: p.msg.exchange, key: p.msg.keys[0]}
	ch.conn.sendContent(ch.num, m, p.msg, p.msg.header)
}

// confirm sends the publisher the ack or nack of a message.
func (ch *channel) confirm(p *publication, accepted bool) {
	switch {
	case p.number == 0:
	case accepted:
		ch.conn.send(ch.num, &basicAck{deliveryTag: p.number})
	default:
		ch.conn.send(ch.num, &basicNack{deliveryTag: p.number})
	}
}

func (ch *channel) confirmSelect(m *confirmSelect) *amqpError {
	if ch.tx != nil {
		return errPrecondition("cannot switch from tx to confirm mode")
	}
	ch.confirming = true
	return ch.answer(m.noWait, &confirmSelectOk{})
}

// throttle stops reading from a publisher while the broker is blocked, after
// the message at hand, and tells it once.
func (c *connection) throttle() {
	if c.broker.blocked == "" {
		return
	}
	if c.valve == nil {
		c.valve = make(chan struct{})
	}
	if !c.notified && c.capable("connection.blocked") {
		c.notified = true
		c.send(0, &connectionBlocked{reason: c.broker.blocked})
	}
}

// unthrottle lets a publisher continue.
func (c *connection) unthrottle() {
	openGate(&c.valve)
	if c.notified {
		c.notified = false
		c.send(0, &connectionUnblocked{})
	}
}

// transaction is what a channel in tx mode did since the last commit.
type transaction struct {
	publications []*publication
	settled      []settlement
}

// settlement is an acknowledgement that waits for tx.commit.
type settlement struct {
	d       *delivery
	outcome outcome
}

// txCommand runs a method of class tx.
func (ch *channel) txCommand(m method) *amqpError {
	switch m.(type) {
	case *txSelect:
		if ch.confirming {
			return errPrecondition("cannot switch from confirm to tx mode")
		}
		if ch.tx == nil {
			ch.tx = &transaction{}
		}
		return ch.respond(&txSelectOk{})
	case *txCommit:
		if ch.tx == nil {
			return errPrecondition("channel is not transactional")
		}
		return ch.commit()
	}
	if ch.tx == nil {
		return errPrecondition("channel is not transactional")
	}
	ch.tx.restore(ch)
	return ch.respond(&txRollbackOk{})
}

// commit publishes, then settles. A message a queue rejects fails it, without
// taking back the others, as on RabbitMQ.
func (ch *channel) commit() *amqpError {
	tx := ch.tx
	ch.tx = &transaction{}
	accepted := true
	for _, p := range tx.publications {
		accepted = ch.route(p) && accepted
		if p.fatal {
			return errStreamCrash()
		}
	}
	for _, s := range tx.settled {
		s.d.settle(s.outcome)
	}
	if !accepted {
		return errPrecondition("partial tx completion")
	}
	return ch.respond(&txCommitOk{})
}

// restore drops what was not committed; deliveries are unacknowledged again.
func (tx *transaction) restore(ch *channel) {
	for _, s := range tx.settled {
		ch.unacked = append(ch.unacked, s.d)
	}
	slices.SortFunc(ch.unacked, func(a, b *delivery) int {
		if a.tag < b.tag {
			return -1
		}
		return 1
	})
	*tx = transaction{}
}
