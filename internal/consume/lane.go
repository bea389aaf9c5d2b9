package consume

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/order"
)

var errContained = errors.New("the process has ended again and again while it handled this message, so no handler sees it any more")

// errIncomplete ends a tenure that has begun without a part of what is parked. What the last owner has sent too late comes for the first time;
// what has been delivered before was with it still: the broker has cancelled its consumer, and its channel was open.
var errIncomplete = errors.New("messages that another instance had kept come only now, behind others of their keys; taking up all that is parked anew")

// prepare makes the work for a delivery; nil if it cannot be read at all, and then the session ends.
func (t *tenure) prepare(u *subscription, raw amqp.Delivery) *Delivery {
	d := t.job(t.c.cfg.Task(), u.feed, raw, time.Now())
	if !d.unpack() {
		return nil
	}
	if d.Unreadable != nil {
		d = t.job(t.c.cfg.Unread(), u.feed, raw, d.came)
		d.unpack()
	}
	return d
}

// job is the work for a delivery that came at a time.
func (t *tenure) job(task Task, f *feed, raw amqp.Delivery, came time.Time) *Delivery {
	d := task.base()
	d.Raw, d.consumer, d.feed, d.task, d.tenure, d.came = raw, t.c, f, task, t, came
	return d
}

// message is what the lanes know of a delivery.
func (t *tenure) message(d *Delivery, parked bool) *lanes.Message {
	id := d.Raw.MessageId
	if text, ok := field.Text(d.Raw.Headers[t.cfg.Names.ID]); ok {
		id = text
	}
	if text, ok := field.Text(d.Raw.Headers[t.cfg.Names.Content]); ok && parked {
		id = text
	}
	key, again := lanes.KeyOf(d.Raw.Headers, t.cfg.Header), d.Raw.Redelivered
	if id == "" { // it is known again by its content
		kind, _ := field.Text(d.Raw.Headers[t.cfg.Names.Type])
		sum := sha256.Sum256(append(fmt.Appendf(nil, "%q %q %q ", key, kind, d.Raw.Type), d.Raw.Body...))
		id = hex.EncodeToString(sum[:])
		again = again && t.ended == 0 // who ends well has acknowledged what it has parked or sent: then this is another one with that content
	}
	d.lane = &lanes.Message{
		Key: key, ID: id, Count: d.delivered, Again: again, Parked: parked, Of: d,
	}
	if !parked { // each of the latest tenures has counted a delivery, and has not crashed
		d.lane.Count = max(d.delivered-t.ended, 0)
	}
	if t.cfg.Divided() {
		d.lane.Count = 0 // a router runs no handler, which could end the process
	} else {
		d.lane.Route = lanes.TakeRoute(&t.cfg.Names, d.Raw.Headers)
	}
	d.recount()
	return d.lane
}

// recount has the headers say how often it was delivered to owners that have not ended well: that is what whoever handles suspicious messages alone
// wants to know. How often one in the parking queue was delivered says nothing.
func (d *Delivery) recount() {
	if _, counted := d.Raw.Headers[deliveryCount]; !counted {
		return
	}
	if d.Raw.Headers[deliveryCount] = d.lane.Count; d.lane.Parked {
		d.Raw.Headers[deliveryCount] = int64(0)
	}
}

// fromQueue takes a delivery from the queue.
func (t *tenure) fromQueue(raw amqp.Delivery, ok bool) {
	if !ok {
		t.queue.deliveries = nil // the channel has ended; closes says why
		return
	}
	d := t.prepare(t.queue, raw)
	switch {
	case d == nil:
	case t.phase == owning:
		t.early = append(t.early, d)
		t.await(settling)
	case t.phase == settling:
		t.early = append(t.early, d)
	default:
		t.arrive(d)
	}
}

func (t *tenure) arrive(d *Delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lanes.Arrive(t.message(d, false)) {
		d.feed.acks.Done(d.Raw.DeliveryTag)
	}
}

