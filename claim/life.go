package claim

import (
	"context"
	"time"

	"github.com/harebus/harebus"
)

// Keeper is a [Store] that can keep a body for longer: its age counts from now. The guard calls
// Keep when a message is parked, which may wait in the error queue for long.
type Keeper interface {
	Keep(ctx context.Context, key string) error
}

// Deleter is a [Store] that can delete a body. To delete one that is not there is no failure.
type Deleter interface {
	Delete(ctx context.Context, key string) error
}

// Stats count what a guard has done with bodies beside storing and fetching. A failure is not tried
// again: Keep leaves a body at its age, and what was not deleted goes by its age.
type Stats struct {
	Kept, KeepFailed, Deleted, DeleteFailed uint64
	// Left are the bodies that Config.DeleteHandled has left: more than ten thousand waited, or
	// the guard was closed.
	Left uint64
}

// Stats returns the counts since New.
func (g *Guard) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}

// mostDue is how many handled bodies wait to be deleted.
const mostDue = 10_000

// dueBody is a body that is to be deleted.
type dueBody struct {
	key string
	at  time.Time
}

// fetched is the key, in a context, of the body whose message is being handled.
type fetched struct{}

// storeTime is how long a store may take to keep or delete a body. An observer has five seconds.
const storeTime = 4 * time.Second

// ObserveStart notes the body of a message that is handled, and keeps that of one that is parked.
func (g *Guard) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	switch o.Operation {
	case harebus.OpHandle:
		if key, ok := g.keyOf(o.Incoming); ok {
			return context.WithValue(ctx, fetched{}, key)
		}
	case harebus.OpPark:
		key, ok := ctx.Value(fetched{}).(string)
		if !ok {
			key, ok = g.keyOf(o.Incoming)
		}
		if ok {
			g.keep(ctx, key)
		}
	default:
	}
	return ctx
}

// ObserveEnd notes that the body of a command has been of use.
func (g *Guard) ObserveEnd(ctx context.Context, o harebus.Observation, _ error) {
	if g.cfg.DeleteHandled == 0 || o.Operation != harebus.OpHandle || o.Outcome != harebus.AttemptHandled || o.Incoming.Intent != harebus.IntentCommand {
		return
	}
	if key, ok := ctx.Value(fetched{}).(string); ok {
		g.deleteLater(key)
	}
}

// keyOf returns the key of a message that has come with a reference.
func (g *Guard) keyOf(m *harebus.Message) (string, bool) {
	if m == nil || m.ContentType != ContentType {
		return "", false
	}
	r, err := decode(m.Body)
	return r.key, err == nil && g.check(r) == nil
}

func (g *Guard) keep(ctx context.Context, key string) {
	keeper, ok := g.cfg.Store.(Keeper)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	err := keeper.Keep(ctx, key)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.stats.KeepFailed++
		return
	}
	g.stats.Kept++
}

// deleteLater has a body deleted when its time has come. A goroutine runs as long as one waits.
func (g *Guard) deleteLater(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(g.due) >= mostDue {
		g.stats.Left++
		return
	}
	g.due = append(g.due, dueBody{key, time.Now().Add(g.cfg.DeleteHandled)})
	if !g.deleting {
		g.deleting = true
		g.work.Go(g.deleteDue)
	}
}

// deleteDue deletes bodies until none waits, or the guard is closed.
func (g *Guard) deleteDue() {
	for {
		next, ok := g.next()
		if !ok {
			return
		}
		timer := time.NewTimer(time.Until(next.at))
		select {
		case <-timer.C:
		case <-g.stop:
			timer.Stop()
			continue
		}
		err := g.remove(next.key)
		g.mu.Lock()
		g.due = g.due[1:]
		if err != nil {
			g.stats.DeleteFailed++
		} else {
			g.stats.Deleted++
		}
		g.mu.Unlock()
	}
}

// next returns the body to delete next. Without one, or when the guard is closed, the deleting ends.
func (g *Guard) next() (dueBody, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(g.due) == 0 {
		g.stats.Left += uint64(len(g.due))
		g.due, g.deleting = nil, false
		return dueBody{}, false
	}
	return g.due[0], true
}

func (g *Guard) remove(key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	return g.cfg.Store.(Deleter).Delete(ctx, key) //nolint:forcetypeassert // New has checked it
}

// Close ends the deleting of handled bodies; those that wait for it are left. Close the setup
// first. Without DeleteHandled there is nothing to close.
func (g *Guard) Close() error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.stop)
	}
	g.mu.Unlock()
	g.work.Wait()
	return nil
}
