// Package parked reads messages that lie in a queue as a guard needs them, for programs that
// are not the service which they were sent to.
package parked

import (
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
)

// Read returns what a message says of itself and what it carries, as [harebus.Guard.Admit] of a
// service gets them that consumes from queue. prefix starts the names of the standard headers.
func Read(prefix string, in *amqp.Delivery, queue string) (*harebus.Identity, *harebus.Payload) {
	d := &header.Dialect{Prefix: prefix, Names: header.NamesOf(prefix)}
	h, _ := d.Read(in) // a fault leaves the field empty, as it does for the sender and for a service
	signature, _ := field.Text(in.Headers[d.Names.Signature])
	id := &harebus.Identity{
		ID: h.ID, CorrelationID: h.CorrelationID, Type: h.Type, Intent: harebus.Intent(h.Intent),
		ReplyTo: h.ReplyTo, OriginatingAddress: h.OriginatingAddress, AppID: in.AppId,
		TimeSent: h.TimeSent, Hops: h.Hops, Headers: in.Headers, Queue: queue,
	}
	return id, &harebus.Payload{ContentType: h.ContentType, ContentEncoding: h.ContentEncoding, Body: in.Body, Signature: signature}
}
