package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// The client counts messages, keeps the confirms and guards its channels, but
// encodes slowly: 70 allocations for a message with a header table. So it
// publishes an empty message instead, which it encodes in no time, and Conn puts
// the real one, encoded by Encode, in its place.

// emptyPublish is how the client writes a publish of nothing to nowhere: a method
// frame and a header frame. What stands before the first part is the type of the
// method frame and its channel, between the parts the channel of the header frame.
var emptyPublish = [2][]byte{
	{0, 0, 0, 9, 0, classBasic, 0, methodPublish, 0, 0, 0, 0, 0, frameEnd, frameHeader},
	{0, 0, 0, 14, 0, classBasic, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, frameEnd},
}

// ErrFull says that nothing of a message was sent: as much as may wait for the socket is waiting.
var ErrFull = errors.New("the network takes no more")

// Instead calls publish, which has the client publish an empty message to the
// default exchange, with no key, neither mandatory nor immediate, and sends m in its place. It
// reports whether it could. If not, because something came between the frames of
// the client or it has come to write them differently, the empty message was sent
// (or publish failed), and the broker drops it.
//
// While the socket is full it calls nothing and returns ErrFull; try again after Room.
func (c *Conn) Instead(m *Message, publish func() error) (replaced bool, err error) {
	c.replacing.Lock() // one at a time
	defer c.replacing.Unlock()
	if c.full.Load() {
		return false, ErrFull
	}
	c.mu.Lock()
	c.instead = m
	c.mu.Unlock()
	err = publish()
	c.mu.Lock()
	replaced = c.instead == nil
	c.instead = nil
	c.mu.Unlock()
	if !c.full.Load() {
		c.Admit()
	}
	return replaced, err
}

// Room waits until the socket may take another message or is broken, and returns ErrFull if ctx
// ends first. Each message that goes through Instead lets the next out of Room: were all let out
// together, all would be on their way at once, however slow that is. So whoever was let out and does
// not call Instead must call Admit.
func (c *Conn) Room(ctx context.Context) error {
	select {
	case <-c.room:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrFull, context.Cause(ctx))
	}
}

// Admit lets one message out of Room, now or as soon as one is there.
func (c *Conn) Admit() {
	select {
	case c.room <- struct{}{}:
	default:
	}
}

// queue adds p to what is pending, or what takes its place. c.mu is held.
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
