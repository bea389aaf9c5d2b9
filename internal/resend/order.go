package resend

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/publish"
)

var errFull = errors.New("as many messages are parked as may be (MaxParked); see the command harebus parked")

// inPlace stores a copy in the parking queue of an ordered queue, in the place that the message has there. The
// original must be acknowledged after that, and not before: the place would be lost.
func (c *Case) inPlace(purpose Purpose, out *publish.Message, cause error, due time.Time, held bool) bool {
	if !c.On.Room() {
		c.complain("cannot "+purpose.String()+" a message; it stays in its queue, and is handled again", errFull)
		return false
	}
	place, key := c.On.Place()
	place.Due, place.Held = due, held
	c.On.Order().Names.Strip(out.Publishing.Headers) // a sender's note would be taken for one of ours
	place.Write(&c.On.Order().Names, key, out.Publishing.Headers)
	if id := c.On.KnownAs(); id != c.ID { // its original may come again
		out.Publishing.Headers[c.On.Order().Names.Content] = id
	}
	out.Exchange, out.ViaDefault = "", false
	sent := c.send(purpose, out, cause)
	if sent {
		c.On.Moved(place)
	}
	return sent
}

// Behind stores the message in the parking queue as it came, because one of its key waits there.
func (c *Case) Behind() bool {
	before := c.Deadly
	if c.inPlace(Postpone, c.copyTo(c.On.Order().Parking), nil, time.Time{}, false) {
		return true
	}
	return c.Deadly != before && c.Behind() // without the headers that may have ended the connection
}

// hold stores the message in the parking queue, where it holds its key until an operator has decided.
func (c *Case) hold(cause error) Result {
	before := c.Deadly
	out := c.failedCopy(c.On.Order().Parking, cause)
	c.describe(out.Publishing.Headers, cause)
	if !c.inPlace(Park, out, cause, time.Time{}, true) {
		if c.Deadly != before {
			return c.hold(cause)
		}
		return Stuck
	}
	_, key := c.On.Place()
	c.On.Log().Error("a message holds its key until an operator has decided; see the command harebus parked",
		append(c.Fields(), zap.String("key", key), zap.Error(cause))...)
	return Held
}

// Note sends a note to a queue.
func (q *Queue) Note(ctx context.Context, to string, headers amqp.Table) error {
	return q.tell(ctx, &publish.Message{Key: to, Mandatory: true, Publishing: amqp.Publishing{
		Headers: headers, MessageId: messageid.New(), DeliveryMode: amqp.Persistent,
	}})
}

// Answer answers an operator. When nobody waits for it any more, nobody gets it.
func (q *Queue) Answer(ctx context.Context, to, correlationID string, body []byte) error {
	return q.tell(ctx, &publish.Message{Key: to, Publishing: amqp.Publishing{
		MessageId: messageid.New(), CorrelationId: correlationID, ContentType: "application/json", Body: body,
	}})
}

// Token sends a token of a group of readers.
func (q *Queue) Token(ctx context.Context, to string, body []byte) error {
	return q.tell(ctx, &publish.Message{Key: to, Mandatory: true, Publishing: amqp.Publishing{
		MessageId: messageid.New(), ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: body,
	}})
}

func (q *Queue) tell(ctx context.Context, m *publish.Message) error {
	publisher, err := q.Publisher()
	if err != nil {
		return err
	}
	return publisher.Publish(ctx, m)
}
