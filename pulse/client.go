package pulse

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

// Target is who is asked. The zero Target is all instances of all services.
type Target struct {
	// Queue asks the instances that have this listener queue.
	Queue string
	// Instance asks one instance; it replaces Queue.
	Instance string
}

// key is the routing key of a target.
func (t Target) key() string {
	switch {
	case t.Instance != "":
		return "instance." + queue.ShortName(t.Instance)
	case t.Queue != "":
		return "queue." + queue.ShortName(t.Queue)
	default:
		return "all"
	}
}

// ClientConfig says how to reach the broker.
type ClientConfig struct {
	// Connect is where the broker is and who logs in. Only the addresses, the login and TLS
	// are used; there is at least one address.
	Connect harebus.ConnectConfig
	// Dial, if not nil, makes the network connection.
	Dial func(network, address string) (net.Conn, error)
	// Patience is how long the first answer may take, and Quiet how long the next one: a round
	// ends when nothing has come for so long. Default: 2 s and 250 ms.
	Patience, Quiet time.Duration
	// From is who asks, for the audit line of an order: "ann@ops1".
	From string
	// Log, if not nil, reports waits.
	Log *zap.Logger
}

// Client asks instances. It is for one goroutine.
type Client struct {
	cfg ClientConfig
	// ask publishes and look does not: a broker that blocks publishers answers on look.
	ask, look *session.Link
}

// Round is what has come as answers to one question.
type Round struct {
	// Answers are those of the instances, by service and instance.
	Answers []Answer
	// Unreadable is the number of answers that were none.
	Unreadable int
	// Blocked is why the broker takes no more messages, such as a memory or disk alarm; empty if it does. RabbitMQ
	// still reads the first message of a connection, so the first question may be answered.
	Blocked string
	// Took is the time until the last answer came.
	Took time.Duration
}

// Open makes a client. It connects when it first asks.
func Open(c ClientConfig) (*Client, error) {
	c.Patience, c.Quiet = cmp.Or(c.Patience, 2*time.Second), cmp.Or(c.Quiet, 250*time.Millisecond)
	switch {
	case len(c.Connect.URLs) == 0:
		return nil, errors.New("pulse: open: ClientConfig.Connect.URLs has no address")
	case c.Patience < 0 || c.Quiet < 0:
		return nil, errors.New("pulse: open: ClientConfig.Patience and ClientConfig.Quiet cannot be negative")
	}
	connect := c.Connect
	broker := access.Broker{
		URLs: connect.URLs, Username: connect.Username, Password: connect.Password, Credentials: connect.Credentials,
		ExternalAuth: connect.ExternalAuth, TLS: connect.TLS, Dial: c.Dial, Log: c.Log,
	}
	client := &Client{cfg: c}
	var err error
	if client.ask, err = broker.Link("ask"); err == nil {
		client.look, err = broker.Link("look")
	}
	if err != nil {
		return nil, fmt.Errorf("pulse: open: %w", err)
	}
	return client, nil
}

// Close ends the connections: the client asks nothing any more.
func (c *Client) Close() {
	c.ask.Close()
	c.look.Close()
}

// Ask asks instances how they are. Nobody may answer: that is no error.
func (c *Client) Ask(ctx context.Context, to Target) (*Round, error) {
	r, err := c.round(ctx, Exchange, to, nil)
	if err != nil {
		return nil, fmt.Errorf("pulse: ask: %w", err)
	}
	return r, nil
}

// Control gives an order to instances, and returns their answers: [Answer.Refused] says why one
// has not carried it out. Instances that take no orders do not answer.
func (c *Client) Control(ctx context.Context, to Target, o Order) (*Round, error) {
	if math.IsNaN(o.Rate) || math.IsInf(o.Rate, 0) {
		return nil, fmt.Errorf("pulse: control: the rate is %v", o.Rate)
	}
	o.From = c.cfg.From
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("pulse: control: %w", err)
	}
	r, err := c.round(ctx, ControlExchange, to, body)
	if err != nil {
		return nil, fmt.Errorf("pulse: control: %w", err)
	}
	return r, nil
}

// round asks on a channel of its own, and on the next connection if this one ends.
func (c *Client) round(ctx context.Context, exchange string, to Target, body []byte) (r *Round, err error) {
	err = c.ask.With(ctx, func(on *session.Session) error {
		q := &question{client: c, on: on, exchange: exchange, id: harebus.NewMessageID(), round: &Round{}, known: map[string]int{}}
		r = q.round
		return q.ask(ctx, to, body)
	})
	switch {
	case refusal.Missing(err): // no service has ever served
		return &Round{}, nil
	case refusal.Forbidden(err):
		return nil, fmt.Errorf("the user may not write to the exchange %q: %w", exchange, err)
	}
	return r, err
}

// question is one question on its way.
type question struct {
	client       *Client
	on           *session.Session
	ch           *amqp.Channel
	exchange, id string
	asked        time.Time
	round        *Round
	known        map[string]int // the place of an instance among the answers

	answers <-chan amqp.Delivery
	returns chan amqp.Return
	closes  chan *amqp.Error
}

