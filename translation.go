package harebus

import (
	"context"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/guard"
)

// ReceiveFunc sees a message before its handler is chosen, for messages of other
// buses, which say in their own way what they are. It may set Type, ID,
// CorrelationID, ReplyTo, Intent, TimeSent, ContentType, ContentEncoding and Body;
// to change the body it sets a new slice. A retry, and the error queue, get the
// message as it came, so it is called again for each attempt and should set the same
// ID each time.
//
// The error it returns is an instruction as that of a handler: nil goes on, an
// error is retried by Config.Retry, and [NoRetry] is for what is not understood. It
// is called from many goroutines.
type ReceiveFunc func(ctx context.Context, m *Message) error

// translate calls Config.Receive and checks what it has set.
func (r *receipt) translate() error {
	receive, m := r.setup.cfg.Receive, r.message
	if receive == nil {
		return nil
	}
	id := m.ID
	if err := guard.Call(func() error { return receive(r.consumer.hard, m) }); err != nil {
		return failed(r.consumer.hard, err)
	}
	translated := m.ID
	if m.ID == "" || len(m.ID) > maxShortString || !utf8.ValidString(m.ID) {
		m.ID = id // the copies need one
	}
	for _, short := range []struct{ name, value string }{
		{"ID", translated}, {"Type", m.Type}, {"CorrelationID", m.CorrelationID}, {"ReplyTo", m.ReplyTo},
		{"ContentType", m.ContentType}, {"ContentEncoding", m.ContentEncoding},
	} {
		if len(short.value) > maxShortString || !utf8.ValidString(short.value) {
			return reject("bad-header", "Config.Receive set %s to %s, longer than %d bytes or not valid UTF-8",
				short.name, quote(short.value), maxShortString)
		}
	}
	if limit := r.setup.cfg.MaxBody; len(m.Body) > limit {
		return reject("too-large", "Config.Receive set a body of %d bytes, more than %d", len(m.Body), limit)
	}
	return nil
}
