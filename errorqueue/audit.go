package errorqueue

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
)

// AuditQueue is the queue with the audit trail: a message in JSON when an action begins and
// another when it ends. It is durable and keeps the last 100,000. The user id of a message is
// who has logged in; the broker has checked it.
const AuditQueue = "harebus.audit"

// audited is a message of the audit trail.
type audited struct {
	Run      string    `json:"run"`
	Phase    string    `json:"phase"` // "begin" or "end"
	At       time.Time `json:"at"`
	Operator string    `json:"operator,omitempty"`
	Action   string    `json:"action"`
	Queue    string    `json:"queue"`
	To       string    `json:"to,omitempty"`
	// Selected is how many messages the action is about. The rest is what has become of them.
	Selected  int `json:"selected"`
	Done      int `json:"done,omitempty"`
	Left      int `json:"left,omitempty"`
	Gone      int `json:"gone,omitempty"`
	Remaining int `json:"remaining,omitempty"`
	Twice     int `json:"perhaps_twice,omitempty"`
}

// audited is what the audit trail has of an action.
func (a *action) audited(phase string) audited {
	r := &a.report
	return audited{
		Run: r.Run, Phase: phase, At: time.Now().UTC(), Operator: a.q.cfg.Operator, Action: a.verb, Queue: a.q.cfg.Name, To: a.options.To,
		Selected: a.all, Done: r.Done, Left: len(r.Left), Gone: r.Gone, Remaining: r.Remaining, Twice: len(r.Twice),
	}
}

// audit writes into the audit trail.
func (q *Queue) audit(ctx context.Context, e audited) error {
	if q.cfg.NoAudit {
		return nil
	}
	body, err := json.Marshal(e)
	if err == nil {
		err = q.record(ctx, body, e.At)
	}
	if err != nil {
		return fmt.Errorf("write the audit trail into %q: %w", AuditQueue, err)
	}
	return nil
}

func (q *Queue) record(ctx context.Context, body []byte, at time.Time) error {
	if !q.conn.Session().Alive() {
		return q.conn.Session().Cause()
	}
	err := q.conn.Session().WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(AuditQueue, true, false, false, false, nil)
		return err
	})
	if refusal.Missing(err) {
		err = q.conn.Session().WithChannel(ctx, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(AuditQueue, true, false, false, false, amqp.Table{"x-max-length": int32(100_000)})
			return err
		})
	}
	if err != nil {
		return err
	}
	return q.conn.Store([]session.Publishing{{Key: AuditQueue, Message: amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: messageid.New(), Timestamp: at, UserId: q.conn.User(), Body: body,
	}}})[0]
}
