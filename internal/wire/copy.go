package wire

import amqp "github.com/rabbitmq/amqp091-go"

// Delivery is a delivery of the client.
type Delivery = amqp.Delivery

// FromDelivery has the properties, headers and body of a delivery, but for the user id:
// the broker lets nobody but that user set it.
func FromDelivery(d *amqp.Delivery) amqp.Publishing {
	return amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode,
		Priority: d.Priority, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration,
		MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId, Body: d.Body,
	}
}

// OfOneDelivery says whether a header belongs to one delivery, so that a copy must not
// carry it: the broker's counts of deliveries, and CC and BCC, which would send the copy
// to further queues.
func OfOneDelivery(header string) bool {
	switch header {
	case "x-delivery-count", "x-acquired-count", "CC", "BCC":
		return true
	default:
		return false
	}
}
