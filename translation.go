package harebus

import (
	"context"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/guard"
)

// ReceiveFunc is called with a message before its handler is chosen. It is for
// messages of other buses, which describe type and id in their own way. It may set
// Type, ID, CorrelationID, ReplyTo, Intent, TimeSent, ContentType, ContentEncoding
// and Body; to change the body it sets a new slice. Retries and parked copies are
// made from the message as it came, so it is called again for each attempt and
// should set the same ID each time.
//
// Its error is treated as that of a handler: after nil the message is handled;
// after an error it is retried by Config.Retry; return [NoRetry] for a message that
// it cannot understand. It is called from many goroutines.
type ReceiveFunc func(ctx context.Context, m *Message) error

// translate calls Config.Handling.Receive and checks what it has set.
func (d *delivery) translate() error {
	receive, m := d.endpoint.cfg.Handling.Receive, d.message
	if receive == nil {
		return nil
	}
	err := guard.Call(func() error { return receive(d.Context(), m) })
	translated := m.ID
	d.came.translate(m)
	if err != nil {
		return failed(d.Context(), err)
	}
	for _, short := range []struct{ name, value string }{
		{"ID", translated}, {"Type", m.Type}, {"CorrelationID", m.CorrelationID}, {"ReplyTo", m.ReplyTo},
		{"ContentType", m.ContentType}, {"ContentEncoding", m.ContentEncoding},
	} {
		if len(short.value) > maxShortString || !utf8.ValidString(short.value) {
			return reject("bad-header", "Config.Handling.Receive set %s to %s, longer than %d bytes or not valid UTF-8",
				short.name, quote(short.value), maxShortString)
		}
	}
	if limit := d.endpoint.setup.cfg.Payload.MaxBody; len(m.Body) > limit {
		return reject("too-large", "Config.Handling.Receive set a body of %d bytes, more than %d", len(m.Body), limit)
	}
	return nil
}
