// Package proof is a harebus service that records all its steps: it handles, fails,
// retries, defers, sends from handlers and rolls back. From the records package
// ledger finds out whether a promise was broken.
//
// The same service runs on the in-process broker in virtual time, on a real
// broker that is being killed, and behind the command harebus soak.
package proof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/ledger"
)

// Kind says what is to happen to a message.
type Kind string

// The kinds.
const (
	Plain   Kind = "plain"   // handled
	Parent  Kind = "parent"  // its handler sends a child
	Flaky   Kind = "flaky"   // its first attempt fails
	Failing Kind = "failing" // every attempt fails: it ends in the error queue
	Later   Kind = "later"   // deferred
)

// Work is the message under observation. Its id is in the body and in the
// MessageId, so that a mix-up shows.
type Work struct {
	ID   string
	Key  string
	Seq  int
	Kind Kind
	To   string `json:",omitempty"` // the queue that it was sent to; Send and SendTogether fill it in
	Pad  string `json:",omitempty"`
}

// MessageType is the wire name.
func (Work) MessageType() string { return "proof.Work" }

// Child is what the handler of a Parent sends.
type Child struct{ ID, To string }

// MessageType is the wire name.
func (Child) MessageType() string { return "proof.Child" }

// childOf names the child of a message. discardedChildOf names the one that a
// rolled back transaction inside the handler would have sent.
func childOf(id string) string          { return id + "/child" }
func discardedChildOf(id string) string { return id + "/discarded" }

// Service is a harebus service under observation. It handles its own messages. When it has
// several endpoints, the number of a message chooses the one that it is sent to, and each
// child goes to the endpoint after its parent's.
type Service struct {
	Setup  *harebus.Setup
	Others []*harebus.Endpoint // those of Options.Others
	Book   *ledger.Book

	lanes       []lane // the first is that of Config.Queue
	attempts    int
	pause       time.Duration // the least before a second attempt
	linger      time.Duration
	gate        func(Work) // called when a handler begins
	observe     func(harebus.Operation)
	guard       harebus.Guard
	stray       func(*amqp.Delivery) bool
	republished atomic.Uint64 // as last seen
	children    sync.Map      // attempt → child id, between effect and commit
}

// lane is a listener queue with its error queue.
type lane struct{ queue, errors string }

// Options change a Service.
type Options struct {
	// Others are more endpoints; they have the retry policy of the config.
	Others []harebus.EndpointConfig
	// Pause is the least pause that the retry policy of the config makes.
	Pause time.Duration
	// Linger is how long to wait at the end for what is being parked.
	Linger time.Duration
	// Gate, if not nil, is called when a handler begins.
	Gate func(Work)
	// Observe, if any, is called by the service's observer, and may panic.
	Observe func(harebus.Operation)
	// Guard, if any, protects the messages, and opens those that are found at the end.
	Guard harebus.Guard
	// Stray, if any, says of a message that is found at the end that it is none of the service's.
	Stray func(*amqp.Delivery) bool
}

// NewService makes a service of cfg, which must set Queue, ErrorQueue.Name and
// Retry.MaxRetries.
func NewService(cfg harebus.Config, book *ledger.Book, o Options) (*Service, error) {
	s := &Service{Book: book, lanes: []lane{{cfg.Queue, cfg.ErrorQueue.Name}}, attempts: cfg.Retry.MaxRetries + 1, pause: o.Pause, linger: o.Linger, gate: o.Gate, observe: o.Observe, guard: o.Guard, stray: o.Stray}
	cfg.Observers = []harebus.Observer{observer{s}}
	if o.Guard != nil {
		cfg.Payload.Guards = []harebus.Guard{o.Guard}
	}
	var err error
	if s.Setup, err = harebus.New(cfg); err != nil {
		return nil, err
	}
	s.handle(s.Setup, cfg.Queue)
	for _, other := range o.Others {
		other.Retry = cfg.Retry
		e, err := s.Setup.Endpoint(other)
		if err != nil {
			return nil, err
		}
		s.Others = append(s.Others, e)
		s.lanes = append(s.lanes, lane{other.Queue, other.ErrorQueue.Name})
		s.handle(e, other.Queue)
	}
	return s, nil
}

