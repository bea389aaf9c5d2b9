package proof_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// A side sends.
type side int

// The two sides of a connection.
const (
	client side = iota
	broker
)

// An action is what a rule does to a unit.
type action int

// The actions. What a broker knows of a channel's publishes and what the client does must agree, so a publish that is
// swallowed or refused is replaced by one that leads nowhere, and the answer to that is kept back or turned around.
const (
	pass    action = iota
	cut            // ends the connection after rule.frames of its frames
	swallow        // it never arrives; a publish is not confirmed either
	refuse         // a publish never arrives, and is nacked
	hold           // it waits for rule.release; what comes after it does not
)

// whole is for rule.frames: all of them.
const whole = 1 << 30

// A rule breaks some units.
type rule struct {
	on    []method
	from  side
	link  string // "publish" or "consume"
	match func(*pipe, *unit) bool
	// times is how many are hit; 0 means 1, a negative number all.
	times  int
	do     action
	frames int // for cut

	hits []*unit
	held []held
}

// held is a unit that waits.
type held struct {
	lane *lane
	unit *unit
}

// A proxy stands between a service and a real broker, on a TCP socket each, and reads every frame. It watches that no
// delivery is acknowledged as long as the copy made of it for a retry or the error queue is not confirmed.
type proxy struct {
	t        *testing.T
	address  string // the broker's
	listener net.Listener
	work     sync.WaitGroup

	mu        sync.Mutex // guards what follows, and all pipes and rules
	rules     []*rule
	pipes     []*pipe
	rate      int            // bytes a second in each direction of each connection; 0 is no limit
	published map[string]int // by message id: those that went to the broker whole
	delivered map[string]int // by message id: those that went to the client whole
	acked     map[string]int // by message id of the delivery
	back      map[string]int // by message id of the delivery: given back
	unknown   map[string]int // by message id: publishes whose confirm did not reach the client
	returned  int
	changed   chan struct{} // closed and replaced whenever something happens
}

