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
func cleaned(d *amqp.Delivery, prefix string) amqp.Publishing {
	failure := []string{
		prefix + harebus.HeaderErrorRetries, prefix + harebus.HeaderErrorDetails,
		prefix + harebus.HeaderSourceQueue, prefix + harebus.HeaderDeferredTime, prefix + harebus.HeaderFirstFailed,
	}
	p := renewed(d)
	for _, name := range failure {
		delete(p.Headers, name)
	}
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool {
		return key == "x-death" || strings.HasPrefix(key, "x-first-death-") || strings.HasPrefix(key, "x-last-death-")
	})
	return p
}

// renewed is a message to be published again as it is.
func renewed(d *amqp.Delivery) amqp.Publishing {
	headers := maps.Clone(d.Headers)
	maps.DeleteFunc(headers, func(key string, _ any) bool {
		return key == "x-delivery-count" || key == "CC" || key == "BCC"
	})
	return amqp.Publishing{
		Headers:         headers,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp.Persistent, // what is moved must not be lost on the way
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		Expiration:      d.Expiration,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		UserId:          d.UserId,
		AppId:           d.AppId,
		Body:            d.Body,
	}
}
