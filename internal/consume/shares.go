package consume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/order"
)

// errHandOver is why a consumer has no feed for a moment: another instance is to have its partition.
var errHandOver = errors.New("handing the partition over to another instance")

const (
	// census is how often the instances are counted.
	census = 500 * time.Millisecond
	// stays is for how long a partition stays that nobody else wanted: it has come back, and the number of instances is the same.
	stays = 30 * time.Second
)

// Shares are the partitions of a divided queue that this process has. All instances stand in line for each of them, so the next
// one has it as soon as its owner is gone. Who has more than its share gives some up, and stands at the end of their lines.
type Shares struct {
	size  int // how many partitions there are
	alone solitude

	mu      sync.Mutex // guards what follows
	members int        // instances; 0 while that is not known
	owned   map[*consumer]*holding
	gave    map[*consumer]time.Time // when it was given up last
}

// holding is a partition that this process has.
type holding struct {
	since   time.Time
	leaving bool // it is to be given up
}

// NewShares makes those of a process, of so many partitions.
func NewShares(size int) *Shares {
	return &Shares{size: size, owned: map[*consumer]*holding{}, gave: map[*consumer]time.Time{}}
}

// take notes that this process has a partition. It is taken even if it is too much: so it is handled until another one has it. A nil Shares has
// no partitions.
func (s *Shares) take(c *consumer) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owned[c] = &holding{since: time.Now()}
}

// release notes that the process does not have the partition any more.
func (s *Shares) release(c *consumer) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.owned, c)
}

// surplus says whether a partition is to be given up.
func (s *Shares) surplus(c *consumer) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.owned[c]
	return one != nil && one.leaving
}

// know takes the number of instances, and has what is too much given up: the latest first, which perhaps has come from another one that had too
// much, and goes on along its line.
func (s *Shares) know(members int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members != members {
		clear(s.gave) // what nobody wanted before, somebody may want now
	}
	s.members = members
	kept := slices.DeleteFunc(slices.Collect(maps.Keys(s.owned)), func(c *consumer) bool { return s.owned[c].leaving })
	slices.SortFunc(kept, func(a, b *consumer) int {
		return cmp.Or(s.owned[b].since.Compare(s.owned[a].since), cmp.Compare(b.cfg.Queue, a.cfg.Queue))
	})
	surplus := len(kept) - s.fair()
	for _, c := range kept {
		if surplus > 0 && time.Since(s.gave[c]) > stays {
			s.owned[c].leaving, s.gave[c] = true, time.Now()
			surplus--
			c.nudge()
		}
	}
}

// fair is how many partitions this process may have. mu is held.
func (s *Shares) fair() int {
	members := max(s.members, 1)
	return (s.size + members - 1) / members
}

// redivided explains that a queue cannot be declared, because it is divided into another number of partitions.
func (c *consumer) redivided(err error) error {
	if c.cfg.Shares == nil || !refusal.Differs(err) || !strings.Contains(err.Error(), order.MembersQueue("")) {
		return err
	}
	return fmt.Errorf("%w. But here x-max-length is the number of partitions (Consume.Order.Partitions), into which the instances that run, or ran before, have divided the queue:"+
		" keep that number, or change it as \"The number of partitions\" in docs/ordering.md says; harebus topology migrate would not do", err)
}

// attend makes this process one of the members, if the queue is divided, and has them counted until the tenure ends or the channel is lost.
func (t *tenure) attend() error {
	if t.c.cfg.Members == "" {
		return nil
	}
	u, err := t.c.subscribe(t.session)
	if err != nil {
		return err
	}
	u.queue = t.c.cfg.Members
	opened := make(chan (<-chan amqp.Delivery), 1)
	err = u.request(func() error {
		deliveries, err := u.ch.Consume(u.queue, "harebus-member", true, false, false, false, nil)
		opened <- deliveries
		return err
	})
	if err != nil {
		u.close()
		return fmt.Errorf("be counted among the instances in %s: %w", u.queue, err)
	}
	u.deliveries = <-opened
	t.notes.Go(func() {
		defer u.close()
		t.fail(t.countMembers(u))
	})
	return nil
}

func (t *tenure) countMembers(u *subscription) (err error) {
	tick := time.NewTicker(census)
	defer tick.Stop()
	last := 0
	for err == nil {
		var n int
		n, err = t.members(t.ctx, u)
		if err == nil && n != last {
			t.c.log.Info("instances share the partitions of the queue", zap.Int("instances", n))
			last = n
		}
		if err == nil {
			t.c.cfg.Shares.know(n)
			err = t.pause(u, tick.C)
		}
	}
	return t.c.without(err)
}

// members counts the instances.
func (t *tenure) members(ctx context.Context, u *subscription) (int, error) {
	counted := make(chan int, 1)
	err := u.session.RPC(ctx, func() error {
		q, err := u.ch.QueueDeclarePassive(u.queue, true, false, false, false, nil)
		counted <- q.Consumers
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-counted, nil
}

// pause waits for the next count, and reads what comes meanwhile.
func (t *tenure) pause(u *subscription, next <-chan time.Time) error {
	for {
		select {
		case <-next:
			return nil
		case <-t.ctx.Done():
			return context.Cause(t.ctx)
		case err := <-u.closes:
			return closed(err)
		case tag, ok := <-u.cancels:
			if err := u.cancelled(tag, ok); err != nil {
				return err
			}
		case raw, ok := <-u.deliveries:
			if !ok {
				u.deliveries = nil // the channel has ended; closes says why
				continue
			}
			t.hear(raw)
		}
	}
}

// warn tells the instances that have divided the queue otherwise that they will not get it. They wait in line for it, and could not
// know before it is their turn: in a deployment that is when the last instance of the old version has gone. Their queue gives them the notes in turn,
// and none has more of them than there are partitions.
func (t *tenure) warn() {
	note, to, partitions := lanes.Note{Kind: lanes.Join, About: t.cfg.Settings(), Owner: t.id, Fence: t.fence}, order.MembersQueue(t.c.cfg.Queue), t.unwarned
	t.unwarned = 0
	t.notes.Go(func() {
		for range (&order.Config{Partitions: partitions}).PartitionQueues(to) { // a note can say any number
			err := t.c.cfg.Note(t.ctx, to, note.Write(&t.cfg.Names))
			if t.ctx.Err() != nil {
				return
			}
			if err != nil {
				t.c.log.Warn("cannot tell the instances that share the partitions of the queue that others have divided it otherwise", zap.String("members", to), zap.Error(err))
				return
			}
		}
	})
}

// hear reads what the owner of the queue tells those that share the partitions. Anything else is dropped.
func (t *tenure) hear(raw amqp.Delivery) {
	if wire.Unpack(&raw) != nil {
		return
	}
	n, is := lanes.ReadNote(&t.cfg.Names, raw.Headers)
	if !is || n.Kind != lanes.Join {
		return
	}
	if err := t.cfg.Redivided(t.c.cfg.Queue, n.About); err != nil {
		t.disagree(err)
	}
}