// fromParking takes a delivery from the parking queue.
func (t *tenure) fromParking(raw amqp.Delivery, ok bool) error {
	if !ok {
		t.parking.deliveries = nil // likewise
		return nil
	}
	if t.phase == waiting {
		t.shares().take(t.c)
		t.await(loading)
	}
	d := t.prepare(t.parking, raw)
	if d == nil {
		return nil
	}
	if n, is := lanes.ReadNote(&t.cfg.Names, d.Raw.Headers); is {
		return t.read(d, n)
	}
	place, err := lanes.ReadPlace(&t.cfg.Names, d.Raw.Headers)
	switch {
	case err == nil && t.phase == settled && place.Owner != t.id && raw.Redelivered:
		return errIncomplete
	case err == nil:
		t.park(d, place)
	case t.phase < owning: // somebody has put it there; its place is behind what is there
		t.strangers = append(t.strangers, d)
	default:
		t.park(d, lanes.Place{Owner: t.id})
	}
	return nil
}

// park takes a message that has its place in the parking queue.
func (t *tenure) park(d *Delivery, place lanes.Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.message(d, true)
	if key, ok := d.Raw.Headers[t.cfg.Names.Key].(string); ok {
		m.Key = key
	}
	m.Place = place
	if spare := t.lanes.Park(m); spare != nil {
		settle(spare)
	}
}

// settle acknowledges a message that nothing else is to be done with.
func settle(m *lanes.Message) {
	if d, ok := m.Of.(*Delivery); ok {
		d.feed.acks.Done(d.Raw.DeliveryTag)
	}
}

// read does what a note says.
func (t *tenure) read(d *Delivery, n lanes.Note) error {
	switch n.Kind {
	case lanes.Join:
		if n.Fence > 0 && t.phase < owning {
			if err := t.cfg.Redivided(t.c.cfg.Queue, n.About); err != nil {
				return err
			}
		}
		t.keep(d, n)
		if t.phase == fencing && n.Owner == t.id && n.Fence > 0 {
			return t.begin()
		}
		return nil
	case lanes.Trial:
		t.accuse(d, n)
		return nil
	case lanes.Barrier:
		d.feed.acks.Done(d.Raw.DeliveryTag)
		if n.About == t.barrier && n.Owner == t.id {
			t.barrier = "" // it comes again when it was sent again, because its confirm was lost
			t.passed()
		}
		return nil
	}
	if t.phase < owning {
		t.words = append(t.words, d)
		return nil
	}
	t.obey(d, n)
	return nil
}

// keep keeps the latest note that has the highest fencing number, for the next owner.
func (t *tenure) keep(d *Delivery, n lanes.Note) {
	spare := t.token
	if n.Fence >= t.fence {
		if t.fence, t.token = n.Fence, d; n.Owner != t.id {
			t.ended = n.Ended
		}
	} else {
		spare = d
	}
	if spare != nil {
		spare.feed.acks.Done(spare.Raw.DeliveryTag)
	}
	if n.Fence > 0 || n.About == t.cfg.Settings() { // an owner has the queue no more when this one reads its note
		return
	}
	t.disagree(fmt.Errorf("another instance has other settings of Consume.Order for the queue %s: it has %s, and this one %s",
		t.c.cfg.Queue, n.About, t.cfg.Settings()))
	if t.cfg.Redivided(t.c.cfg.Queue, n.About) == nil {
		return
	}
	if t.unwarned = lanes.PartitionsIn(n.About); t.phase >= owning {
		t.warn()
	}
}

// disagree notes that another instance has other settings.
func (t *tenure) disagree(odd error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.odd, t.oddSince = odd, time.Now()
	t.c.log.Error("instances disagree", zap.Error(odd))
}

// reconcile forgets that another instance has other settings when it has said so for the last time some time ago: as long as it waits, it says so
// again after each refresh.
func (t *tenure) reconcile() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.odd != nil && time.Since(t.oddSince) > refresh+3*look {
		t.odd = nil
	}
}

// accuse takes a note about a message that perhaps ends the process. It stays until the message is done with.
func (t *tenure) accuse(d *Delivery, n lanes.Note) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case n.Owner == t.id && t.trying[n.About]:
	case n.Owner != t.id && t.phase < settled:
		t.lanes.Suspect(n.About)
	default:
		d.feed.acks.Done(d.Raw.DeliveryTag)
		return
	}
	t.trials[n.About] = append(t.trials[n.About], d)
}