// handle registers the handlers of one endpoint. They know its queue from here, not from
// the library, so that a message in the hands of another endpoint shows.
func (s *Service) handle(on harebus.Registrar, queue string) {
	harebus.Handle(on, func(ctx context.Context, bus *harebus.Bus, w Work) error {
		return s.handleWork(ctx, bus, queue, w)
	})
	harebus.Handle(on, func(ctx context.Context, _ *harebus.Bus, c Child) error {
		return s.handleChild(ctx, queue, c)
	})
}

// Queues are the listener queues.
func (s *Service) Queues() (names []string) {
	for _, l := range s.lanes {
		names = append(names, l.queue)
	}
	return names
}

// queueOf is the queue that a message is sent to.
func (s *Service) queueOf(w Work) string { return s.lanes[w.Seq%len(s.lanes)].queue }

// queueAfter is the queue that the children of a message are sent to.
func (s *Service) queueAfter(w Work) string { return s.lanes[(w.Seq+1)%len(s.lanes)].queue }

// found is the identity of a message that came to a queue. One that was sent to another
// queue was never sent to this one: it is a phantom.
func found(id, to, queue string) string {
	if to == "" || to == queue {
		return id
	}
	return fmt.Sprintf("%s for %s in %s", id, to, queue)
}

var (
	errMeant = errors.New("meant to fail")
	// errLong has a text that no header has room for.
	errLong = errors.New("meant to fail: " + strings.Repeat("x", 200<<10))
)

func (s *Service) handleWork(ctx context.Context, bus *harebus.Bus, queue string, w Work) error {
	m := harebus.Incoming(ctx)
	s.noteRepublished()
	id := m.ID
	if id != w.ID {
		id = fmt.Sprintf("%s carrying %s", id, w.ID) // never sent: a phantom
	}
	id = found(found(id, w.To, queue), m.Queue, queue)
	s.Book.Record(ledger.Event{Op: ledger.Recv, ID: id, Attempt: m.Attempt, Redelivered: m.Redelivered, Sum: ledger.Sum(m.Body)})
	if s.gate != nil {
		s.gate(w)
	}
	if w.Kind == Failing || (w.Kind == Flaky && m.Attempt == 1) {
		s.Book.Record(ledger.Event{Op: ledger.Failed, ID: id, Attempt: m.Attempt, Pause: s.pause})
		if w.Seq%4 == 0 {
			return fmt.Errorf("%s: %w", w.Pad, errLong)
		}
		if err := s.sendInVain(ctx, bus, w); err != nil {
			return err
		}
		return misbehave(w.Seq, w.Pad)
	}
	if w.Kind == Parent {
		if err := s.sendChildren(ctx, bus, w); err != nil {
			return err
		}
	}
	s.Book.Record(ledger.Event{Op: ledger.Effect, ID: id, Attempt: m.Attempt})
	return nil
}

// sendInVain sends a message that must never be published, because the handler then
// fails.
func (s *Service) sendInVain(ctx context.Context, bus *harebus.Bus, w Work) error {
	lost := discardedChildOf(w.ID)
	s.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: lost, Parent: w.ID})
	s.Book.Record(ledger.Event{Op: ledger.Discard, ID: lost})
	return bus.Send(ctx, s.queueAfter(w), Child{lost, s.queueAfter(w)}, harebus.WithMessageID(lost))
}

// sendChildren sends one child, and another in a transaction that is rolled back.
func (s *Service) sendChildren(ctx context.Context, bus *harebus.Bus, w Work) error {
	lost := discardedChildOf(w.ID)
	s.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: lost, Parent: w.ID})
	s.Book.Record(ledger.Event{Op: ledger.Discard, ID: lost})
	err := bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		if err := tx.Send(ctx, s.queueAfter(w), Child{lost, s.queueAfter(w)}, harebus.WithMessageID(lost)); err != nil {
			return err
		}
		return errMeant
	})
	if !errors.Is(err, errMeant) {
		return fmt.Errorf("roll back: %w", err)
	}
	id := childOf(w.ID)
	s.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: id, Parent: w.ID})
	s.children.Store(attemptOf(harebus.Incoming(ctx)), id)
	// The id is that of the book, because what is copied before a handler has begun has no other.
	return bus.Send(ctx, s.queueAfter(w), Child{id, s.queueAfter(w)}, harebus.WithMessageID(id))
}

