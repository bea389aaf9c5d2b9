package redrive

import (
	"maps"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// cleaned is a parked message as it was before it failed: what the bus and the
// broker wrote about the failure is gone, and so are CC and BCC, which would
// have this program write to any queue a stranger names. Everything else is as
// it came.
func cleaned(d *amqp.Delivery, prefix, login string) amqp.Publishing {
	failure := []string{
		prefix + harebus.HeaderErrorRetries, prefix + harebus.HeaderErrorDetails,
		prefix + harebus.HeaderSourceQueue, prefix + harebus.HeaderDeferredTime, prefix + harebus.HeaderFirstFailed,
	}
	p := renewed(d, login)
	for _, name := range failure {
		delete(p.Headers, name)
	}
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool {
		return key == "x-death" || strings.HasPrefix(key, "x-first-death-") || strings.HasPrefix(key, "x-last-death-")
	})
	return p
}

// renewed is a message to be published again as it is. The expiration is left out:
// what somebody moves must not vanish for being late. So is a user id that is not the
// login's: the broker refuses it.
func renewed(d *amqp.Delivery, login string) amqp.Publishing {
	headers := maps.Clone(d.Headers)
	maps.DeleteFunc(headers, func(key string, _ any) bool {
		return key == "x-delivery-count" || key == "CC" || key == "BCC"
	})
	p := amqp.Publishing{
		Headers:         headers,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp.Persistent, // what is moved must not be lost on the way
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		AppId:           d.AppId,
		Body:            d.Body,
	}
	if d.UserId == login {
		p.UserId = login
	}
	return p
}
