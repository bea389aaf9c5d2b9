// Package refusal reads the broker's refusals.
package refusal

import (
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Missing says whether the broker reports that an object does not exist or is out
// of reach. Both have the same reply code, see session.Unreachable.
func Missing(err error) bool { return is(err, amqp.NotFound) }

// Locked says that a queue belongs to another connection: it exists.
func Locked(err error) bool { return is(err, amqp.ResourceLocked) }

// Forbidden says whether the user may not check an object. RabbitMQ from 4.2.6 on
// refuses a passive declare to users who have no permission on the name, whether the
// object exists or not; older versions allow it to every user. So it does not say
// whether the object exists.
func Forbidden(err error) bool { return is(err, amqp.AccessRefused) }

// Differs says whether something exists with other properties.
func Differs(err error) bool { return is(err, amqp.PreconditionFailed) }

// Internal says whether the broker reports an error of its own.
func Internal(err error) bool { return is(err, amqp.InternalError) }

// ByBroker says whether err holds an exception of the broker.
func ByBroker(err error) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Server
}

func is(err error, code int) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Code == code
}
