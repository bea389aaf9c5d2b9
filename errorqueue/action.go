package errorqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// Options are how an action is carried out.
type Options struct {
	// To is where [Queue.Retry] and [Queue.Edit] send messages, instead of the queue that each
	// came from.
	To string
	// Rate is how many messages a second leave the queue. Default: 100. Negative: no limit. An
	// action that would take longer than 20 minutes is refused.
	Rate int
	// Refusals is how many messages the broker may refuse before the action stops. Default: 10.
	Refusals int
	// Journal is a file that keeps what has happened to each message, or "". If it exists, it
	// is of the same action. If that was interrupted, it goes on: messages that were
	// confirmed then are not sent again. What a run that came to its end has done does not count.
	Journal string
	// Progress, if not nil, is called after each step.
	Progress func(done, left, all int)
}

// Report is what an action has done.
type Report struct {
	// Run is the id of the action in the audit trail and the journal.
	Run string
	// Done is how many messages have left the error queue.
	Done int
	// Left are those that stay there, with the reason.
	Left []Left
	// Gone is how many were not in the queue any more: somebody else has moved them, or they
	// are with a program that has just ended.
	Gone int
	// Remaining is how many were not tried, because the action was stopped.
	Remaining int
	// Twice are the ids of messages that may be in both queues, because an answer was lost, in
	// this run or in an interrupted one that it continues. Copies have the same message id, but for that of an edit.
	Twice []string
	// Edited is the message id of what [Queue.Edit] has sent, or may have sent if Twice names the message; empty if it has
	// sent nothing in this run.
	Edited string
}

// Left is a message that stays in the error queue.
type Left struct{ ID, MessageID, Reason string }

const defaultRate, defaultRefusals = 100, 10

// action is one action under way.
type action struct {
	q       *Queue
	verb    string
	options Options
	// prepare makes the message that is to be sent. An error leaves the message.
	prepare func(*Content) (session.Publishing, error)
	// keep, if not nil, stores messages in a file instead of sending them.
	keep func([]*Content) error
	// body is a hash of the new body of an edit.
	body string

	wanted  map[key]int
	all     int // how many are wanted
	open    int // how many of them were not met yet
	refused int
	next    time.Time // the rate allows no step before
	journal *journal
	reader  *reader
	stored  []string // in the last step: the broker may not have removed these messages
	report  Report
}

// run carries an action out on a selection.
func (q *Queue) run(ctx context.Context, messages []Message, a *action) (Report, error) {
	err := a.do(ctx, q, messages)
	if err != nil {
		err = fmt.Errorf("errorqueue: %s: %w", a.verb, err)
	}
	return a.report, err
}

func (a *action) do(ctx context.Context, q *Queue, messages []Message) (err error) {
	a.q, a.reader, a.all, a.open = q, q.reader(), len(messages), len(messages)
	a.wanted = make(map[key]int, len(messages))
	for i := range messages {
		a.wanted[messages[i].key]++
	}
	a.report.Run = messageid.New()
	if a.options.Rate == 0 {
		a.options.Rate = defaultRate
	}
	if err := slow(len(messages), a.options.Rate); err != nil {
		return err
	}
	if a.options.Refusals == 0 {
		a.options.Refusals = defaultRefusals
	}
	if len(messages) == 0 {
		return nil
	}
	if a.journal, err = openJournal(a.options.Journal, entry{Run: a.report.Run, Action: a.verb, Queue: q.cfg.Name, To: a.options.To, Body: a.body}); err != nil {
		return err
	}
	defer func() {
		if closed := a.journal.close(err == nil); err == nil {
			err = closed
		}
	}()
	if err := q.audit(ctx, a.audited("begin")); err != nil {
		return err
	}
	p := pass{q: q, each: a.each, store: a.store, most: a.together(), enough: a.enough}
	err = p.run(ctx)
	if p.back != nil {
		a.doubt()
	}
	a.settle(err == nil && ctx.Err() == nil && !a.stopped())
	if told := q.audit(context.WithoutCancel(ctx), a.audited("end")); err == nil {
		err = told
	}
	return err
}

// longest is how long an action may take at its rate. The action holds the rest of the queue, and
// after 30 minutes RabbitMQ takes back what a consumer has not acknowledged.
const longest = 20 * time.Minute

// slow refuses an action that would take too long.
func slow(messages, rate int) error {
	if most := int(longest.Seconds()) * rate; rate > 0 && messages > most {
		return fmt.Errorf("%d messages at %d a second take longer than %v, and so long the broker does not let a consumer hold the queue; use a higher rate, or act on at most %d at a time",
			messages, rate, longest, most)
	}
	return nil
}

// settle counts the rest of the selection. It is not in the queue if all of that was seen.
func (a *action) settle(all bool) {
	rest := a.all - a.report.Done - len(a.report.Left)
	if all {
		a.report.Gone = rest
		return
	}
	a.report.Remaining = rest
}

