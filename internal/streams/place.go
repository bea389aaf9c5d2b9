package streams

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/stream"
)

// Place is where a reader is in its stream, from the moment in which it may read until that ends.
type Place struct {
	reader *Reader
	group  *group // nil for a private reader
	on     *session.Session
	from   any // the argument x-stream-offset

	over  chan struct{} // closed when reading must end
	dirty chan struct{} // signalled when done has changed
	saved sync.WaitGroup
	// warned is when somebody was told that the place is not kept; for save.
	warned time.Time

	mu      sync.Mutex // guards what follows
	turn    *sync.Cond // signalled when came or err changes
	came    uint64     // the highest tag up to which all are known
	last    mark       // the offset of that tag; before the first one, the place that was kept
	exact   bool       // the next message is to be the one behind last: else a part of the stream is read that begins anywhere
	open    []entry    // the tags behind settled, in order
	settled uint64     // the highest tag up to which all are done
	done    mark       // its offset
	owed    []uint64   // the tags that are done and not acknowledged, because there are too many behind settled
	keeping mark       // what was saved last
	err     error
	ended   bool
}

// entry is a delivery that is not done, or has not done ones before it.
type entry struct {
	offset int64
	known  bool // it has an offset: it is not one that was left
	done   bool
}

func newPlace(r *Reader) *Place {
	p := &Place{reader: r, over: make(chan struct{}), dirty: make(chan struct{}, 1)}
	p.turn = sync.NewCond(&p.mu)
	return p
}

// begin finds out where to read, and whether that can be.
func (p *Place) begin(ctx context.Context, on *session.Session) error {
	r := p.reader
	p.on = on
	kept, err := r.load(ctx, p.group)
	if err != nil {
		return err
	}
	p.last, p.done, p.keeping = kept, kept, kept
	n, fixed := r.From.Offset()
	switch {
	case kept.known:
		p.exact = kept.offset >= 0
		return p.resume(ctx, on, kept.offset+1)
	case fixed:
		p.exact, p.last = true, mark{n - 1, n > 0}
		return p.resume(ctx, on, n)
	case r.From.AtEnd():
		return p.beginAtEnd(ctx, on)
	}
	p.from = r.From.Argument()
	return r.exists(ctx, on)
}

// resume reads from an offset. One beyond the end would be awaited without a word.
func (p *Place) resume(ctx context.Context, on *session.Session, offset int64) error {
	r, end := p.reader, int64(0)
	for _, pause := range []time.Duration{0, 3 * silence} { // the node may be behind the one that leads the stream
		wait.Sleep(ctx, pause)
		newest, err := r.newest(ctx, on, offset-1)
		switch {
		case err != nil:
			return err
		case !newest.known: // empty: whatever comes is compared with what is expected
			p.from = "first"
			return nil
		case newest.offset >= offset-1:
			p.from = offset
			return nil
		}
		end = newest.offset
	}
	return p.beyond(offset, end)
}

// beyond is the error of an offset that the stream has not reached.
func (p *Place) beyond(offset, newest int64) error {
	r := p.reader
	if !p.done.known {
		return fault("the stream %s ends at offset %d, and From is offset %d: choose one that is there, or stream.FromEnd", field.Quote(r.Name), newest, offset)
	}
	return fault("the stream %s ends at offset %d, and everything up to offset %d is handled already: it was deleted and made anew; %s",
		field.Quote(r.Name), newest, p.done.offset, r.forget())
}

// forget says how somebody has a reader begin again.
func (r *Reader) forget() string {
	switch {
	case r.Store != nil:
		return "remove the offset from the store, so that reading begins at From"
	case r.Group != "":
		return fmt.Sprintf("stop all instances of the group and delete the queue %s, so that reading begins at From", field.Quote(stream.TokenQueue(r.Name, r.Group)))
	}
	return "start again, so that reading begins at From"
}

// beginAtEnd keeps where the end is at once: reading goes on from there after a lost connection, and in another instance.
func (p *Place) beginAtEnd(ctx context.Context, on *session.Session) error {
	newest, err := p.reader.newest(ctx, on, math.MaxInt64)
	if err != nil {
		return err
	}
	p.from, p.exact = newest.offset+1, newest.known
	if !newest.known { // empty
		newest, p.from = mark{-1, true}, "first"
	}
	if err := p.reader.save(ctx, p.group, newest.offset); err != nil {
		return err
	}
	p.last, p.done, p.keeping = newest, newest, newest
	return nil
}

