package brokertest

import (
	"strings"
	"time"
)

// start offers the broker to a new client.
func (c *connection) start() {
	caps := table{}
	for _, name := range []string{
		"publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
		"connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
		"direct_reply_to",
	} {
		caps = append(caps, field{name, boolean(true)})
	}
	c.send(0, &connectionStart{
		versionMajor: 0, versionMinor: 9,
		properties: table{
			{"capabilities", value{'F', caps}},
			{"cluster_name", text("brokertest")},
			{"product", text("RabbitMQ")}, // which clients ask for before they use its extensions
			{"platform", text("Go")},
			{"version", text("3.10.8")},
			{"information", text("in-process broker for tests, modelled on RabbitMQ 3.10")},
		},
		mechanisms: "PLAIN AMQPLAIN",
		locales:    "en_US",
	})
}

// startOK checks who the client is.
func (c *connection) startOK(m *connectionStartOk) *amqpError {
	c.props = m.properties
	if v, ok := m.properties.lookup("capabilities"); ok {
		c.caps, _ = v.v.(table)
	}
	user, password, err := credentials(m.mechanism, m.response)
	if err != nil {
		return err
	}
	if want, ok := c.broker.cfg.users[user]; !ok || want != password {
		c.refuse(m.mechanism, user)
		return nil
	}
	c.user = user
	c.state = connTuning
	c.send(0, &connectionTune{channelMax: c.broker.cfg.channelMax, frameMax: c.broker.cfg.frameMax, heartbeat: uint16(c.heartbeat() / time.Second)})
	return nil
}

// heartbeat is the interval to suggest.
func (c *connection) heartbeat() time.Duration {
	switch {
	case c.broker.cfg.heartbeat >= 0:
		return c.broker.cfg.heartbeat
	case c.pipe != nil:
		return 0
	default:
		return time.Minute
	}
}

// refuse turns away a client with a wrong password. One that does not know the
// error is just cut off, as RabbitMQ does.
func (c *connection) refuse(mechanism, user string) {
	// If the client did not ask for the error, RabbitMQ waits before it closes the
	// connection. By this time a client can tell a bad password from a broker that
	// goes down.
	const silentClose = 3 * time.Second
	c.broker.logf("connection %d: login of %q refused", c.id, user)
	if !c.capable("authentication_failure_close") {
		c.broker.clock.cancel(c.deadline)
		c.deadline = c.broker.clock.after(silentClose, c.terminate)
		return
	}
	c.fail(&amqpError{
		code: 403, hard: true,
		text: "ACCESS_REFUSED - Login was refused using authentication mechanism " + mechanism + ". For details see the broker logfile.",
	})
}

// credentials reads the answer of a login mechanism.
func credentials(mechanism, response string) (user, password string, err *amqpError) {
	switch mechanism {
	case "PLAIN":
		parts := strings.Split(response, "\x00")
		if len(parts) != 3 {
			return "", "", errSyntax("response '%q' invalid", response)
		}
		return parts[1], parts[2], nil
	case "AMQPLAIN":
		e := encoder{}
		e.longstr(&response)
		d := decoder{buf: e.buf}
		t := d.fields()
		if d.err != nil {
			return "", "", errSyntax("AMQPLAIN response invalid: %v", d.err)
		}
		return t.str("LOGIN"), t.str("PASSWORD"), nil
	}
	return "", "", errCommandInvalid("unknown authentication mechanism '%s'", mechanism)
}

// channelMax is the number of channels a connection may have by default.
const channelMax = 2047

// tuneOK takes over the client's limits. Limits that are not allowed end the
// connection without connection.close, as on RabbitMQ.
func (c *connection) tuneOK(m *connectionTuneOk) {
	cfg := &c.broker.cfg
	if m.frameMax < frameMin || m.frameMax > cfg.frameMax || m.channelMax < 1 || m.channelMax > cfg.channelMax {
		c.broker.logf("connection %d: cannot negotiate frame_max %d, channel_max %d", c.id, m.frameMax, m.channelMax)
		c.terminate()
		return
	}
	c.frameMax, c.channelMax = m.frameMax, m.channelMax
	c.state = connOpening
	if m.heartbeat > 0 {
		c.beat(time.Duration(m.heartbeat) * time.Second)
	}
}

// open lets the client into a virtual host.
func (c *connection) open(m *connectionOpen) *amqpError {
	v, ok := c.broker.vhosts[m.vhost]
	if !ok {
		return errNotAllowed("vhost %s not found", m.vhost)
	}
	c.vhost = v
	c.state = connRunning
	c.broker.moves++
	c.broker.clock.cancel(c.deadline)
	c.broker.logf("connection %d: user '%s' entered vhost '%s'", c.id, c.user, v.name)
	c.send(0, &connectionOpenOk{})
	return nil
}

// beat sends heartbeats to an idle client and cuts off a silent one: nothing
// sent for half an interval, nothing received for two.
func (c *connection) beat(interval time.Duration) {
	clock := &c.broker.clock
	sent := c.sentFrames
	var send, watch func()
	send = func() {
		if c.sentFrames == sent {
			c.push([]byte{frameHeartbeat, 0, 0, 0, 0, 0, 0, frameEnd})
		}
		sent = c.sentFrames
		if c.state < connClosing {
			c.beats[0] = clock.after(interval/2, send)
		}
	}
	seen, missed := c.received, 0
	watch = func() {
		if missed++; c.received != seen || c.gate != nil || c.valve != nil {
			seen, missed = c.received, 0
		}
		if missed >= 2 {
			c.broker.logf("connection %d: missed heartbeats from client, timeout: %v", c.id, interval)
			c.terminate()
			return
		}
		c.beats[1] = clock.after(interval, watch)
	}
	c.beats[0] = clock.after(interval/2, send)
	c.beats[1] = clock.after(interval, watch)
}