// newProxy starts a proxy before a node. It ends with the test.
func newProxy(t *testing.T, node *rabbit.Node) *proxy {
	t.Helper()
	uri, err := amqp.ParseURI(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	if uri.Scheme != "amqp" {
		t.Skip("the proxy reads frames, and the broker's address is for TLS: give an amqp:// address in AMQP_URL")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		t: t, address: net.JoinHostPort(uri.Host, fmt.Sprint(uri.Port)), listener: listener,
		published: map[string]int{}, delivered: map[string]int{}, acked: map[string]int{}, back: map[string]int{},
		unknown: map[string]int{}, changed: make(chan struct{}),
	}
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Dial is for Config.Dial: whatever the address, it leads to the proxy.
func (p *proxy) Dial(network, _ string) (net.Conn, error) {
	conn, err := net.Dial(network, p.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	return conn, smallBuffers(conn)
}

// smallBuffers makes the kernel keep little of what the proxy is slow to take.
func smallBuffers(conn net.Conn) error {
	const size = 128 << 10 // with less than a few segments of loopback, TCP itself stalls
	c := conn.(*net.TCPConn)
	return errors.Join(c.SetReadBuffer(size), c.SetWriteBuffer(size))
}

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		up, err := net.Dial("tcp", p.address)
		if err != nil {
			_ = conn.Close()
			continue // the service sees a connection that ends, and tries again
		}
		if err := errors.Join(smallBuffers(conn), smallBuffers(up)); err != nil {
			p.t.Error(err)
		}
		p.join(conn, up)
	}
}

func (p *proxy) join(conn, up net.Conn) {
	c := &pipe{
		proxy: p, sockets: [2]net.Conn{client: conn, broker: up}, closed: make(chan struct{}),
		publishes: map[uint16]*tags{}, deliveries: map[uint16]*tags{},
	}
	for from := range c.lanes {
		c.lanes[from] = &lane{pipe: c, from: side(from), frames: newAssembler(c.sockets[from]), fuse: whole}
		p.work.Go(c.lanes[from].pump)
	}
	p.locked(func() { p.pipes = append(p.pipes, c) })
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cutAll("")
	p.work.Wait()
	p.cutAll("") // one that was accepted meanwhile
	p.work.Wait()
}

func (p *proxy) locked(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

// await waits for a condition, which is looked at whenever something went through the proxy, and fails the test when
// it does not come true.
func (p *proxy) await(what string, happened func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		p.mu.Lock()
		done, changed := happened(), p.changed
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			p.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// notify is called with p.mu held.
func (p *proxy) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// add puts a rule to work.
func (p *proxy) add(r *rule) *rule {
	if r.times == 0 {
		r.times = 1
	}
	p.locked(func() { p.rules = append(p.rules, r) })
	return r
}

// remove ends a rule. What it holds stays held.
func (p *proxy) remove(r *rule) {
	p.locked(func() { p.rules = slices.DeleteFunc(p.rules, func(o *rule) bool { return o == r }) })
}

// awaitHits waits until a rule has hit n units.
func (p *proxy) awaitHits(r *rule, n int) {
	p.t.Helper()
	p.await(fmt.Sprintf("%d of %v from side %d", n, r.on, r.from), func() bool { return len(r.hits) >= n })
}

// release ends a rule that holds and lets go of what it holds, on each lane as arrange has it. What comes meanwhile
// comes after it.
func (p *proxy) release(r *rule, arrange func(*lane, []*unit) []*unit) {
	p.t.Helper()
	for _, c := range p.open() {
		c.lanes[r.from].mu.Lock()
		defer c.lanes[r.from].mu.Unlock()
	}
	p.remove(r)
	byLane := map[*lane][]*unit{}
	for _, h := range r.held {
		byLane[h.lane] = append(byLane[h.lane], h.unit)
	}
	for l, units := range byLane {
		for _, u := range arrange(l, units) {
			if err := l.send(u, u.frames); err != nil {
				p.t.Errorf("release: %v", err)
			}
		}
	}
}

// cutAll ends the connections of a link, or all if it is empty.
func (p *proxy) cutAll(link string) {
	for _, c := range p.open() {
		if link == "" || c.linkName() == link {
			c.end()
		}
	}
}

// open are the connections that are up.
func (p *proxy) open() []*pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pipes)
}

// freeze stops to forward anything on the connections that are up, without closing them.
func (p *proxy) freeze() {
	p.locked(func() {
		for _, c := range p.pipes {
			c.frozen = true
		}
	})
}

// throttle limits each direction of each connection to so many bytes a second; 0 ends that.
func (p *proxy) throttle(rate int) { p.locked(func() { p.rate = rate }) }

func (p *proxy) currentRate() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}

// struck returns the rule that a unit falls under.
func (p *proxy) struck(l *lane, u *unit) *rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rules {
		if !slices.Contains(r.on, u.method) || r.from != l.from || r.link != l.pipe.link {
			continue
		}
		if r.times > 0 && len(r.hits) >= r.times || r.match != nil && !r.match(l.pipe, u) {
			continue
		}
		r.hits = append(r.hits, u)
		if r.do == hold {
			r.held = append(r.held, held{l, u})
		}
		p.notify()
		return r
	}
	return nil
}

// A pipe is one connection through the proxy.
type pipe struct {
	proxy   *proxy
	sockets [2]net.Conn // by the side that they lead to
	lanes   [2]*lane    // by the side that sends
	ending  sync.Once
	closed  chan struct{}

	// Guarded by proxy.mu.
	link       string // the last word of the name that the library gave the connection
	frozen     bool
	publishes  map[uint16]*tags // of each channel in confirm mode: unconfirmed as far as the client knows
	deliveries map[uint16]*tags // of each channel: not acknowledged as far as the broker knows
}

func (c *pipe) linkName() string {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	return c.link
}

func (c *pipe) isFrozen() bool {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	return c.frozen
}

// end closes both sockets. It does not wait for the lanes.
func (c *pipe) end() {
	c.ending.Do(func() {
		close(c.closed)
		_ = c.sockets[client].Close()
		_ = c.sockets[broker].Close()
		c.proxy.locked(func() {
			for _, channel := range c.publishes {
				c.forget(channel.clear())
			}
			c.proxy.pipes = slices.DeleteFunc(c.proxy.pipes, func(o *pipe) bool { return o == c })
			c.proxy.notify()
		})
	})
}

// forget notes publishes whose confirm will not reach the client. proxy.mu is held.
func (c *pipe) forget(publishes []*unit) {
	for _, u := range publishes {
		if u.fate == pass {
			c.proxy.unknown[u.messageID]++
		}
	}
}