// exists fails if the queue does not exist or is no stream: the broker would say the same later, with fewer words.
func (r *Reader) exists(ctx context.Context, on *session.Session) error {
	return r.look(ctx, on, "next", 0, nil)
}

// From is where it begins, as the argument x-stream-offset.
func (p *Place) From() any { return p.from }

// Refused is the error of a basic.consume, with what it means.
func (p *Place) Refused(err error) error { return p.reader.refused(err) }

// Arguments are those of basic.consume; the others for nil.
func (p *Place) Arguments(others amqp.Table) amqp.Table {
	if p == nil {
		return others
	}
	all := amqp.Table{stream.Header: p.from}
	maps.Copy(all, others)
	return all
}

// Verdict is what to do with a delivery.
type Verdict int8

// The verdicts.
const (
	Handle Verdict = iota
	Pass           // it is not for this reader
	Leave          // reading is over
)

// Came decides about a delivery that is unpacked. It is called once for each, and waits until the ones before it have come: workers take
// them at the same time.
func (p *Place) Came(d *amqp.Delivery, unreadable *wire.UnreadableError) Verdict {
	offset, err := OffsetOf(d, unreadable)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await(d.DeliveryTag)
	if p.err != nil {
		return Leave
	}
	if err == nil {
		err = p.follows(offset)
	}
	if p.err != nil || p.ended { // meanwhile
		return Leave
	}
	p.came = d.DeliveryTag
	p.turn.Broadcast()
	if err != nil {
		p.fail(err)
		return Leave
	}
	p.last, p.exact = mark{offset, true}, true
	p.open = append(p.open, entry{offset: offset, known: true})
	if !stream.Wants(p.reader.Topics, d.RoutingKey) {
		return Pass
	}
	return Handle
}

// Left notes a delivery that no worker handles, because reading ends. It does nothing for nil.
func (p *Place) Left(tag uint64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await(tag)
	p.came = max(p.came, tag)
	p.open = append(p.open, entry{})
	p.turn.Broadcast()
}

// await waits until it is the turn of a tag. p.mu is held.
func (p *Place) await(tag uint64) {
	for p.came+1 < tag && p.err == nil && !p.ended {
		p.turn.Wait()
	}
}

// follows says whether an offset may come after the last one. One offset is left out where a segment of the stream ends, and more where
// the broker has used them. p.mu is held.
func (p *Place) follows(offset int64) error {
	if !p.exact {
		return nil
	}
	next := int64(0)
	if p.last.known {
		next = p.last.offset + 1
	}
	r, name := p.reader, field.Quote(p.reader.Name)
	missing := offset - next
	switch {
	case missing < 0:
		return fault("offset %d of the stream %s came, and everything before offset %d is handled already: the stream was deleted and made anew; %s",
			offset, name, next, r.forget())
	case missing <= 1:
		return nil
	}
	if nothing, err := p.keeps(next); nothing || err != nil {
		return err
	}
	if r.OnGap == stream.GapSkips {
		r.Log.Error("messages of the stream were deleted before they were read", zap.Int64("from", next), zap.Int64("to", offset-1))
		return nil
	}
	return fault("the offsets %d to %d of the stream %s were deleted before they were read: keep more, or set OnGap to stream.GapSkips to go on at %d",
		next, offset-1, name, offset)
}

// keeps is keeps of the reader. p.mu is held, but not while this asks the broker; it is nobody else's turn meanwhile.
func (p *Place) keeps(next int64) (yes bool, err error) {
	p.mu.Unlock()
	defer p.mu.Lock()
	return p.reader.keeps(context.Background(), p.on, next)
}

// ahead is how many messages behind one that is still being handled are acknowledged. The broker then delivers as many more as are
// prefetched, so memory is bounded.
const ahead = 5000