func (s *Service) handleChild(ctx context.Context, queue string, c Child) error {
	m := harebus.Incoming(ctx)
	s.noteRepublished()
	id := m.ID
	if id != c.ID {
		id = fmt.Sprintf("%s carrying %s", id, c.ID) // never sent: a phantom
	}
	id = found(found(id, c.To, queue), m.Queue, queue)
	s.Book.Record(ledger.Event{Op: ledger.Recv, ID: id, Attempt: m.Attempt, Redelivered: m.Redelivered})
	s.Book.Record(ledger.Event{Op: ledger.Effect, ID: id, Attempt: m.Attempt})
	return nil
}

// Send sends a message and writes down how that went.
func (s *Service) Send(ctx context.Context, w Work, delay time.Duration) error {
	w.To = s.queueOf(w)
	body, err := harebus.JSON{}.Encode(w)
	if err != nil {
		return err
	}
	e := ledger.Event{Op: ledger.SendInvoke, ID: w.ID, Key: w.Key, Seq: w.Seq, Sum: ledger.Sum(body)}
	e.Deadline, _ = ctx.Deadline()
	bus := s.Setup.Bus()
	if delay > 0 {
		e.Due = time.Now().Add(delay)
		s.Book.Record(e)
		err = bus.Defer(ctx, w.To, delay, w, harebus.WithMessageID(w.ID))
	} else {
		s.Book.Record(e)
		err = bus.Send(ctx, w.To, w, harebus.WithMessageID(w.ID))
	}
	s.noteOutcome(w.ID, err)
	return err
}

// SendAndCancel defers a message by delay and cancels it after a while. A cancellation
// without a certain outcome changes nothing: the message may come or not, and is counted
// as one that may be anywhere.
func (s *Service) SendAndCancel(ctx context.Context, w Work, delay, after time.Duration) error {
	w.To = s.queueOf(w)
	body, err := harebus.JSON{}.Encode(w)
	if err != nil {
		return err
	}
	s.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: w.ID, Key: w.Key, Seq: w.Seq, Sum: ledger.Sum(body), Due: time.Now().Add(delay)})
	var ticket harebus.Ticket
	err = s.Setup.Bus().Defer(ctx, w.To, delay, w, harebus.WithMessageID(w.ID), harebus.WithTicket(&ticket))
	if err != nil {
		s.noteOutcome(w.ID, err)
		return err
	}
	if err := Wait(ctx, after); err != nil {
		return err
	}
	err = s.Setup.Bus().Cancel(ctx, ticket)
	s.noteRepublished()
	switch {
	case err == nil:
		s.Book.Record(ledger.Event{Op: ledger.SendOK, ID: w.ID})
		s.Book.Record(ledger.Event{Op: ledger.Cancelled, ID: w.ID})
	case errors.Is(err, harebus.ErrUnknownOutcome):
		s.Book.Record(ledger.Event{Op: ledger.SendUnknown, ID: w.ID, Err: err.Error()})
	default: // nothing was cancelled
		s.Book.Record(ledger.Event{Op: ledger.SendOK, ID: w.ID})
	}
	return err
}

// Publish publishes a message to everybody who has subscribed to a topic, and writes
// down how that went.
func (s *Service) Publish(ctx context.Context, topic string, w Work) error {
	body, err := harebus.JSON{}.Encode(w)
	if err != nil {
		return err
	}
	s.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: w.ID, Key: w.Key, Seq: w.Seq, Sum: ledger.Sum(body)})
	err = s.Setup.Bus().Publish(ctx, topic, w, harebus.WithMessageID(w.ID))
	if errors.Is(err, harebus.ErrNacked) { // by one subscriber; the others may have it
		s.Book.Record(ledger.Event{Op: ledger.SendUnknown, ID: w.ID, Err: err.Error()})
		return err
	}
	s.noteOutcome(w.ID, err)
	return err
}

