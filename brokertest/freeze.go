package brokertest

import "time"

// freeze is a time in which the broker does nothing.
type freeze struct {
	over chan struct{}
	end  *time.Timer
}

// Freeze stops the broker for d, as SIGSTOP does: it accepts connections and bytes, as the kernel
// would, but handles and sends nothing, not even heartbeats. Timers that expire meanwhile take
// effect at the end. A second Freeze replaces the first; 0 ends it. Calls of the test still work.
//
// A client that uses Dial without heartbeats only notices that it gets no answers. To
// test what a network client would notice, set an interval, such as Connect.Heartbeat
// of harebus.
func (b *Broker) Freeze(d time.Duration) {
	b.locked(func() {
		b.logf("frozen for %v", d)
		b.thaw()
		if b.closed || d <= 0 {
			return
		}
		b.holding++
		f := &freeze{over: make(chan struct{})}
		b.frozen.Store(f)
		f.end = time.AfterFunc(d, func() {
			b.locked(func() {
				if b.frozen.Load() == f {
					b.thaw()
				}
			})
		})
	})
}

// thaw ends the freeze. The broker first handles what has become due.
func (b *Broker) thaw() {
	f := b.frozen.Swap(nil)
	if f == nil {
		return
	}
	f.end.Stop()
	b.holding--
	close(f.over)
	if b.closed {
		return
	}
	for _, c := range b.conns {
		if c.handled == 0 { // only now it learns of the client
			c.awaitHandshake()
		}
	}
	b.clock.due(time.Now())
}

// waitThaw waits while the broker is frozen.
func (b *Broker) waitThaw() {
	for {
		f := b.frozen.Load()
		if f == nil {
			return
		}
		<-f.over
	}
}

// thawedWriter writes nothing while the broker is frozen. A transport that accepts
// nothing for the write timeout has failed.
type thawedWriter struct{ c *connection }

func (w thawedWriter) Write(p []byte) (int, error) {
	b := w.c.broker
	b.waitThaw()
	if err := w.c.conn.SetWriteDeadline(time.Now().Add(b.cfg.writeTimeout)); err != nil {
		return 0, err
	}
	return w.c.conn.Write(p)
}
