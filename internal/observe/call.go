package observe

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/foreign"
)

// job is what an observer is to be told.
type job[E Event] struct {
	ctx     context.Context
	event   E
	carrier map[string]any // the event's, at the start
	end     bool           // ObserveEnd, not ObserveStart
	err     error
}

// call is one call of an observer. It is used again after it has returned in time.
type call[E Event] struct {
	job[E]
	observer Observer[E]
	how      *Config[E]
	own      context.Context // what ObserveStart returned
	left     map[string]any  // what it has left
	ended    chan error      // with room, so that a late call can end
	timer    *time.Timer
}

func newCall[E Event]() *call[E] {
	c := &call[E]{ended: make(chan error, 1), timer: time.NewTimer(Patience)}
	c.timer.Stop()
	return c
}

// call calls an observer in a goroutine of its own, which it may end or block. It returns
// what ObserveStart has returned and left, and whether the call was a success. An
// observer that does not answer is left out until its call has returned.
func (g *Group[E]) call(observer int, j job[E]) (own context.Context, left map[string]any, ok bool) {
	s := g.seats[observer]
	if s.late.Load() > 0 {
		return nil, nil, false
	}
	c, _ := g.calls.Get().(*call[E])
	c.job, c.observer, c.how = j, s.observer, &g.how
	c.timer.Reset(Patience)
	go c.run()
	var err error
	select {
	case err = <-c.ended:
		c.timer.Stop()
		own, left = c.own, c.left
		c.job, c.own, c.left = job[E]{}, nil, nil
		g.calls.Put(c)
		if err == nil {
			return own, left, true
		}
	case <-c.timer.C:
		err = errLate
		s.late.Add(1)
		go func() {
			failed := <-c.ended != nil
			s.late.Add(-1)
			g.how.Log.Info("an observer that did not answer has returned", zap.Bool("failed", failed))
		}()
	}
	g.how.Log.Error("an observer failed", zap.Bool("end", j.end), zap.Stringer("operation", j.event), zap.String("error", foreign.Details(err)))
	return nil, nil, false
}

func (c *call[E]) run() { foreign.Conclude(c.tell, c.conclude) }

func (c *call[E]) tell() error { //nolint:unparam // as guard wants it
	if c.end {
		c.observer.ObserveEnd(c.ctx, c.event, c.how.Shown(c.err))
		return nil
	}
	c.own = c.observer.ObserveStart(c.ctx, c.event)
	if len(c.carrier) > 0 {
		c.left = c.how.Headers(c.carrier)
	}
	return nil
}

func (c *call[E]) conclude(err error) { c.ended <- err }