// SendTogether sends messages in one transaction, or rolls it back.
func (s *Service) SendTogether(ctx context.Context, ws []Work, commit bool) error {
	tx := s.Setup.Bus().Begin()
	defer tx.Rollback()
	for _, w := range ws {
		w.To = s.queueOf(w)
		body, err := harebus.JSON{}.Encode(w)
		if err != nil {
			return err
		}
		s.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: w.ID, Key: w.Key, Seq: w.Seq, Sum: ledger.Sum(body)})
		if err := tx.Send(ctx, w.To, w, harebus.WithMessageID(w.ID)); err != nil {
			return err
		}
	}
	if !commit {
		for _, w := range ws {
			s.Book.Record(ledger.Event{Op: ledger.Discard, ID: w.ID})
		}
		return nil
	}
	err := tx.Commit(ctx)
	outcomes := map[string]error{}
	var failed *harebus.TransactionError
	if errors.As(err, &failed) {
		for _, m := range failed.Messages {
			outcomes[m.MessageID] = m.Err
		}
	}
	for _, w := range ws {
		if failed == nil {
			s.noteOutcome(w.ID, err)
			continue
		}
		s.noteOutcome(w.ID, outcomes[w.ID])
	}
	return err
}

func (s *Service) noteOutcome(id string, err error) {
	s.noteRepublished()
	e := ledger.Event{Op: ledger.SendOK, ID: id}
	switch {
	case err == nil:
	case errors.Is(err, harebus.ErrUnknownOutcome):
		e.Op, e.Err = ledger.SendUnknown, err.Error()
	default:
		e.Op, e.Err = ledger.SendFail, err.Error()
	}
	s.Book.Record(e)
}

// noteRepublished writes down that the library has sent something a second
// time, which explains a duplicate.
func (s *Service) noteRepublished() {
	now := s.Setup.Stats().Republished
	if s.republished.Swap(now) != now {
		s.Book.Record(ledger.Event{Op: ledger.Crash, Err: "republished"})
	}
}

// observer records what only the library sees: lost connections, and the confirms
// of the messages that a handler sent.
type observer struct{ s *Service }

func (o observer) ObserveStart(ctx context.Context, e harebus.Observation) context.Context {
	if e.Operation == harebus.OpConnect {
		o.s.Book.Record(ledger.Event{Op: ledger.Crash, Err: "connect " + e.Connection})
	}
	switch e.Operation {
	case harebus.OpRetry, harebus.OpPark, harebus.OpPostpone: // known before another attempt can begin
		o.s.Book.Record(ledger.Event{Op: ledger.Copied, ID: e.Incoming.ID, Attempt: e.Incoming.Attempt, Redelivered: e.Incoming.Redelivered})
		o.handled(e.Incoming, e.Err)
	}
	if e.Operation != harebus.OpHandle { // whose end must be seen
		o.s.observed(e.Operation)
	}
	return ctx
}

func (o observer) ObserveEnd(_ context.Context, e harebus.Observation, err error) {
	defer o.s.observed(e.Operation)
	if e.Operation == harebus.OpHandle {
		o.handled(e.Incoming, err)
	}
}

func attemptOf(m *harebus.Message) string { return fmt.Sprint(m.ID, " ", m.Attempt) }

// handled writes down whether what a handler sent is confirmed. err is that of its attempt.
func (o observer) handled(m *harebus.Message, err error) {
	child, ok := o.s.children.LoadAndDelete(attemptOf(m))
	switch {
	case ok && err != nil: // the effect took place, and the attempt failed all the same
		o.s.Book.Record(ledger.Event{Op: ledger.Crash, Err: "commit failed: " + err.Error()})
	case ok:
		o.s.Book.Record(ledger.Event{Op: ledger.SendOK, ID: child.(string)}) //nolint:forcetypeassert // only strings are stored
	}
}

func (s *Service) observed(op harebus.Operation) {
	if s.observe != nil {
		s.observe(op)
	}
}

// MeantToFail says whether a message of this package was to end in the error
// queue.
func MeantToFail(id string) bool { return strings.Contains(id, "/"+string(Failing)+"/") }

// NewID makes the id of a message; it tells MeantToFail.
func NewID(run string, producer, seq int, kind Kind) string {
	return fmt.Sprintf("%s/%d/%s/%d", run, producer, kind, seq)
}