// Done notes that a message is handled, parked or passed over. It says whether to acknowledge it now, and which others. For nil
// it only says yes.
func (p *Place) Done(tag uint64) (ack bool, others []uint64) {
	if p == nil {
		return true, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := tag - p.settled - 1
	if i >= uint64(len(p.open)) {
		return true, nil // it came before this place began to count, which cannot be
	}
	p.open[i].done = true
	if ack = i < ahead; !ack {
		p.owe(tag)
	}
	n := 0
	for n < len(p.open) && p.open[n].done {
		p.done = mark{p.open[n].offset, true}
		n++
	}
	if n == 0 {
		return ack, nil
	}
	p.open = p.open[n:]
	p.settled += uint64(n)
	select {
	case p.dirty <- struct{}{}:
	default: // it has been signalled already
	}
	return ack, p.pay()
}

// owe puts an acknowledgement off. p.mu is held.
func (p *Place) owe(tag uint64) {
	if len(p.owed) == 0 {
		p.reader.Log.Warn("the stream is not read on until an old message is handled, because too many behind it are done", zap.Int64("offset", p.open[0].offset))
	}
	p.owed = append(p.owed, tag)
}

// pay returns the acknowledgements that need not be put off any longer. p.mu is held.
func (p *Place) pay() (due []uint64) {
	if len(p.owed) == 0 {
		return nil
	}
	p.owed = slices.DeleteFunc(p.owed, func(tag uint64) bool {
		now := tag <= p.settled+ahead
		if now {
			due = append(due, tag)
		}
		return now
	})
	if len(p.owed) == 0 {
		p.reader.Log.Info("the stream is read on")
	}
	return due
}

// Trouble is why the stream is not read on; nil for nil.
func (p *Place) Trouble() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.owed) == 0 {
		return nil
	}
	return fmt.Errorf("the stream %s is not read on: the message at offset %d is still being handled, and more than %d behind it are done",
		field.Quote(p.reader.Name), p.open[0].offset, ahead)
}

// Over is closed when reading must end at once; nil for nil.
func (p *Place) Over() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.over
}

// Err is why reading is over.
func (p *Place) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// fail ends reading. p.mu is held.
func (p *Place) fail(err error) {
	if p.err == nil && !p.ended {
		p.err = err
		close(p.over)
		p.turn.Broadcast()
	}
}

// keepSaving keeps the place from time to time, until End.
func (p *Place) keepSaving() {
	renew, pause := time.NewTicker(renewal), time.NewTimer(saving)
	defer renew.Stop()
	defer pause.Stop()
	for due := p.dirty; ; {
		select {
		case <-due:
			p.save(context.Background())
			due = nil // for a while
			pause.Reset(saving)
		case <-pause.C:
			due = p.dirty
		case <-renew.C:
			p.group.renew()
		case <-p.over:
			return
		}
	}
}

// endWhenLost ends reading as soon as the lock is lost, also while the place is being kept.
func (p *Place) endWhenLost() {
	select {
	case <-p.group.losing():
		p.mu.Lock()
		p.fail(p.group.err)
		p.mu.Unlock()
	case <-p.over:
	}
}

// save keeps what is done, if that is not kept yet. When this instance is cut off, it does not wait long.
func (p *Place) save(ctx context.Context) {
	p.mu.Lock()
	done, kept, patience := p.done, p.keeping, 10*time.Second
	if p.err != nil {
		patience = time.Second
	}
	p.mu.Unlock()
	if done == kept {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.reader.save(ctx, p.group, done.offset); err != nil {
		if time.Since(p.warned) > time.Minute {
			p.warned = time.Now()
			p.reader.Log.Warn("cannot keep the place in the stream; what was handled since the last time would be handled again after a crash",
				zap.Int64("offset", done.offset), zap.Error(err))
		}
		select {
		case p.dirty <- struct{}{}: // once more
		default:
		}
		return
	}
	p.mu.Lock()
	p.keeping = done
	p.mu.Unlock()
}

// End keeps the place for the last time and lets another instance read. Nothing is handled any more.
func (p *Place) End() {
	p.mu.Lock()
	if !p.ended {
		p.ended = true
		if p.err == nil {
			close(p.over)
		}
		p.turn.Broadcast()
	}
	p.mu.Unlock()
	p.saved.Wait()
	p.save(context.Background())
	p.group.quit()
}