// passed goes on when the barrier has come back.
func (t *tenure) passed() {
	if t.phase == loading {
		t.phase = fencing
		t.join(t.nextFence())
		return
	}
	t.phase = settled
	t.mu.Lock()
	t.lanes.Settled()
	t.mu.Unlock()
	for _, d := range t.early {
		t.arrive(d)
	}
	t.early = nil
}

// nextFence is the fencing number of this tenure: above that of the last one, and at least the time, so that the numbers
// rise even when the parking queue was deleted.
func (t *tenure) nextFence() int64 { return min(max(t.fence+1, time.Now().UnixMilli()), lanes.Most) }

// begin is the begin of the ownership: the fencing number is stored.
func (t *tenure) begin() error {
	t.phase, t.work = owning, order.WithFence(t.ctx, t.fence)
	t.warn()
	t.release()
	return t.attach()
}

// release lets parked messages be handled, and obeys the words that came before.
func (t *tenure) release() {
	for _, d := range t.strangers {
		t.park(d, lanes.Place{Owner: t.id})
	}
	t.strangers = nil
	t.mu.Lock()
	t.open = true
	n, _ := t.lanes.Parked()
	t.mu.Unlock()
	t.c.log.Info("this process handles the ordered queue now", zap.Int("parked", n), zap.String("tenure", t.id), zap.Int64("fence", t.fence))
	for _, d := range t.words {
		if n, ok := lanes.ReadNote(&t.cfg.Names, d.Raw.Headers); ok {
			t.obey(d, n)
		}
	}
	t.words = nil
}

// pump hands to the workers what can be done now. mu is held.
func (t *tenure) pump() {
	for t.open && !t.over && len(t.ready) < cap(t.ready) {
		m, step := t.lanes.Next(time.Now())
		d, ok := (*Delivery)(nil), false
		if m != nil {
			d, ok = m.Of.(*Delivery)
		}
		if !ok {
			return
		}
		d.step, d.suspected = step, t.lanes.Suspected(m)
		t.ready <- d
	}
}

// carryOut is the work of a worker on a delivery.
func (c *consumer) carryOut(d *Delivery, w *worker) {
	c.busy.Add(1)
	defer c.free()
	if d.tenure.feed.ending.Load() {
		return // the end of its channel gives it back
	}
	d.Began = time.Now()
	w.hand.Store(d)
	defer func() {
		w.hand.Store(nil)
		kept := d.tenure.done(d)
		if d.tenure.leaveAlone(d); kept {
			d.held(d.again, d.Connected)
		}
	}()
	switch d.step {
	case lanes.Follow:
		d.task.Store(nil)
	case lanes.Contain:
		d.task.Store(errContained)
	default:
		d.tenure.handle(d)
	}
}

// handle hands a delivery to its task. If it does not, nothing has become of the delivery.
func (t *tenure) handle(d *Delivery) {
	if s := t.shares(); s != nil {
		if d.entered = s.alone.enter(t.soft, d.suspected); !d.entered || t.feed.ending.Load() {
			return
		}
	}
	if d.step == lanes.Try && !t.announce(d) {
		return
	}
	d.task.Handle()
}

// leaveAlone lets others of this process be handled. After one that was suspected the broker first has its ack, and those of the notes: else the
// next one that ends the process would have it blamed again.
func (t *tenure) leaveAlone(d *Delivery) {
	if !d.entered {
		return
	}
	if d.suspected {
		_ = t.settleAcks() // without a channel there is nothing to settle
	}
	t.shares().alone.leave()
}

// announce leaves a note that says which message is about to be handled. False means that it is not left.
// Before that it sees to it that the broker has the acks of what was handled before, and of an operator's word: they
// would be lost with the process.
func (t *tenure) announce(d *Delivery) bool {
	if t.settleAcks() != nil {
		return false // the channel has ended
	}
	t.mu.Lock()
	t.trying[d.lane.ID] = true
	t.mu.Unlock()
	err := t.c.cfg.Note(d.Ackable(), t.cfg.Parking, lanes.Note{Kind: lanes.Trial, About: d.lane.ID, Owner: t.id}.Write(&t.cfg.Names))
	if err != nil && t.ctx.Err() == nil {
		t.c.log.Warn("cannot note which message is about to be handled; trying again", zap.Error(err))
	}
	return err == nil
}