func (a *action) stopped() bool { return a.refused >= a.options.Refusals }

func (a *action) enough() bool { return a.open == 0 || a.stopped() }

// together is how many messages go in one step: a tenth of a second of the rate.
func (a *action) together() int {
	if a.options.Rate < 0 {
		return window
	}
	return min(window, max(1, a.options.Rate/10))
}

// each takes the messages of the selection out of the queue.
func (a *action) each(m *queue.Message, position int) (s *step, removed bool, err error) {
	c := a.reader.read(m, position)
	if a.wanted[c.key] == 0 {
		return nil, false, nil // it is none of them
	}
	a.wanted[c.key]--
	a.open--
	if a.journal.confirmed(c) {
		return nil, true, a.removeAgain(c)
	}
	out, err := a.prepare(c)
	if err != nil {
		a.leave(c, err)
		return nil, false, nil
	}
	return &step{message: m, out: out, content: c}, false, nil
}

// removeAgain removes a message that an interrupted run has sent, and could not remove.
func (a *action) removeAgain(c *Content) error {
	if err := a.q.conn.Remove(c.raw); err != nil {
		return err
	}
	a.report.Done++
	return nil
}

// store carries steps out: journal, send, wait for the confirms, journal, acknowledge. Before anything is sent the broker
// has removed what was sent before, so that what is in doubt is always one step.
func (a *action) store(ctx context.Context, steps []*step) error {
	if err := a.q.conn.Removed(); err != nil {
		return err
	}
	a.stored = nil
	if err := a.journal.sent(steps); err != nil {
		return err
	}
	errs, err := a.send(steps)
	if err != nil {
		return err
	}
	if err := a.journal.answered(steps, errs); err != nil {
		return err
	}
	before := a.report.Done
	if err := a.conclude(steps, errs); err != nil {
		return a.abandon(steps, errs, err)
	}
	if a.options.Progress != nil {
		a.options.Progress(a.report.Done, len(a.report.Left), a.all)
	}
	a.pause(ctx, a.report.Done-before)
	return nil
}

// send stores the messages of steps elsewhere. Those that are put into the queue anew go in
// the same order, also if the others go to a file.
func (a *action) send(steps []*step) ([]error, error) {
	errs := make([]error, len(steps))
	var outs []session.Publishing
	var places []int
	var kept []*Content
	for i, s := range steps {
		if a.keep != nil && s.content != nil {
			kept = append(kept, s.content)
			continue
		}
		outs, places = append(outs, s.out), append(places, i)
	}
	if len(kept) > 0 {
		if err := a.keep(kept); err != nil {
			return nil, err
		}
	}
	for i, err := range a.q.conn.Store(outs) {
		errs[places[i]] = err
	}
	return errs, nil
}

// conclude removes the messages that are stored elsewhere. An error ends the action.
func (a *action) conclude(steps []*step, errs []error) error {
	var stored []*step
	var messages []*queue.Message
	for i, s := range steps {
		switch {
		case errs[i] == nil:
			stored, messages = append(stored, s), append(messages, s.message)
		case !left(errs[i]):
			return errs[i]
		case s.content != nil:
			a.refused++
			a.leave(s.content, errs[i])
		}
	}
	if err := a.q.conn.Remove(messages...); err != nil {
		return err
	}
	for _, s := range stored {
		if s.content == nil {
			continue
		}
		a.report.Done++
		a.stored = append(a.stored, s.content.ID())
		if a.journal.unclear(s.content) {
			a.report.Twice = append(a.report.Twice, s.content.ID())
		}
	}
	return nil
}

// doubt names the messages that were stored last, when the request to remove them may be lost.
func (a *action) doubt() {
	for _, id := range a.stored {
		if !slices.Contains(a.report.Twice, id) {
			a.report.Twice = append(a.report.Twice, id)
		}
	}
}

// abandon names the messages whose outcome is unknown.
func (a *action) abandon(steps []*step, errs []error, cause error) error {
	for i, s := range steps {
		if s.content != nil && !left(errs[i]) {
			a.report.Twice = append(a.report.Twice, s.content.ID())
		}
	}
	return cause
}

func (a *action) leave(c *Content, reason error) {
	a.report.Left = append(a.report.Left, Left{c.ID(), c.MessageID, reason.Error()})
}

// left says whether err means that a message was not stored, and that others can be.
func left(err error) bool {
	var l *queue.LeftError
	return errors.As(err, &l)
}

// pause keeps to the rate after a step of n messages. Time in which nothing went is not made up
// for.
func (a *action) pause(ctx context.Context, n int) {
	if a.options.Rate < 0 {
		return
	}
	if now := time.Now(); a.next.Before(now) {
		a.next = now
	}
	a.next = a.next.Add(time.Duration(n) * time.Second / time.Duration(a.options.Rate))
	wait.Sleep(ctx, time.Until(a.next)) // whether ctx has ended is seen before the next message
}
