package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// The client counts messages, receives the confirms and locks its channels, but it
// encodes slowly: 70 allocations for a message with a header table. So it publishes
// an empty message, which it encodes fast, and Conn replaces that with the real
// message, encoded by Encode.

// emptyPublish is how the client writes an empty message to the default exchange
// without a key: a method frame and a header frame. Before the first part are the
// type of the method frame and its channel; between the parts is the channel of the
// header frame.
var emptyPublish = [2][]byte{
	{0, 0, 0, 9, 0, classBasic, 0, methodPublish, 0, 0, 0, 0, 0, frameEnd, frameHeader},
	{0, 0, 0, 14, 0, classBasic, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, frameEnd},
}

// patience is how many publishes in a row may fail to be replaced. Now and then a frame
// of another channel comes in between. With a client that writes its frames one by one
// it always fails, and every message would be published twice.
const patience = 3

// UnsentError is an error after which nothing of a message was sent.
type UnsentError struct{ Err error }

func (u UnsentError) Error() string { return u.Err.Error() }

// Unwrap returns Err.
func (u UnsentError) Unwrap() error { return u.Err }

// ErrFull says that the limit of bytes that wait for the socket is reached.
var ErrFull error = UnsentError{Err: errors.New("the network takes no more")}

// Instead calls empty, which has the client publish an empty message to the default exchange,
// with no key, neither mandatory nor immediate, and sends m in its place. It reports whether
// it could. It cannot if another frame came between the frames of the client, or if the client
// writes them in another way. Then the empty message was sent, which the broker drops, and
// Instead calls whole, which has the client publish the message. After three times in a row it
// calls whole at once, for as long as the connection lives.
//
// While the socket is full it calls neither function and returns ErrFull; try again after Room.
// Every other error is an UnsentError, except that of whole.
func (c *Conn) Instead(m *Message, empty, whole func() error) (replaced bool, err error) {
	c.replacing.Lock() // one at a time
	defer c.replacing.Unlock()
	if c.full.Load() {
		return false, ErrFull
	}
	defer c.admitNext()
	if c.missed >= patience {
		return false, whole()
	}
	if err := c.offer(m); err != nil {
		return false, UnsentError{Err: err}
	}
	err = empty()
	switch replaced = c.took(); {
	case replaced:
		c.missed = 0
		return true, err
	case err != nil:
		return false, UnsentError{Err: err}
	}
	c.missed++
	return false, whole()
}

// Plain says whether the client publishes everything itself, because it was not
// possible to replace what it writes.
func (c *Conn) Plain() bool {
	c.replacing.Lock()
	defer c.replacing.Unlock()
	return c.missed >= patience
}

// offer makes m replace the next empty publish.
func (c *Conn) offer(m *Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instead = m
	return c.broken()
}

// took says whether the offered message has replaced a publish, and ends the offer.
func (c *Conn) took() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := c.instead == nil
	c.instead = nil
	return took
}

// Room waits until the socket may take another message or is broken, and returns an error with
// ErrFull if ctx ends first. It returns for one caller at a time, and each message that goes
// through Instead lets the next one return. A caller of Room that does not call Instead at once
// must call Admit.
func (c *Conn) Room(ctx context.Context) error {
	select {
	case <-c.room:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrFull, context.Cause(ctx))
	}
}

// Full says whether the limit of bytes that wait for the socket is reached.
func (c *Conn) Full() bool { return c.full.Load() }

// Admit lets one call of Room return, now or as soon as there is one.
func (c *Conn) Admit() {
	select {
	case c.room <- struct{}{}:
	default:
	}
}

func (c *Conn) admitNext() {
	if !c.full.Load() {
		c.Admit()
	}
}

// queue appends p, or the message that replaces it. c.mu is held.
func (c *Conn) queue(p []byte) {
	if c.instead == nil || !isEmptyPublish(p) {
		c.pending.append(p...)
		return
	}
	c.instead.appendTo(&c.pending, p[1:3])
	c.instead = nil
}

func isEmptyPublish(p []byte) bool {
	method := 3 + len(emptyPublish[0]) // up to the second channel
	header := method + 2
	return len(p) == header+len(emptyPublish[1]) && p[0] == frameMethod &&
		bytes.Equal(p[3:method], emptyPublish[0]) && bytes.Equal(p[header:], emptyPublish[1]) &&
		bytes.Equal(p[1:3], p[method:header])
}
