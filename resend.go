package harebus

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// maxErrorDetails bounds the text of a failure that travels with a message.
const maxErrorDetails = 8 << 10

// copyOf makes a copy of the message as it came, to be published again: body,
// foreign headers and properties unchanged. Left out are the expiration, which
// would fire inside a delay, the user id, which is the original sender's, and
// the headers that belong to the broker.
func (r *receipt) copyOf(op Operation, queue string) *outgoing {
	in, names := r.delivery, &r.setup.dialect.names
	headers := make(amqp.Table, len(in.Headers)+6)
	maps.Copy(headers, in.Headers)
	maps.DeleteFunc(headers, func(key string, _ any) bool { return brokerHeader(key) })
	id := in.MessageId
	if id == "" {
		id = r.message.ID
	}
	if _, ok := headers[names.messageID]; !ok {
		headers[names.messageID] = r.message.ID
	}
	return &outgoing{
		op: op, exchange: r.setup.cfg.DirectExchange, key: queue, mandatory: true, viaDefault: true,
		msg: amqp.Publishing{
			Headers:         headers,
			ContentType:     in.ContentType,
			ContentEncoding: in.ContentEncoding,
			DeliveryMode:    amqp.Persistent,
			Priority:        in.Priority,
			CorrelationId:   in.CorrelationId,
			ReplyTo:         in.ReplyTo,
			MessageId:       id,
			Timestamp:       in.Timestamp,
			Type:            in.Type,
			AppId:           in.AppId,
			Body:            in.Body,
		},
	}
}

// copyFor makes the copy of a message that has failed, which says how often,
// where and why.
func (r *receipt) copyFor(op Operation, queue string, cause error) *outgoing {
	out := r.copyOf(op, queue)
	names, headers := &r.setup.dialect.names, out.msg.Headers
	headers[names.errorRetries] = field.SmallestInt(r.failures + 1)
	headers[names.errorDetails] = errorDetails(cause)
	if r.message.SourceQueue == "" {
		headers[names.sourceQueue] = r.setup.cfg.Queue
	}
	r.setup.dialect.fit(headers)
	return out
}

// errorDetails is the text of a failure as valid UTF-8 of bounded length.
func errorDetails(cause error) string {
	text := strings.ToValidUTF8(cause.Error(), "\uFFFD")
	if len(text) <= maxErrorDetails {
		return text
	}
	const mark = " … (cut)"
	cut := maxErrorDetails - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}

// fit makes sure that the headers fit into a frame: a message that cannot be
// parked would fail for ever. What does not fit is left out, the largest
// custom header first, and named in the error details.
func (d *dialect) fit(headers amqp.Table) {
	var dropped []string
	for size := field.Size(headers); size > maxHeaderBytes; size = field.Size(headers) {
		largest := ""
		for key := range headers {
			if strings.HasPrefix(key, d.prefix) {
				continue
			}
			if largest == "" || sizeOf(headers, key) > sizeOf(headers, largest) {
				largest = key
			}
		}
		if largest == "" {
			d.shorten(headers)
			break
		}
		dropped = append(dropped, quote(largest))
		delete(headers, largest)
	}
	if len(dropped) > 0 {
		details, _ := headers[d.names.errorDetails].(string)
		slices.Sort(dropped)
		headers[d.names.errorDetails] = errorDetails(fmt.Errorf("headers left out because they do not fit: %s\n%s",
			strings.Join(dropped[:min(len(dropped), 20)], ", "), details))
	}
}

// shorten drops standard headers that are absurdly long; none of them is needed
// to understand the message.
func (d *dialect) shorten(headers amqp.Table) {
	for key := range headers {
		if sizeOf(headers, key) > maxErrorDetails+maxShortString {
			delete(headers, key)
		}
	}
}

func sizeOf(headers amqp.Table, key string) int {
	return field.Size(amqp.Table{key: headers[key]})
}
