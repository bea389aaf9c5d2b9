package brokertest

import (
	"context"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Side is who sends a frame.
type Side int

// The two sides of a connection.
const (
	FromClient Side = iota
	FromBroker
)

// Action is what a Fault does with a frame.
type Action int

// The actions. "The method" includes the method's message, if it has one.
const (
	// CutBefore ends the connection instead of handling or sending the method;
	// what was sent before still arrives.
	CutBefore Action = iota
	// CutAfter ends the connection after the method was handled or sent. The
	// effects of a client's method stay, and its answer is lost: a publish is in
	// its queue and never confirmed.
	CutAfter
	// Drop ignores the method; the connection stays open.
	Drop
	// Hold keeps the method back until Release. Frames behind a held broker method
	// overtake it. Frames behind a held client method wait.
	Hold
	// Delay keeps the method back for the duration in For.
	Delay
	// Nack answers a client's basic.publish with basic.nack and does not route the
	// message. It replaces the broker's basic.ack by a basic.nack, although the
	// message is in its queues.
	Nack
	// Return returns a client's basic.publish as unroutable and confirms it.
	Return
	// Raise answers a client's method with the channel or connection error in
	// Code and Text.
	Raise
	// Poison sends a basic.deliver or basic.get-ok with a header nested deeper
	// than amqp091-go reads: the client's connection breaks.
	Poison
)

// Fault says what goes wrong and when.
type Fault struct {
	// On is the method as the protocol names it, such as "basic.publish".
	On string
	// From is the side that sends it; the zero value is FromClient.
	From Side
	// Nth is the number of the first method that is hit, counted from 1 among those
	// that match since Inject; 0 means 1.
	Nth int
	// Times is how many methods are hit from then on; 0 means 1, a negative number
	// all.
	Times int
	// Chance is the probability with which each of them is hit; 0 means always. The
	// random numbers come from the broker's seed.
	Chance float64
	// Match restricts the fault further; nil matches everything. It is called
	// with the broker's lock held and must not call the broker.
	Match func(Frame) bool
	// Do is the action; the zero value is CutBefore.
	Do Action
	// For is how long Delay delays.
	For time.Duration
	// Code and Text are what Raise raises, for example 403.
	Code int
	Text string
}

// Frame is what a Fault's Match is given. Fields that a method does not have are
// empty.
type Frame struct {
	Method      string
	Connection  string // the name the client gave it
	Channel     int
	Queue       string
	Exchange    string
	RoutingKey  string
	ConsumerTag string
	DeliveryTag uint64
	MessageID   string
	Headers     amqp.Table
}

// Injection is an active fault.
type Injection struct {
	broker *Broker
	fault  Fault
	seen   int
	fired  int
	held   []func() // continuations of held methods, in their order
}

// verdict is what a fault decided about a client's method.
type verdict int

const (
	verdictPass   verdict = iota
	verdictGone           // it is not handled, or later
	verdictNack           // of a publish
	verdictReturn         // of a publish
)

// Inject activates a fault. It panics for a fault that can never happen, such as
// Nack of a queue.declare, because that is a mistake in the test.
func (b *Broker) Inject(f Fault) *Injection {
	if err := f.check(); err != nil {
		panic(err)
	}
	if f.Nth == 0 {
		f.Nth = 1
	}
	if f.Times == 0 {
		f.Times = 1
	}
	i := &Injection{broker: b, fault: f}
	b.locked(func() { b.faults = append(b.faults, i) })
	return i
}

// check refuses impossible faults.
func (f *Fault) check() error {
	known := false
	for _, m := range methods {
		known = known || m.name == f.On
	}
	var only []string
	switch f.Do {
	case Nack:
		only = []string{"basic.publish"}
		if f.From == FromBroker {
			only = []string{"basic.ack"}
		}
	case Return:
		only = []string{"basic.publish"}
	case Poison:
		only = []string{"basic.deliver", "basic.get-ok"}
	}
	oneSided := f.Do == Return || f.Do == Raise
	switch {
	case !known:
		return fmt.Errorf("brokertest: inject: no method is called %q", f.On)
	case only != nil && !slices.Contains(only, f.On), oneSided && f.From != FromClient, f.Do == Poison && f.From != FromBroker:
		return fmt.Errorf("brokertest: inject: action %d does not go with %s", f.Do, f.On)
	case f.Do == Raise && codeNames[uint16(f.Code)] == "":
		return fmt.Errorf("brokertest: inject: no error has code %d", f.Code)
	case f.Chance < 0 || f.Chance > 1:
		return fmt.Errorf("brokertest: inject: chance %v", f.Chance)
	}
	return nil
}

// Fired returns how many methods the fault hit so far.
func (i *Injection) Fired() int {
	i.broker.mu.Lock()
	defer i.broker.mu.Unlock()
	return i.fired
}

// WaitFired waits until the fault has hit n methods.
func (i *Injection) WaitFired(ctx context.Context, n int) error {
	return i.broker.waitFor(ctx, &waiter{ok: func() bool { return i.fired >= n }})
}

// Release passes on the frames that the fault holds, in order, and ends the
// holding.
func (i *Injection) Release() {
	i.broker.locked(func() {
		i.broker.faults = remove(i.broker.faults, i)
		held := i.held
		i.held = nil
		for _, resume := range held {
			resume()
		}
	})
}

// Remove ends the fault; frames that it holds stay held until Release.
func (i *Injection) Remove() {
	i.broker.locked(func() { i.broker.faults = remove(i.broker.faults, i) })
}

// fires counts a matching method and says whether it is hit.
func (i *Injection) fires() bool {
	i.seen++
	f := &i.fault
	if i.seen < f.Nth || f.Times > 0 && i.fired >= f.Times {
		return false
	}
	if f.Chance > 0 && i.broker.rand.Float64() >= f.Chance {
		return false
	}
	i.fired++
	return true
}

// struck returns the fault that hits a method, or nil. Faults are asked in the
// order of their injection; the first that hits decides.
func (c *connection) struck(from Side, m method, channel uint16, p *properties) *Injection {
	faults := c.broker.faults
	if len(faults) == 0 {
		return nil
	}
	name := m.id().String()
	for _, i := range faults {
		if i.fault.On != name || i.fault.From != from {
			continue
		}
		if i.fault.Match != nil && !i.fault.Match(c.describe(m, channel, p)) {
			continue
		}
		if i.fires() {
			c.broker.logf("connection %d, channel %d: fault hits %s", c.id, channel, name)
			return i
		}
	}
	return nil
}

// describe makes a Frame of a method.
func (c *connection) describe(m method, channel uint16, p *properties) Frame {
	f := Frame{Method: m.id().String(), Connection: c.props.str("connection_name"), Channel: int(channel)}
	switch m := m.(type) {
	case *basicPublish:
		f.Exchange, f.RoutingKey = m.exchange, m.key
	case *basicDeliver:
		f.Exchange, f.RoutingKey, f.ConsumerTag, f.DeliveryTag = m.exchange, m.key, m.tag, m.deliveryTag
		if ch := c.channels[channel]; ch != nil && ch.consumers[m.tag] != nil {
			f.Queue = ch.consumers[m.tag].queue.name
		}
	case *basicReturn:
		f.Exchange, f.RoutingKey = m.exchange, m.key
	case *basicGetOk:
		f.Exchange, f.RoutingKey, f.DeliveryTag = m.exchange, m.key, m.deliveryTag
	case *basicAck:
		f.DeliveryTag = m.deliveryTag
	case *basicNack:
		f.DeliveryTag = m.deliveryTag
	case *basicReject:
		f.DeliveryTag = m.deliveryTag
	case *basicConsume:
		f.Queue, f.ConsumerTag = m.queue, m.tag
	case *basicConsumeOk:
		f.ConsumerTag = m.tag
	case *basicCancel:
		f.ConsumerTag = m.tag
	case *basicGet:
		f.Queue = m.queue
	case *queueDeclare:
		f.Queue = m.queue
	case *queueDeclareOk:
		f.Queue = m.queue
	case *queueDelete:
		f.Queue = m.queue
	case *queueBind:
		f.Queue, f.Exchange, f.RoutingKey = m.queue, m.exchange, m.key
	case *queueUnbind:
		f.Queue, f.Exchange, f.RoutingKey = m.queue, m.exchange, m.key
	case *exchangeDeclare:
		f.Exchange = m.exchange
	}
	if p != nil {
		f.MessageID, f.Headers = p.messageID, p.headers.public()
	}
	return f
}

// intercept lets the faults look at a client's method. later handles it when a
// fault keeps it back.
func (c *connection) intercept(m method, channel uint16, p *properties, later func()) (verdict, *amqpError) {
	i := c.struck(FromClient, m, channel, p)
	if i == nil {
		return verdictPass, nil
	}
	switch i.fault.Do {
	case CutBefore:
		c.doom()
		return verdictGone, nil
	case CutAfter:
		c.doom()
		return verdictPass, nil
	case Drop:
		return verdictGone, nil
	case Hold:
		i.held = append(i.held, c.suspend(later))
		return verdictGone, nil
	case Delay:
		c.broker.clock.after(i.fault.For, c.suspend(later))
		return verdictGone, nil
	case Nack:
		return verdictNack, nil
	case Return:
		return verdictReturn, nil
	case Raise:
		if ch := c.channels[channel]; ch != nil && ch.state == channelClosing {
			return verdictPass, nil // a broker closes a channel once, and ignores what still comes
		}
		e := raised(i.fault.Code, i.fault.Text)
		return verdictGone, e.at(m.id())
	}
	return verdictPass, nil
}

// suspend stops reading from the client until the returned function is called,
// which handles what is kept back first.
func (c *connection) suspend(later func()) func() {
	c.broker.holding++
	gate := make(chan struct{})
	c.gate = gate
	return func() {
		c.broker.holding--
		if c.gate == gate {
			c.gate = nil
			close(gate)
			later()
		}
	}
}

// doom cuts the connection when the operation ends. Bytes that are already queued
// are still sent, but nothing more.
func (c *connection) doom() {
	if !c.doomed {
		c.doomed = true
		c.broker.doomed = append(c.broker.doomed, c)
	}
}

// outgoing lets the faults look at a method for the client, then sends it.
func (c *connection) outgoing(m method, channel uint16, msg *message, header []byte) {
	var p *properties
	if msg != nil {
		p = &msg.props
	}
	i := c.struck(FromBroker, m, channel, p)
	if i == nil {
		c.encode(channel, m, msg, header)
		return
	}
	send := func() { c.encode(channel, m, msg, header) }
	switch i.fault.Do {
	case CutBefore:
		c.doom()
	case CutAfter:
		send()
		c.doom()
	case Hold, Delay:
		c.broker.holding++
		ch := c.openChannel(channel)
		resume := func() {
			c.broker.holding--
			if ch == nil || ch.state != channelClosing {
				send()
			}
		}
		if i.fault.Do == Hold {
			i.held = append(i.held, resume)
		} else {
			c.broker.clock.after(i.fault.For, resume)
		}
	case Nack:
		ack := m.(*basicAck)
		c.encode(channel, &basicNack{deliveryTag: ack.deliveryTag, multiple: ack.multiple}, nil, nil)
	case Poison:
		c.encode(channel, m, msg, poisoned(msg.props))
	}
}

// openChannel returns a channel that the broker has not closed. Nothing that is held for it follows
// its channel.close.
func (c *connection) openChannel(number uint16) *channel {
	if ch := c.channels[number]; ch != nil && ch.state != channelClosing {
		return ch
	}
	return nil
}

// poisoned encodes properties with a header no amqp091-go client can read.
func poisoned(p properties) []byte {
	v := text("poison")
	for range 64 {
		v = value{'F', table{{"p", v}}}
	}
	p.setHeaders(p.headers.with("poison", v))
	return p.encode()
}

// codeNames are the names of the errors Raise knows.
var codeNames = map[uint16]string{
	311: "CONTENT_TOO_LARGE", 313: "NO_CONSUMERS", 320: "CONNECTION_FORCED", 402: "INVALID_PATH",
	403: "ACCESS_REFUSED", 404: "NOT_FOUND", 405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED",
	501: "FRAME_ERROR", 502: "SYNTAX_ERROR", 503: "COMMAND_INVALID", 504: "CHANNEL_ERROR",
	505: "UNEXPECTED_FRAME", 506: "RESOURCE_ERROR", 530: "NOT_ALLOWED", 540: "NOT_IMPLEMENTED",
	541: "INTERNAL_ERROR",
}

// raised builds the error of a Raise. Which codes end the connection is the
// protocol's choice.
func raised(code int, s string) *amqpError {
	hard := code >= 500 || code == 320 || code == 402
	return amqpErr(uint16(code), hard, codeNames[uint16(code)], "%s", s)
}