func (q *question) ask(ctx context.Context, to Target, body []byte) error {
	if err := q.blocked(); err != nil {
		return err
	}
	sent := make(chan struct{}, 1)
	err := q.on.RPCs(ctx, func(next func()) (err error) {
		defer func() { sent <- struct{}{} }()
		if q.ch, err = q.on.Channel(); err != nil {
			return err
		}
		q.returns = q.ch.NotifyReturn(make(chan amqp.Return, 1))
		q.closes = q.ch.NotifyClose(make(chan *amqp.Error, 1))
		next()
		if q.answers, err = q.ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil); err != nil {
			return err
		}
		next()
		m := amqp.Publishing{CorrelationId: q.id, ReplyTo: "amq.rabbitmq.reply-to", Expiration: strconv.FormatInt(stale.Milliseconds(), 10), Body: body}
		if q.exchange == ControlExchange {
			m.ContentType, m.UserId = "application/json", q.on.User()
		}
		return q.ch.PublishWithContext(ctx, q.exchange, to.key(), true, false, m)
	})
	if err != nil {
		return err
	}
	<-sent
	q.asked = time.Now()
	err = q.collect(ctx)
	if err == nil && q.blocked() == nil { // a broker that blocks publishers does not read
		_ = q.on.RPC(ctx, q.ch.Close) // an error means that it is closed
	}
	return err
}

// blocked says why the broker takes no questions.
func (q *question) blocked() error {
	if reason := q.on.BlockedReason(); reason != "" {
		return fmt.Errorf("the broker takes no messages now: %s", reason)
	}
	return nil
}

// mostAnswers is how many instances a round has: an end to what a stranger can send.
const mostAnswers = 10_000

// collect takes answers until nothing has come for a while.
func (q *question) collect(ctx context.Context) error {
	quiet := time.NewTimer(q.client.cfg.Patience)
	defer quiet.Stop()
	late := time.NewTimer(q.client.cfg.Patience + stale) // whatever comes
	defer late.Stop()
	for len(q.round.Answers)+q.round.Unreadable < mostAnswers {
		select {
		case d, ok := <-q.answers:
			if !ok {
				q.answers = nil // closes says why
				continue
			}
			if q.take(&d) {
				quiet.Reset(q.client.cfg.Quiet)
			}
		case _, is := <-q.returns:
			if is { // nobody is asked
				return q.end()
			}
			q.returns = nil // the channel has ended; closes says why
		case err := <-q.closes:
			if err == nil {
				return errors.New("channel closed")
			}
			return err
		case <-quiet.C:
			return q.end()
		case <-late.C:
			return q.end()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return q.end()
}

// end ends the round, unless the broker has not taken the question.
func (q *question) end() error {
	if err := q.blocked(); err != nil && len(q.round.Answers) == 0 {
		return err
	}
	q.round.Blocked = q.on.BlockedReason()
	slices.SortFunc(q.round.Answers, func(a, b Answer) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Instance, b.Instance))
	})
	return nil
}

// take takes an answer. It is false for what is no answer to this question.
func (q *question) take(d *amqp.Delivery) bool {
	if wire.Unpack(d) != nil || d.CorrelationId != q.id {
		q.round.Unreadable++
		return false
	}
	a, err := read(d.Body)
	if err != nil {
		q.round.Unreadable++
		return false
	}
	now := time.Now()
	q.round.Took = now.Sub(q.asked)
	a.Ahead = a.Clock.Sub(q.asked.Add(q.round.Took / 2)) //nolint:mnd // half of the way there and back
	if i, twice := q.known[a.Instance]; twice {
		q.round.Answers[i] = a
		return false
	}
	q.known[a.Instance] = len(q.round.Answers)
	q.round.Answers = append(q.round.Answers, a)
	return true
}

// Waiting is what waits in a queue.
type Waiting struct {
	// Exists is false if there is no such queue.
	Exists bool
	// Ready and Consumers are the messages that wait, and the consumers.
	Ready, Consumers int
	// Unknown is why the broker does not tell, such as that the node of the queue is down. Then
	// nothing else is known. It is empty if all is known.
	Unknown string
}

// Known says whether Ready and Consumers are those of the queue.
func (w Waiting) Known() bool { return w.Exists && w.Unknown == "" }

// untold reads a refusal to tell about a queue.
func untold(err error) Waiting {
	switch {
	case session.Unreachable(err):
		return Waiting{Unknown: "it cannot be reached now: its node is down, or it is being started"}
	case refusal.Missing(err):
		return Waiting{}
	case refusal.Locked(err):
		return Waiting{Unknown: "it is exclusive: only the connection that has declared it is told"}
	case refusal.Forbidden(err):
		return Waiting{Unknown: "the user may not see it, if there is such a queue"}
	}
	return Waiting{Unknown: err.Error()}
}

// Waiting asks how much waits in queues. Nothing is touched. What the broker does not tell about one
// queue is no error.
func (c *Client) Waiting(ctx context.Context, queues []string) (map[string]Waiting, error) {
	found := map[string]Waiting{}
	err := c.look.With(ctx, func(on *session.Session) error {
		for _, name := range queues {
			const longest = 255
			if len(name) > longest { // the client ends the connection at it, and With begins again
				found[name] = Waiting{Unknown: fmt.Sprintf("no queue has a name of %d bytes", len(name))}
				continue
			}
			var state amqp.Queue
			err := on.WithChannel(ctx, func(ch *amqp.Channel) (err error) {
				state, err = ch.QueueDeclarePassive(name, true, false, false, false, nil)
				return err
			})
			switch {
			case err == nil:
				found[name] = Waiting{Exists: true, Ready: state.Messages, Consumers: state.Consumers}
			case refusal.ByBroker(err) && on.Alive():
				found[name] = untold(err)
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pulse: look at queues: %w", err)
	}
	return found, nil
}
