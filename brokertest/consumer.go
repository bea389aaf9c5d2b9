package brokertest

import "slices"

// consumer is a subscription of a channel to a queue.
type consumer struct {
	channel   *channel
	queue     *queue
	tag       string
	noAck     bool
	exclusive bool
	stopped   bool
	prefetch  int // 0: no limit
	priority  int64
	unacked   int
	parked    bool  // it could take nothing when its turn came
	offset    int64 // of what it reads next from a stream
}

// delivery is a message a channel has and did not settle.
type delivery struct {
	tag      uint64
	entry    *entry
	queue    *queue
	consumer *consumer // nil after basic.get
	channel  *channel
	timeout  *alarm
}

// addConsumer adds c to the queue's consumers. Consumers of the same priority take
// turns.
func (q *queue) addConsumer(c *consumer) {
	i := slices.IndexFunc(q.consumers, func(o *consumer) bool { return o.priority < c.priority })
	if i < 0 {
		i = len(q.consumers)
	}
	q.consumers = slices.Insert(q.consumers, i, c)
	q.consumed = true
	q.chooseActive()
	q.touch()
}

// removeConsumer removes c and, with the last consumer, an auto-delete queue.
func (q *queue) removeConsumer(c *consumer) {
	c.stopped = true
	q.consumers = remove(q.consumers, c)
	if q.active == c {
		q.active = nil
	}
	q.chooseActive()
	q.touch()
	if q.autoDelete && q.consumed && len(q.consumers) == 0 {
		q.remove("auto-delete")
	}
}

// consumerCount is the number of consumers the queue reports. To a quorum queue
// those that were cancelled and every basic.get count until what they have is
// acknowledged, those that wait for their turn as single active one do not. A stream
// reports none.
func (q *queue) consumerCount() int {
	if q.log != nil {
		return 0
	}
	n := len(q.consumers)
	if !q.limits.quorum {
		return n
	}
	if q.limits.singleActive {
		n = min(n, 1)
	}
	stopped := map[*consumer]bool{}
	for d := range q.unacked {
		switch {
		case d.consumer == nil:
			n++
		case d.consumer.stopped && !stopped[d.consumer]:
			stopped[d.consumer] = true
			n++
		}
	}
	return n
}

// chooseActive appoints the single active consumer when there is none.
func (q *queue) chooseActive() {
	if q.limits.singleActive && q.active == nil && len(q.consumers) > 0 {
		q.active = q.consumers[0]
	}
}

// nextConsumer returns the consumer whose turn it is, or nil.
func (q *queue) nextConsumer() *consumer {
	if q.limits.singleActive {
		if q.active != nil && q.active.ready() {
			return q.active
		}
		return nil
	}
	q.unpark()
	for _, c := range q.consumers {
		if c.parked {
			continue
		}
		if c.ready() {
			q.toBack(c)
			return c
		}
		c.parked = true
	}
	return nil
}

// unpark puts consumers that can take messages again behind their equals.
func (q *queue) unpark() {
	if !slices.ContainsFunc(q.consumers, func(c *consumer) bool { return c.parked && c.ready() }) {
		return
	}
	for _, c := range slices.Clone(q.consumers) {
		if c.parked && c.ready() {
			c.parked = false
			q.toBack(c)
		}
	}
}

// toBack moves c behind the last consumer of its priority.
func (q *queue) toBack(c *consumer) {
	i := slices.Index(q.consumers, c)
	for i+1 < len(q.consumers) && q.consumers[i+1].priority == c.priority {
		q.consumers[i], q.consumers[i+1] = q.consumers[i+1], q.consumers[i]
		i++
	}
}

// ready says whether c may get a message now.
func (c *consumer) ready() bool {
	ch := c.channel
	if ch.state != channelOpen || ch.conn.congested() {
		return false
	}
	if c.noAck {
		return true
	}
	if c.prefetch > 0 && c.unacked >= c.prefetch {
		return false
	}
	return ch.globalPrefetch == 0 || c.queue.limits.quorum || ch.consumerUnacked < ch.globalPrefetch
}

// deliver sends a message to the consumer.
func (c *consumer) deliver(e *entry) {
	ch := c.channel
	d := ch.track(e, c.queue, c, c.noAck)
	m := &basicDeliver{
		tag: c.tag, deliveryTag: d.tag, redelivered: e.redelivered,
		exchange: e.msg.exchange, key: e.msg.keys[0],
	}
	ch.conn.sendContent(ch.num, m, e.msg, e.header(c.queue, false))
}

// header returns the message's properties as this queue delivers them. A quorum
// queue counts failed deliveries; in the answer to basic.get also when there
// was none. A stream says the offset.
func (e *entry) header(q *queue, got bool) []byte {
	if q.log != nil {
		props := e.msg.props
		props.setHeaders(props.headers.with("x-stream-offset", long64(int64(e.seq)))) //nolint:gosec // it was one
		return props.encode()
	}
	if !q.limits.quorum || e.deliveries == 0 && !got {
		return e.msg.header
	}
	props := e.msg.props
	props.setHeaders(props.headers.with("x-delivery-count", long64(int64(e.deliveries))))
	return props.encode()
}

// cancelled tells the client that the broker ended the subscription.
func (c *consumer) cancelled() {
	ch := c.channel
	delete(ch.consumers, c.tag)
	if ch.state == channelOpen && ch.conn.capable("consumer_cancel_notify") {
		ch.conn.send(ch.num, &basicCancel{tag: c.tag, noWait: true})
	}
}

// stop ends the subscription; what it has unacknowledged stays so.
func (c *consumer) stop() {
	delete(c.channel.consumers, c.tag)
	if !c.queue.deleted {
		c.queue.removeConsumer(c)
	}
}
