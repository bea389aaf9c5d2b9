package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// narrator prints what happens, with the time since the start. The services call
// it from their handlers, so it is locked.
type narrator struct {
	start time.Time

	mu  sync.Mutex // guards out
	out io.Writer
}

// say prints a line that belongs to no service.
func (n *narrator) say(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.out, format+"\n", args...)
}

// chapter prints a heading.
func (n *narrator) chapter(title string) {
	n.say("\n%s", title)
}

// tell prints what a service does.
func (n *narrator) tell(who, format string, args ...any) {
	n.say("%6.2fs  %-9s %s", time.Since(n.start).Seconds(), who, fmt.Sprintf(format, args...))
}
