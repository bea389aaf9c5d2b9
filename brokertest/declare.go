package brokertest

import "strings"

// exchangeCommand runs a method of class exchange.
func (ch *channel) exchangeCommand(m method) *amqpError {
	v := ch.conn.vhost
	switch m := m.(type) {
	case *exchangeDeclare:
		if err := v.declareExchange(m); err != nil {
			return err
		}
		return ch.answer(m.noWait, &exchangeDeclareOk{})
	case *exchangeDelete:
		if err := v.deleteExchange(stripLines(m.exchange), m.ifUnused); err != nil {
			return err
		}
		return ch.answer(m.noWait, &exchangeDeleteOk{})
	case *exchangeBind:
		if err := ch.bindExchange(m.source, m.destination, m.key, m.arguments); err != nil {
			return err
		}
		return ch.answer(m.noWait, &exchangeBindOk{})
	case *exchangeUnbind:
		source, target := v.exchanges[stripLines(m.source)], v.exchanges[stripLines(m.destination)]
		if m.source == "" || m.destination == "" {
			return errDefaultExchange()
		}
		if source != nil && target != nil {
			ch.unbind(&binding{source: source, target: target, key: m.key, args: m.arguments})
		}
		return ch.answer(m.noWait, &exchangeUnbindOk{})
	}
	return errCommandInvalid("unimplemented method")
}

func (ch *channel) bindExchange(source, target, key string, args table) *amqpError {
	v := ch.conn.vhost
	if source, target = stripLines(source), stripLines(target); source == "" || target == "" {
		return errDefaultExchange()
	}
	from, err := v.exchange(source)
	if err != nil {
		return err
	}
	to, err := v.exchange(target)
	if err != nil {
		return err
	}
	return ch.bind(&binding{source: from, target: to, key: key, args: args})
}

// bind adds a binding its exchange accepts.
func (ch *channel) bind(b *binding) *amqpError {
	if b.source.kind == "headers" {
		if err := checkMatch(b.args); err != nil {
			return err
		}
	}
	ch.conn.vhost.bind(b)
	return nil
}

// unbind removes a binding; one that is not there is removed already.
func (ch *channel) unbind(like *binding) {
	if b := ch.conn.vhost.findBinding(like); b != nil {
		ch.conn.vhost.removeBinding(b)
	}
}

// queueCommand runs a method of class queue.
func (ch *channel) queueCommand(m method) *amqpError {
	switch m := m.(type) {
	case *queueDeclare:
		return ch.declareQueue(m)
	case *queueBind:
		return ch.bindQueue(m)
	case *queueUnbind:
		return ch.unbindQueue(m)
	case *queuePurge:
		q, err := ch.queue(m.queue)
		if err != nil {
			return err
		}
		if q.log != nil {
			return errNotImplemented("queue.purge not supported by stream queues %s", q)
		}
		return ch.answer(m.noWait, &queuePurgeOk{messages: uint32(q.purge())})
	case *queueDelete:
		return ch.deleteQueue(m)
	}
	return errCommandInvalid("unimplemented method")
}

// queueName resolves the empty name to the queue declared last on the channel.
func (ch *channel) queueName(name string) (string, *amqpError) {
	if name == "" {
		if ch.lastQueue == "" {
			return "", errNotFound("no previously declared queue")
		}
		return ch.lastQueue, nil
	}
	return stripLines(name), nil
}

// queue returns a queue the connection may use.
func (ch *channel) queue(name string) (*queue, *amqpError) {
	name, err := ch.queueName(name)
	if err != nil {
		return nil, err
	}
	q, ok := ch.conn.vhost.queues[name]
	if !ok {
		return nil, errNotFound("no %s", ch.conn.vhost.resource("queue", name))
	}
	return q, q.usable(ch.conn)
}

// usable refuses an exclusive queue to all connections but its owner.
func (q *queue) usable(c *connection) *amqpError {
	if q.owner == nil || q.owner == c {
		return nil
	}
	return q.errLocked()
}

func (q *queue) errLocked() *amqpError {
	return errLocked("cannot obtain exclusive access to locked %s. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.", q)
}

func (ch *channel) declareQueue(m *queueDeclare) *amqpError {
	v := ch.conn.vhost
	name := stripLines(m.queue)
	if strings.HasPrefix(name, replyQueue) {
		return ch.declareReply(m, name)
	}
	q, exists := v.queues[name]
	switch {
	case m.passive && !exists:
		return errNotFound("no %s", v.resource("queue", name))
	case m.passive:
		if err := q.usable(ch.conn); err != nil {
			return err
		}
	case strings.HasPrefix(name, "amq."):
		return errReserved("queue", name)
	case exists:
		if err := q.equivalent(m, ch.conn); err != nil {
			return err
		}
	default:
		var err *amqpError
		if q, err = ch.createQueue(name, m); err != nil {
			return err
		}
	}
	ch.lastQueue = q.name
	if !m.noWait && !q.limits.quorum && q.log == nil {
		q.used()
	}
	return ch.answer(m.noWait, &queueDeclareOk{queue: q.name, messages: uint32(q.depth()), consumers: uint32(q.consumerCount())})
}

