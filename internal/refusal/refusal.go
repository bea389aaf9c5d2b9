// Package refusal reads the broker's refusals.
package refusal

import (
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Missing says whether the broker has found something not to exist, or out of
// reach: the reply code is the same, see session.Unreachable.
func Missing(err error) bool { return is(err, amqp.NotFound) }

// Forbidden says whether the user may not even look. RabbitMQ 4.3, and 4.2.6, refuse
// a passive declare to users who have no permission on the name, whether it exists
// or not; older versions let everybody look. So it says nothing about the object.
func Forbidden(err error) bool { return is(err, amqp.AccessRefused) }

// Differs says whether something exists with other properties.
func Differs(err error) bool { return is(err, amqp.PreconditionFailed) }

func is(err error, code int) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Code == code
}