// outstanding is how many publishes the client waits for. proxy.mu is held.
func (c *pipe) outstanding() int {
	n := 0
	for _, channel := range c.publishes {
		n += len(channel.open)
	}
	return n
}

// note keeps account of a unit before any rule sees it.
func (c *pipe) note(from side, u *unit) {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	switch {
	case u.method == connectionStartOk:
		c.link = connectionName(u.frames[0])
	case u.method == channelOpen:
		c.deliveries[u.channel] = newTags()
		delete(c.publishes, u.channel)
	case u.method == confirmSelect:
		c.publishes[u.channel] = newTags()
	case u.method == channelClose:
		if t := c.publishes[u.channel]; t != nil {
			c.forget(t.clear())
			t.closed = true
		}
	case from == client && u.method == basicPublish && c.publishes[u.channel] != nil:
		t := c.publishes[u.channel]
		t.last++
		u.tag = t.last
		t.open[u.tag] = u
	}
}

// connectionName finds the last word of the connection's name.
func connectionName(startOk []byte) string {
	_, rest, found := bytes.Cut(startOk, []byte("connection_nameS"))
	if !found {
		return ""
	}
	name := string(rest[4 : 4+binary.BigEndian.Uint32(rest)])
	return name[strings.LastIndexByte(name, ' ')+1:]
}

// forwarded keeps account of a unit that goes on whole, and returns what it settles.
func (c *pipe) forwarded(from side, u *unit) (settled []*unit) {
	p := c.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case from == client && u.method == basicPublish && u.fate == pass:
		p.published[u.messageID]++
	case from == broker && u.method == basicReturn:
		p.returned++
	case from == broker && u.method == basicDeliver:
		p.delivered[u.messageID]++
		c.deliveries[u.channel].open[u.tag] = u
	case u.method != basicAck && u.method != basicNack:
		return nil
	case from == broker:
		settled = c.publishes[u.channel].settle(u)
	default:
		settled = c.deliveries[u.channel].settle(u)
		for _, d := range settled {
			c.settled(u.method, d)
		}
	}
	p.notify()
	return settled
}

// settled notes what the client did to a delivery. proxy.mu is held.
func (c *pipe) settled(m method, d *unit) {
	if m == basicNack {
		c.proxy.back[d.messageID]++
		return
	}
	c.proxy.acked[d.messageID]++
	// A delivery that comes again may have a copy on its way from the first time.
	if unconfirmed := c.proxy.copies(d); !d.redelivered && unconfirmed > c.unsettled(d) {
		c.proxy.t.Errorf("failure %d of %s was acknowledged before the copy was confirmed", d.failures+1, d.messageID)
	}
}

// copies counts the unconfirmed publishes that are made of a delivery which has failed. p.mu is held.
func (p *proxy) copies(d *unit) int {
	n := 0
	for _, c := range p.pipes {
		for _, channel := range c.publishes {
			for _, u := range channel.open {
				if u.messageID == d.messageID && u.failures == d.failures+1 {
					n++
				}
			}
		}
	}
	return n
}

// unsettled counts the other deliveries that are like this one. proxy.mu is held.
func (c *pipe) unsettled(d *unit) int {
	n := 0
	for _, channel := range c.deliveries {
		for _, u := range channel.open {
			if u.messageID == d.messageID && u.failures == d.failures {
				n++
			}
		}
	}
	return n
}

// tags are the units of a channel that wait for an ack.
type tags struct {
	last   uint64
	open   map[uint64]*unit
	closed bool // the end of the channel is on its way
}

func newTags() *tags { return &tags{open: map[uint64]*unit{}} }

// covered are the units that a confirm is for, in order.
func (t *tags) covered(confirm *unit) []*unit {
	var units []*unit
	for _, tag := range slices.Sorted(maps.Keys(t.open)) {
		if tag == confirm.tag || confirm.multiple && tag < confirm.tag {
			units = append(units, t.open[tag])
		}
	}
	return units
}

// settle takes away what a confirm is for, except what is never confirmed.
func (t *tags) settle(confirm *unit) []*unit {
	units := t.covered(confirm)
	for _, u := range units {
		if u.fate != swallow {
			delete(t.open, u.tag)
		}
	}
	return units
}

