package harebus

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wait"
)

const (
	// parkingPause and longestParking are the shortest and the longest time for
	// which a message waits in the delay queues when the error queue does not take
	// it. It grows while that lasts.
	parkingPause, longestParking = 30 * time.Second, 5 * time.Minute
	// quiet is how long a fault that lasts is not logged again.
	quiet = 15 * time.Second
)

// parking is what is known about the error queue.
type parking struct {
	mu    sync.Mutex // guards what follows
	err   error      // why nothing can be parked; nil while it can
	since time.Time  // when that began
	probe time.Time  // there is no attempt before then
	said  time.Time  // the last line in the log
	last  time.Time  // when a message was put off last
	count int        // messages put off since
}

// closed says whether it is known that parking is not possible now.
func (p *parking) closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil && time.Now().Before(p.probe)
}

// open notes that the error queue takes messages.
func (p *parking) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.count = nil, 0
}

// close notes why it does not.
func (p *parking) close(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.since = time.Now()
	}
	now := time.Now()
	p.err, p.probe, p.last = err, now.Add(quiet), now
}

// putOff counts a message that has to wait, and says for how long, and whether
// that is worth a line in the log.
func (p *parking) putOff() (wait time.Duration, count int, say bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count, p.last = p.count+1, time.Now()
	if say = time.Since(p.said) > quiet; say {
		p.said = time.Now()
	}
	return min(max(parkingPause, time.Since(p.since)), longestParking), p.count, say
}

// trouble is why nothing can be parked, for Ready.
func (p *parking) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil && time.Since(p.last) > 2*longestParking {
		p.err, p.count = nil, 0 // what waits comes back sooner, so nothing waits
	}
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("no message can be parked since %s; those that should be wait in a delay: %w", p.since.Format(time.RFC3339), p.err)
}

// park moves the message to the error queue.
func (d *delivery) park(cause *failure) {
	if d.giveUp(cause) {
		d.bury(d.copyFor(OpPark, d.endpoint.cfg.ErrorQueue.Name, cause), cause)
	}
}

// parkNow moves a message to the error queue that could not be moved there when it had
// failed. No handler sees it again.
func (d *delivery) parkNow() {
	out := d.copyOf(OpPark, d.endpoint.cfg.ErrorQueue.Name)
	delete(out.Publishing.Headers, d.endpoint.setup.dialect.Names.Parking)
	d.bury(out, errors.New(d.came.errorDetails))
}

// bury publishes a copy to the error queue. While that takes nothing (its node is
// down, it is full, or it is missing and cannot be declared), the copy waits in the
// delay queues, because a delivery that is held would keep others from being
// handled.
func (d *delivery) bury(out *publish.Message, cause error) {
	if !d.endpoint.parking.closed() {
		err := d.tryParking(out, cause)
		if err == nil {
			d.endpoint.parking.open()
			d.counts().Parked.Add(1)
			d.Log().Error("message moved to the error queue",
				append(d.fields(), zap.String("error_queue", d.endpoint.cfg.ErrorQueue.Name), zap.Error(cause))...)
			d.end(AttemptParked)
			return
		}
		if d.Context().Err() != nil || !d.Connected() {
			return
		}
		if errors.Is(err, ErrRefused) { // it is the message, not the error queue
			d.complain("the broker refuses a message that is to be parked; it goes back to its queue", err)
			wait.Sleep(d.Stopping(), time.Second) // the broker would deliver it again at once
			return
		}
		d.endpoint.parking.close(err)
	}
	d.putOff(out, cause)
}

// putOff sends the copy to the delay queues, with the header Parking. It is parked
// when it comes back.
func (d *delivery) putOff(out *publish.Message, cause error) {
	s := d.endpoint.setup
	wait, count, say := d.endpoint.parking.putOff()
	if say {
		d.Log().Error("the error queue takes no messages; they wait in a delay and will be parked later",
			append(d.fields(), zap.Int("put_off", count), zap.Error(d.endpoint.parking.trouble()), zap.NamedError("failure", cause))...)
	}
	out.Op, out.Key, out.Single, out.ViaDefault = int8(OpPostpone), d.endpoint.queue, false, true
	out.Due = time.Now().Add(wait)
	out.Publishing.Headers[s.dialect.Names.Parking] = true
	out.Publishing.Headers[s.dialect.Names.DeferredTime] = s.dialect.Time(out.Due)
	if d.resend(out, cause) {
		d.end(AttemptParked)
	}
}

// tryParking publishes the copy, and once more if the error queue could be declared
// again.
func (d *delivery) tryParking(out *publish.Message, cause error) (err error) {
	s := d.endpoint.setup
	ctx, op := s.observers.start(d.lease(), Observation{Operation: OpPark, Incoming: d.seen(), Size: len(out.Publishing.Body), Exchange: out.Exchange, RoutingKey: out.Key, Err: cause})
	defer func() { op.End(err) }()
	s.observers.carry(op, out)
	eng, err := s.engine()
	if err != nil {
		return err
	}
	err = eng.publisher.Publish(ctx, out)
	if endsConnections(err) && !d.deadly {
		d.strip(out)
		d.Log().Error("a copy of a message ended the connection whenever it was sent; parking one without its custom headers",
			append(d.fields(), zap.Error(err))...)
		err = eng.publisher.Publish(ctx, out)
	}
	if err == nil || errors.Is(err, ErrRefused) || ctx.Err() != nil || !d.Connected() {
		return err
	}
	if restored := s.declarer.ErrorQueue(ctx, d.Session(), d.endpoint.cfg.listener().ErrorQueue.Topology(s.routing)); restored != nil {
		return errors.Join(err, restored)
	}
	return eng.publisher.Publish(ctx, out)
}

// marked says whether the message has the header Parking.
func (d *delivery) marked() bool {
	_, ok := d.message.Headers[d.endpoint.setup.dialect.Names.Parking]
	return ok
}
