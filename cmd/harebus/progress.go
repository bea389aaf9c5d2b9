package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress is the line that shows how many messages of a transaction are confirmed.
type progress struct {
	w       io.Writer
	total   int
	started time.Time
	live    bool // the line is rewritten in place
	stop    chan struct{}
	stopped sync.WaitGroup
}

// startProgress begins to report; done counts what has been confirmed.
func startProgress(std stdio, total int, done func() int) *progress {
	p := &progress{w: std.err, total: total, started: time.Now(), live: std.terminal, stop: make(chan struct{})}
	fmt.Fprintf(p.w, "harebus: sending %d messages in one transaction%s", total, p.ending())
	p.stopped.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.print(min(done(), total), p.ending())
			}
		}
	})
	return p
}

// end reports how many were confirmed in the end.
func (p *progress) end(confirmed int) {
	close(p.stop)
	p.stopped.Wait()
	p.print(confirmed, "\n")
}

func (p *progress) print(confirmed int, ending string) {
	start := ""
	if p.live {
		start = "\r\x1b[K" // clears what the line said before
	}
	fmt.Fprintf(p.w, "%sharebus: %d of %d messages confirmed after %v%s",
		start, confirmed, p.total, time.Since(p.started).Round(time.Millisecond), ending)
}

func (p *progress) ending() string {
	if p.live {
		return ""
	}
	return "\n"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
