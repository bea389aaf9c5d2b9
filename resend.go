package harebus

import (
	"cmp"
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
// parked would fail for ever. What does not fit is left out, custom headers
// before standard ones and the largest first, and named in the error details.
func (d *dialect) fit(headers amqp.Table) {
	const room = 1 << 10 // for the names of what is left out
	excess := field.Size(headers) + room - maxHeaderBytes
	if excess <= room {
		return
	}
	var dropped []string
	for _, key := range d.expendable(headers) {
		if excess <= 0 {
			break
		}
		excess -= field.EntrySize(key, headers[key])
		delete(headers, key)
		dropped = append(dropped, quote(key))
	}
	names := strings.Join(dropped, ", ")
	if len(names) > room/2 {
		names = strings.ToValidUTF8(names[:room/2], "") + "…"
	}
	details, _ := headers[d.names.errorDetails].(string)
	headers[d.names.errorDetails] = fmt.Sprintf("(%d headers left out because they do not fit: %s)\n%s", len(dropped), names, details)
}

// expendable lists the headers that a failed message can do without, in the
// order in which it should.
func (d *dialect) expendable(headers amqp.Table) []string {
	needed := []string{d.names.messageID, d.names.errorRetries, d.names.errorDetails, d.names.sourceQueue, d.names.deferredTime}
	keys := make([]string, 0, len(headers))
	for key, value := range headers {
		if slices.Contains(needed, key) && field.EntrySize(key, value) <= maxErrorDetails+maxShortString {
			continue
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if custom := strings.HasPrefix(a, d.prefix); custom != strings.HasPrefix(b, d.prefix) {
			if custom {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(field.EntrySize(b, headers[b]), field.EntrySize(a, headers[a])), cmp.Compare(a, b))
	})
	return keys
}
