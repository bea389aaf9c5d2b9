package resend

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wait"
)

// stripAt is the number of refusals after which a copy has no custom headers.
const stripAt = 3

// stripRefused removes the custom headers of a copy of a message that was refused too often.
func (c *Case) stripRefused(out *publish.Message) {
	if c.Queue.refusals.of(c.ID) >= stripAt && !c.Deadly {
		c.strip(out)
	}
}

// refused waits before a message whose copy was refused goes back to its queue, because the
// broker would deliver it again at once. The pause grows.
func (c *Case) refused(err error) {
	n := c.Queue.refusals.add(c.ID)
	if n == 1 || n == stripAt+1 {
		c.On.Log().Error("a copy of a message that failed is refused; the message goes back to its queue",
			append(c.Fields(), zap.Int("refusals", n), zap.Bool("without_custom_headers", c.Deadly), zap.Error(err))...)
	}
	wait.Sleep(c.On.Stopping(), min(time.Second<<min(n-1, 10), quiet))
}

// refusals are how often copies of messages were refused, by message id.
type refusals struct {
	mu     sync.Mutex // guards counts
	counts map[string]int
}

func (r *refusals) of(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[id]
}

func (r *refusals) add(id string) int {
	const most = 1000 // a longer list starts anew
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil || len(r.counts) >= most {
		r.counts = map[string]int{}
	}
	r.counts[id]++
	return r.counts[id]
}

func (r *refusals) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.counts, id)
}