// createQueue makes a queue as declared.
func (ch *channel) createQueue(name string, m *queueDeclare) (*queue, *amqpError) {
	b, v := ch.broker(), ch.conn.vhost
	resource := v.resource("queue", name)
	if dlx, ok := m.arguments.lookup("x-dead-letter-exchange"); ok && dlx.kind != 'S' {
		return nil, errPrecondition("invalid type '%s' for arg 'x-dead-letter-exchange' in %s", dlx.typeName(), resource)
	}
	limits, err := b.parseLimits(resource, m.arguments)
	if err != nil {
		return nil, err
	}
	if limits.quorum || limits.stream {
		switch {
		case name == "":
			return nil, errPrecondition("Cannot declare a server-named queue for type %s", limits.module())
		case m.autoDelete:
			return nil, errPrecondition("invalid property 'auto-delete' for %s", resource)
		case m.exclusive:
			return nil, errPrecondition("invalid property 'exclusive-owner' for %s", resource)
		case !m.durable:
			return nil, errPrecondition("invalid property 'non-durable' for %s", resource)
		}
	}
	if name == "" {
		name = b.name("amq.gen")
	}
	q := newQueue(b, v, name, limits)
	q.durable, q.autoDelete, q.args = m.durable && !m.exclusive, m.autoDelete, m.arguments
	if q.exclusive = m.exclusive; m.exclusive {
		q.owner = ch.conn
		ch.conn.owned = append(ch.conn.owned, q)
	}
	v.queues[name] = q
	q.touch()
	return q, nil
}

// equivalent checks a second declaration against the existing queue.
func (q *queue) equivalent(m *queueDeclare, c *connection) *amqpError {
	if q.owner != nil && q.owner != c || m.exclusive != (q.owner != nil) {
		return q.errLocked()
	}
	if err := sameField(q.String(), "durable", m.durable && !m.exclusive, q.durable); err != nil {
		return err
	}
	if err := sameField(q.String(), "auto_delete", m.autoDelete, q.autoDelete); err != nil {
		return err
	}
	for _, a := range arguments {
		if !a.known(&q.limits) {
			continue
		}
		if err := sameArgument(q.String(), a.name, m.arguments, q.args); err != nil {
			return err
		}
	}
	for _, f := range m.arguments { // what is not modelled is refused here too
		if _, ok := q.args.lookup(f.key); !ok && strings.HasPrefix(f.key, "x-") {
			if _, err := q.broker.parseLimits(q.String(), m.arguments); err != nil {
				return err
			}
		}
	}
	return nil
}

func (ch *channel) bindQueue(m *queueBind) *amqpError {
	b, err := ch.queueBinding(m.queue, m.exchange, m.key, m.arguments)
	if err != nil {
		return err
	}
	if err := ch.bind(b); err != nil {
		return err
	}
	return ch.answer(m.noWait, &queueBindOk{})
}

// queueBinding resolves what a bind or unbind names.
func (ch *channel) queueBinding(queue, exchange, key string, args table) (*binding, *amqpError) {
	v := ch.conn.vhost
	name, err := ch.queueName(queue)
	if err != nil {
		return nil, err
	}
	if queue == "" && key == "" {
		key = name
	}
	if exchange = stripLines(exchange); exchange == "" {
		return nil, errDefaultExchange()
	}
	x, err := v.exchange(exchange)
	if err != nil {
		return nil, err
	}
	q, ok := v.queues[name]
	if !ok {
		return nil, errNotFound("no %s", v.resource("queue", name))
	}
	if err := q.usable(ch.conn); err != nil {
		return nil, err
	}
	return &binding{source: x, queue: q, key: key, args: args}, nil
}

func (ch *channel) unbindQueue(m *queueUnbind) *amqpError {
	b, err := ch.queueBinding(m.queue, m.exchange, m.key, m.arguments)
	switch {
	case err == nil:
		ch.unbind(b)
	case err.code == 404 && (m.queue != "" || ch.lastQueue != ""):
		// without the queue or the exchange there is no binding either
	default:
		return err
	}
	return ch.respond(&queueUnbindOk{})
}

func (ch *channel) deleteQueue(m *queueDelete) *amqpError {
	name, err := ch.queueName(m.queue)
	if err != nil {
		return err
	}
	q, ok := ch.conn.vhost.queues[name]
	if !ok {
		return ch.answer(m.noWait, &queueDeleteOk{})
	}
	if err := q.usable(ch.conn); err != nil {
		return err
	}
	switch n := q.depth(); {
	case q.log != nil: // it knows no conditions, and does not count
		q.remove("by a client")
		return ch.answer(m.noWait, &queueDeleteOk{})
	case q.limits.quorum && m.ifUnused:
		return errNotImplemented("cannot delete %s. queue.delete operations with if-unused flag set are not supported by quorum queues", q)
	case q.limits.quorum && m.ifEmpty:
		return errNotImplemented("cannot delete %s. queue.delete operations with if-empty flag set are not supported by quorum queues", q)
	case m.ifUnused && len(q.consumers) > 0:
		return errPrecondition("%s in use", q)
	case m.ifEmpty && n > 0:
		return errPrecondition("%s not empty", q)
	default:
		q.remove("by a client")
		return ch.answer(m.noWait, &queueDeleteOk{messages: uint32(n)})
	}
}
