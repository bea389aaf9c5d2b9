// Package scheduled sees the recurring schedules of a service from outside: by its leader, or by the tokens in their queue when
// no instance runs. What is on the wire is that of package schedule, which is in a module of its own because of its cron parser.
package scheduled

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

const (
	typeRequest = "harebus.schedule.request"
	typeToken   = "harebus.schedule.token"
	typeSealed  = "application/vnd.harebus.sealed" // the content type; package seal has the same
	// Suffix is what the name of the tokens' queue has after that of the service's, unless the service names it.
	Suffix = ".schedules"
)

// ErrNoInstance says that there is nobody who could carry out a request.
var ErrNoInstance = errors.New("no instance of the service runs; start one, because it has to carry this out")

// errSealed says that a body cannot be read.
var errSealed = errors.New("it is sealed, and only the instances of the service have the key; their logs and Schedules.Stats say how schedules are")

// silence is after how long without a delivery a queue is taken as read: messages that have expired are counted and never come.
const silence = 2 * time.Second

// Token is that of a schedule.
type Token struct {
	Name string `json:"name"`
	// Last is the watermark: what was due before is fired or left out. Of a Fresh token it is when that was made.
	Last  time.Time `json:"last"`
	Fresh bool      `json:"fresh"`
	// Fired is the due time that was fired last; nil if none was.
	Fired *time.Time `json:"fired"`
	// Running is the due time of a run that has not ended, if runs must not overlap.
	Running *time.Time `json:"running"`
	Paused  bool       `json:"paused"`
	// Orphan is since when no leader has had a definition of the schedule.
	Orphan *time.Time `json:"orphan"`
	// Revision counts the changes of a token with the same watermark.
	Revision int    `json:"revision"`
	Cron     string `json:"cron"`
	Zone     string `json:"zone"`
	// Next is the next due time, and Fires when it is fired, if that is later by jitter.
	Next  *time.Time `json:"next"`
	Fires *time.Time `json:"fires"`
}

// beats says which of two tokens of one name counts for the leader, as in package schedule.
func (t *Token) beats(other *Token) bool {
	switch {
	case t.Fresh != other.Fresh:
		return other.Fresh
	case !t.Last.Equal(other.Last):
		return t.Last.After(other.Last) != t.Fresh
	default:
		return t.Revision > other.Revision
	}
}

// slack is how far clocks may be apart, and how late a due time may be, before that is worth a word.
const slack = time.Minute

// Future says that the watermark is ahead of the clock: the schedule is not due before it.
func (t *Token) Future(now time.Time) bool { return t.Last.Sub(now) > slack }

// Overdue says that a due time should have been fired and was not.
func (t *Token) Overdue(now time.Time) bool {
	at := t.Next
	if t.Fires != nil {
		at = t.Fires
	}
	return at != nil && !t.Paused && now.Sub(*at) > slack
}

// State is what the leader, or the queue, says.
type State struct {
	// Leader names the instance that leads; empty if none runs.
	Leader string `json:"leader"`
	// Tokens are those of all schedules, by name.
	Tokens []Token `json:"tokens"`
	// Defined says which of them the leader defines; nil without one.
	Defined map[string]bool `json:"defined"`
}

// Undefined says that the leader's version of the service does not define the schedule of a token.
func (s *State) Undefined(t *Token) bool {
	return t.Orphan != nil || s.Leader != "" && !s.Defined[t.Name]
}

// Client asks about the schedules whose tokens are in Queue.
type Client struct {
	Link  *session.Link
	Bus   *harebus.Bus
	Queue string
}

// Look asks the leader. If nobody consumes from the queue, it reads the tokens and leaves them there.
func (c Client) Look(ctx context.Context) (*State, error) {
	found := &State{}
	consumers, err := c.consumers(ctx, func(ch *amqp.Channel, messages int) (err error) {
		found.Tokens, err = c.read(ctx, ch, messages)
		return err
	})
	if err != nil || consumers == 0 {
		return found, err
	}
	return c.ask(ctx, "ls", "")
}

// Do has the leader run, pause, resume or rm a schedule.
func (c Client) Do(ctx context.Context, what, name string) error {
	consumers, err := c.consumers(ctx, func(*amqp.Channel, int) error { return ErrNoInstance })
	if err != nil || consumers == 0 {
		return err
	}
	_, err = c.ask(ctx, what, name)
	return err
}

// consumers counts those of the queue, and calls alone if there are none.
func (c Client) consumers(ctx context.Context, alone func(ch *amqp.Channel, messages int) error) (consumers int, err error) {
	err = c.Link.With(ctx, func(on *session.Session) error {
		return on.WithChannel(ctx, func(ch *amqp.Channel) error {
			found, err := ch.QueueDeclarePassive(c.Queue, true, false, false, false, nil)
			switch {
			case refusal.Missing(err):
				return fmt.Errorf("there is no queue %q; correct the name of the service's queue, or name that of the tokens with -tokens: %w", c.Queue, err)
			case err != nil:
				return err
			}
			if consumers = found.Consumers; consumers > 0 {
				return nil
			}
			return alone(ch, found.Messages)
		})
	})
	return consumers, err
}

// read reads the tokens among so many messages. The broker takes them back when the channel is closed.
func (c Client) read(ctx context.Context, ch *amqp.Channel, messages int) ([]Token, error) {
	deliveries, err := ch.Consume(c.Queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	latest := map[string]Token{}
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for range messages {
		quiet.Reset(silence)
		select {
		case <-quiet.C:
			return sorted(latest), nil
		case d, ok := <-deliveries:
			if !ok {
				return nil, errors.New("the broker has cancelled the consumer")
			}
			if err := wire.Unpack(&d); err != nil {
				continue // it is no token
			}
			if d.Type == typeToken && d.ContentType == typeSealed {
				return nil, fmt.Errorf("read a token: %w", errSealed)
			}
			var t Token
			if d.Type != typeToken || json.Unmarshal(d.Body, &t) != nil {
				continue
			}
			if was, known := latest[t.Name]; !known || t.beats(&was) {
				latest[t.Name] = t
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return sorted(latest), nil
}

// sorted has tokens by name.
func sorted(latest map[string]Token) []Token {
	var tokens []Token
	for _, t := range latest {
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return tokens
}

// ask asks the leader.
func (c Client) ask(ctx context.Context, what, name string) (*State, error) {
	reply, err := harebus.Request[*harebus.Message](ctx, c.Bus, c.Queue, map[string]string{"do": what, "name": name}, harebus.WithType(typeRequest))
	if err != nil {
		return nil, err
	}
	if reply.ContentType == typeSealed {
		return nil, fmt.Errorf("read the answer: %w", errSealed)
	}
	var answer struct {
		State

		Error string `json:"error"`
	}
	switch err := json.Unmarshal(reply.Body, &answer); {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case answer.Error != "":
		return nil, errors.New(answer.Error)
	}
	return &answer.State, nil
}