// clear takes everything away.
func (t *tags) clear() []*unit {
	units := slices.Collect(maps.Values(t.open))
	clear(t.open)
	return units
}

// A lane is one direction of a pipe.
type lane struct {
	pipe   *pipe
	from   side
	frames *assembler

	mu   sync.Mutex // one unit at a time
	fuse int        // after so many bytes more the connection is cut
	paid time.Time  // until when the rate that is allowed has been used
}

var errCut = errors.New("cut")

// pump forwards until the connection ends.
func (l *lane) pump() {
	defer l.pipe.end()
	next := l.frames.next
	if l.from == client {
		next = l.frames.greeting
	}
	for {
		u, err := next()
		if err != nil {
			return // the connection has ended
		}
		if err := l.forward(u); err != nil {
			return
		}
		next = l.frames.next
	}
}

// forward does to a unit what the rules say.
func (l *lane) forward(u *unit) error {
	if l.pipe.isFrozen() {
		<-l.pipe.closed
		return errCut
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pipe.note(l.from, u)
	r := l.pipe.proxy.struck(l, u)
	switch {
	case r == nil:
		return l.translate(u)
	case r.do == cut:
		return errors.Join(l.write(u.frames[:min(r.frames, len(u.frames))]), errCut)
	case r.do == hold:
		return nil
	case u.method == basicPublish:
		u.fate = r.do
		return l.send(u, u.nowhere())
	case r.do == swallow:
		return nil
	}
	return fmt.Errorf("action %d does not go with %v", r.do, u.method)
}

// translate has a confirm tell the client what became of the publishes that were swallowed or refused.
func (l *lane) translate(u *unit) error {
	if l.from != broker || u.method != basicAck && u.method != basicNack {
		return l.send(u, u.frames)
	}
	special, closed := false, false
	var covered []*unit
	l.pipe.proxy.locked(func() {
		closed = l.pipe.publishes[u.channel].closed
		covered = l.pipe.publishes[u.channel].covered(u)
		special = slices.ContainsFunc(covered, func(p *unit) bool { return p.fate != pass })
	})
	switch {
	case closed: // it may be for several, and for one that was swallowed
		return nil
	case !special:
		return l.send(u, u.frames)
	}
	for _, p := range covered {
		m := u.method
		if p.fate == swallow {
			continue
		}
		if p.fate == refuse {
			m = basicNack
		}
		c := newConfirm(u.channel, m, p.tag, false)
		if err := l.send(c, c.frames); err != nil {
			return err
		}
	}
	return nil
}

// send forwards a unit, as these frames. The account comes first: what follows from the unit may be seen before the
// write returns.
func (l *lane) send(u *unit, frames [][]byte) error {
	settled := l.pipe.forwarded(l.from, u)
	err := l.write(frames)
	if err != nil && l.from == broker {
		l.pipe.proxy.locked(func() { l.pipe.forget(settled) })
	}
	return err
}

func (l *lane) write(frames [][]byte) error {
	return l.pour(slices.Concat(frames...))
}

// pour writes bytes as fast as it may, until the fuse blows.
func (l *lane) pour(b []byte) error {
	for len(b) > 0 {
		n, rate := len(b), l.pipe.proxy.currentRate()
		if rate > 0 {
			n = min(n, l.allowance(rate))
		}
		n = min(n, l.fuse)
		if _, err := l.pipe.sockets[1-l.from].Write(b[:n]); err != nil {
			return err
		}
		if l.fuse -= n; l.fuse == 0 {
			return errCut
		}
		b = b[n:]
	}
	return nil
}

// allowance waits until something may be written, and says how much. What a busy machine misses is made up for.
func (l *lane) allowance(rate int) int {
	const pause, most = 20 * time.Millisecond, time.Second
	if now := time.Now(); now.Sub(l.paid) > most {
		l.paid = now.Add(-pause)
	}
	l.paid = l.paid.Add(pause)
	time.Sleep(time.Until(l.paid))
	return max(rate*int(pause)/int(time.Second), 1)
}

// cutAfter cuts the connection when so many bytes more have gone this way.
func (l *lane) cutAfter(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fuse = n
	if n == 0 {
		l.pipe.end()
	}
}
