package harebus

import (
	"bytes"
	"context"
	"runtime"
	"strconv"
)

// inHandler says whether the caller is inside a handler of this engine: ctx carries
// a message that is being handled, or the goroutine is that of a busy worker.
func (e *engine) inHandler(ctx context.Context) bool {
	m, self := Incoming(ctx), goroutine()
	for _, c := range e.consumers {
		for i := range c.places {
			r := c.places[i].hand.Load()
			if r != nil && (c.places[i].goroutine.Load() == self || (m != nil && r.shown.Load() == m)) {
				return true
			}
		}
	}
	return false
}

// goroutine is the number of the calling goroutine, from the first line of its
// stack. It is needed because Close has no context. It is slow, so it is for rare
// calls only.
func goroutine() int64 {
	var stack [64]byte
	fields := bytes.Fields(stack[:runtime.Stack(stack[:], false)])
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0 // no goroutine has it
	}
	return n
}