// settleAcks sends the acks, and waits for an answer of the broker to what it got behind them.
func (t *tenure) settleAcks() error {
	t.asking.Lock()
	defer t.asking.Unlock()
	for _, u := range []*subscription{t.parking, t.queue} {
		u.acks.Flush()
		if err := u.session.RPC(t.ctx, u.answers); err != nil {
			return err
		}
	}
	return nil
}

// done tells the lanes what has become of a delivery, and hands out what can be done now. True means that
// the handler keeps it.
func (t *tenure) done(d *Delivery) (kept bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case d.held != nil && d.ended.CompareAndSwap(false, true):
		kept = true
		t.lanes.Keep()
	case t.over && !d.ended.Load():
		return false // the end of its channel gives it back
	default:
		acked := d.ended.Load()
		if !acked {
			t.anew(d)
		}
		t.lanes.Done(d.lane, d.step, acked, d.moved, time.Now())
		if acked && d.step != lanes.Follow {
			t.acquit(d.lane.ID)
		}
	}
	t.pump()
	select {
	case t.wake <- struct{}{}:
	default: // it is awake
	}
	return kept
}

// anew makes new work for a delivery that is to be handled again. mu is held.
func (t *tenure) anew(d *Delivery) *Delivery {
	task := t.c.cfg.Task
	if d.Unreadable != nil {
		task = t.c.cfg.Unread
	}
	again := t.job(task(), d.feed, d.Raw, d.came)
	again.Raw.Body, again.lane = d.Packed, d.lane
	if again.unpack() { // it could be before
		lanes.TakeRoute(&t.cfg.Names, again.Raw.Headers)
		again.recount()
		d.lane.Of = again
	}
	return again
}

// acquit removes the notes about a message. mu is held.
func (t *tenure) acquit(id string) {
	delete(t.trying, id)
	for _, note := range t.trials[id] {
		note.feed.acks.Done(note.Raw.DeliveryTag)
	}
	delete(t.trials, id)
}

// forget removes notes of other tenures about messages that have not come: they were done with when their process
// ended, and only the ack of the note was lost. mu is held.
func (t *tenure) forget() {
	for id, notes := range t.trials {
		if !t.trying[id] && time.Since(notes[len(notes)-1].came) > look && !t.lanes.Has(id) {
			t.acquit(id)
			t.lanes.Acquit(id)
		}
	}
}

// resume has a delivery that was kept handled again.
func (t *tenure) resume(d *Delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.anew(d).Again = true
	t.lanes.Resume(d.lane)
	t.pump()
}

// Ordered says whether the delivery has its place in an order. Then a copy of it is stored in the parking
// queue, under Place, instead of being sent to its queue again.
func (d *Delivery) Ordered() bool { return d.tenure != nil && d.lane != nil && d.lane.Key != "" }

// Order is the config of its queue, if that is an ordered one; else nil.
func (d *Delivery) Order() *lanes.Config {
	if d.consumer == nil || d.consumer.cfg == nil {
		return nil // of a test
	}
	return d.consumer.cfg.Order
}

// Parked says whether the delivery has come from the parking queue. Then it was due when it was handed out.
func (d *Delivery) Parked() bool { return d.lane != nil && d.lane.Parked }

// Room says whether a copy of an ordered delivery may be stored in the parking queue. One that is there already may be
// replaced.
func (d *Delivery) Room() bool {
	d.tenure.mu.Lock()
	defer d.tenure.mu.Unlock()
	_, full := d.tenure.lanes.Parked()
	return d.lane.Parked || !full
}

// Place is where a copy of an ordered delivery is to be stored, and its key.
func (d *Delivery) Place() (place lanes.Place, key string) {
	d.tenure.mu.Lock()
	defer d.tenure.mu.Unlock()
	return d.tenure.lanes.NewPlace(d.lane), d.lane.Key
}

// KnownAs is the id by which an ordered delivery is known again: it need not be that of the message.
func (d *Delivery) KnownAs() string { return d.lane.ID }

// Repeated says whether an owner before this one may have parked or sent an ordered delivery.
func (d *Delivery) Repeated() bool { return d.lane.Again }

// Moved says that a copy is stored, before the delivery is acknowledged.
func (d *Delivery) Moved(to lanes.Place) { d.moved = &to }
