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
	p.err, p.probe = err, time.Now().Add(quiet)
}

// putOff counts a message that has to wait, and says for how long, and whether
// that is worth a line in the log.
func (p *parking) putOff() (wait time.Duration, count int, say bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if say = time.Since(p.said) > quiet; say {
		p.said = time.Now()
	}
	return min(max(parkingPause, time.Since(p.since)), longestParking), p.count, say
}

// trouble is why nothing can be parked, for Ready.
func (p *parking) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("no message can be parked since %s; those that should be wait in a delay: %w", p.since.Format(time.RFC3339), p.err)
}

// park moves the message to the error queue.
func (r *receipt) park(cause *failure) bool {
	return r.giveUp(cause) && r.bury(r.copyFor(OpPark, r.setup.cfg.ErrorQueue.Name, cause), cause)
}

// parkNow moves a message to the error queue that could not be moved there when it had
// failed. No handler sees it again.
func (r *receipt) parkNow() bool {
	out := r.copyOf(OpPark, r.setup.cfg.ErrorQueue.Name)
	delete(out.Publishing.Headers, r.setup.dialect.names.parking)
	return r.bury(out, errors.New(r.message.ErrorDetails))
}

// bury publishes a copy to the error queue. While that takes nothing (its node is
// down, it is full, or it is missing and cannot be declared), the copy waits in the
// delay queues, because a delivery that is held would keep others from being
// handled.
func (r *receipt) bury(out *publish.Message, cause error) bool {
	s := r.setup
	if !s.parking.closed() {
		err := r.tryParking(out, cause)
		if err == nil {
			s.parking.open()
			r.counts().Parked.Add(1)
			r.outcome = AttemptParked
			r.consumer.log.Error("message moved to the error queue",
				append(r.fields(), zap.String("error_queue", s.cfg.ErrorQueue.Name), zap.Error(cause))...)
			return true
		}
		if r.consumer.hard.Err() != nil || !r.connected() {
			return false
		}
		if errors.Is(err, ErrRefused) { // it is the message, not the error queue
			r.complain("the broker refuses a message that is to be parked; it goes back to its queue", err)
			wait.Sleep(r.consumer.soft, time.Second) // the broker would deliver it again at once
			return false
		}
		s.parking.close(err)
	}
	return r.putOff(out, cause)
}

// putOff sends the copy to the delay queues, with the header Parking. It is parked
// when it comes back.
func (r *receipt) putOff(out *publish.Message, cause error) bool {
	s := r.setup
	wait, count, say := s.parking.putOff()
	if say {
		r.consumer.log.Error("the error queue takes no messages; they wait in a delay and will be parked later",
			append(r.fields(), zap.Int("put_off", count), zap.Error(s.parking.trouble()), zap.NamedError("failure", cause))...)
	}
	out.Op, out.Key, out.Single, out.ViaDefault = int8(OpPostpone), s.cfg.Queue, false, true
	out.Due = time.Now().Add(wait)
	out.Publishing.Headers[s.dialect.names.parking] = true
	out.Publishing.Headers[s.dialect.names.deferredTime] = s.dialect.time(out.Due)
	if !r.resend(out, cause) {
		return false
	}
	r.outcome = AttemptParked
	return true
}

// tryParking publishes the copy, and once more if the error queue could be declared
// again.
func (r *receipt) tryParking(out *publish.Message, cause error) (err error) {
	s := r.setup
	ctx, op := s.observers.start(r.ctx, Observation{Operation: OpPark, Incoming: r.message, Size: len(out.Publishing.Body), Exchange: out.Exchange, RoutingKey: out.Key, Err: cause})
	defer func() { op.End(err) }()
	s.observers.carry(op, out)
	eng, err := s.engine()
	if err != nil {
		return err
	}
	err = eng.publisher.Publish(ctx, out)
	if endsConnections(err) && !r.deadly {
		r.strip(out)
		r.consumer.log.Error("a copy of a message ended the connection whenever it was sent; parking one without its custom headers",
			append(r.fields(), zap.Error(err))...)
		err = eng.publisher.Publish(ctx, out)
	}
	if err == nil || errors.Is(err, ErrRefused) || ctx.Err() != nil || !r.connected() {
		return err
	}
	if restored := s.declarer.ErrorQueue(ctx, r.feed.session, s.cfg.errorTopology()); restored != nil {
		return errors.Join(err, restored)
	}
	return eng.publisher.Publish(ctx, out)
}

// marked says whether the message has the header Parking.
func (r *receipt) marked() bool {
	_, ok := r.message.Headers[r.setup.dialect.names.parking]
	return ok
}
