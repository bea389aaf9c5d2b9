package brokertest

import "strings"

// replyQueue is the pseudo queue of direct reply-to.
const replyQueue = "amq.rabbitmq.reply-to"

// replyConsumer is a channel's consumer of direct replies.
type replyConsumer struct {
	tag  string
	name string // the queue name replies are sent to
}

func (ch *channel) consume(m *basicConsume) *amqpError {
	if _, used := ch.consumers[m.tag]; used {
		return errNotAllowed("attempt to reuse consumer tag '%s'", m.tag)
	}
	if m.queue == replyQueue {
		return ch.consumeReplies(m)
	}
	q, err := ch.queue(m.queue)
	if err != nil {
		return err
	}
	if q.log != nil {
		return ch.readStream(q, m)
	}
	priority, err := ch.consumerPriority(q, m.arguments)
	if err != nil {
		return err
	}
	switch {
	case q.limits.quorum && ch.globalPrefetch > 0:
		return errNotImplemented("%s does not support global qos", q)
	case !q.limits.quorum && len(q.consumers) > 0 && (m.exclusive || q.consumers[0].exclusive):
		return errAccessRefused("%s in exclusive use", q)
	}
	c := ch.newConsumer(q, m)
	c.priority = priority
	if q.limits.quorum && c.prefetch == 0 {
		c.prefetch = quorumPrefetch
	}
	ch.begin(c, m.noWait)
	return nil
}

func (ch *channel) newConsumer(q *queue, m *basicConsume) *consumer {
	c := &consumer{channel: ch, queue: q, tag: m.tag, noAck: m.noAck, exclusive: m.exclusive, prefetch: ch.prefetch}
	if c.tag == "" {
		c.tag = ch.broker().name("amq.ctag")
	}
	return c
}

// begin starts a subscription that was accepted.
func (ch *channel) begin(c *consumer, noWait bool) {
	ch.consumers[c.tag] = c
	_ = ch.answer(noWait, &basicConsumeOk{tag: c.tag}) // it never fails
	c.queue.addConsumer(c)
}

// quorumPrefetch is what a quorum queue gives a consumer without a limit.
const quorumPrefetch = 2000

// consumerPriority reads the arguments of a subscription.
func (ch *channel) consumerPriority(q *queue, args table) (int64, *amqpError) {
	var priority int64
	for _, f := range args {
		switch {
		case f.key == "x-priority":
			n, ok := f.val.integer()
			if !ok {
				return 0, errPrecondition("invalid arg 'x-priority' for %s: \"expected integer, got %s\"", q, f.val.typeName())
			}
			priority = n
		case f.key == "x-cancel-on-ha-failover" && !q.limits.quorum:
			if f.val.kind != 't' {
				return 0, errPrecondition("invalid arg '%s' for %s: {unacceptable_type,%s}", f.key, q, f.val.typeName())
			}
		case strings.HasPrefix(f.key, "x-"):
			return 0, errPrecondition("invalid arg '%s' for %s: not modelled by brokertest", f.key, q)
		}
	}
	return priority, nil
}

func (ch *channel) cancel(m *basicCancel) *amqpError {
	if ch.reply != nil && ch.reply.tag == m.tag {
		ch.reply = nil
	} else if c, ok := ch.consumers[m.tag]; ok {
		c.stop()
	}
	return ch.answer(m.noWait, &basicCancelOk{tag: m.tag})
}

func (ch *channel) qos(m *basicQos) *amqpError {
	if m.prefetchSize != 0 {
		return errNotImplemented("prefetch_size!=0 (%d)", m.prefetchSize)
	}
	if m.global {
		ch.globalPrefetch = int(m.prefetchCount)
	} else {
		ch.prefetch = int(m.prefetchCount)
		ch.globalPrefetch = 0
	}
	ch.touchQueues()
	return ch.respond(&basicQosOk{})
}

func (ch *channel) get(m *basicGet) *amqpError {
	q, err := ch.queue(m.queue)
	if err != nil {
		return err
	}
	if q.log != nil {
		return errNotImplemented("basic.get not supported by stream queues %s", q)
	}
	if q.limits.quorum && q.limits.singleActive {
		return errLocked("cannot obtain access to locked %s. basic.get operations are not supported by quorum queues with single active consumer", q)
	}
	q.run() // what expired is not delivered
	q.used()
	l := q.head()
	if l == nil {
		return ch.respond(&basicGetEmpty{})
	}
	e := l.pop()
	q.touch()
	d := ch.track(e, q, nil, m.noAck)
	ok := &basicGetOk{
		deliveryTag: d.tag, redelivered: e.redelivered, exchange: e.msg.exchange,
		key: e.msg.keys[0], messages: uint32(q.depth()),
	}
	ch.conn.sendContent(ch.num, ok, e.msg, e.header(q, true))
	return nil
}

// consumeReplies makes the channel's consumer of direct replies.
func (ch *channel) consumeReplies(m *basicConsume) *amqpError {
	switch {
	case !m.noAck:
		return errPrecondition("reply consumer cannot acknowledge")
	case ch.reply != nil:
		return errPrecondition("reply consumer already set")
	}
	tag := m.tag
	if tag == "" {
		tag = ch.broker().name("amq.ctag")
	}
	ch.reply = &replyConsumer{tag: tag, name: ch.broker().name(replyQueue + ".g1")}
	return ch.answer(m.noWait, &basicConsumeOk{tag: tag})
}

// replaceReply puts the address of the channel's reply consumer into a request.
func (ch *channel) replaceReply(p *properties) *amqpError {
	if p.has(flagReplyTo) && p.replyTo == replyQueue {
		p.replyTo = ch.reply.name
	}
	return nil
}

// declareReply answers a declaration of the pseudo queue or of an address.
func (ch *channel) declareReply(m *queueDeclare, name string) *amqpError {
	if name != replyQueue && ch.broker().replyChannel(ch.conn.vhost, name) == nil {
		return errNotFound("no %s", ch.conn.vhost.resource("queue", name))
	}
	ch.lastQueue = name
	return ch.answer(m.noWait, &queueDeclareOk{queue: name, consumers: 1})
}

// replyChannel finds the channel behind a reply address.
func (b *Broker) replyChannel(v *vhost, name string) *channel {
	for _, c := range b.conns {
		if c.vhost != v {
			continue
		}
		for _, ch := range c.channels {
			if ch.reply != nil && ch.reply.name == name {
				return ch
			}
		}
	}
	return nil
}

// deliverReplies delivers a message to the reply addresses among its keys.
func (b *Broker) deliverReplies(v *vhost, m *message) {
	for _, key := range m.keys {
		if !strings.HasPrefix(key, replyQueue+".") {
			continue
		}
		if ch := b.replyChannel(v, key); ch != nil {
			d := &basicDeliver{tag: ch.reply.tag, deliveryTag: ch.nextTag, exchange: m.exchange, key: m.keys[0]}
			ch.conn.sendContent(ch.num, d, m, m.header)
		}
	}
}
