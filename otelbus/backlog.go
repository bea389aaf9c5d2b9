package otelbus

import (
	"strings"

	"github.com/harebus/harebus"
)

// outbox is what is known of one outbox of this process.
type outbox struct{ waiting, oldest, lag, refused *count }

func (m *metrics) newOutbox(name string) outbox {
	of := keyOutbox.String(strings.Clone(name))
	return outbox{m.waiting.with(of), m.oldest.with(of), m.lag.with(of), m.refused.with(of)}
}

// looked notes what a look at an outbox has found; nil is nothing.
func (o *Observer) looked(found *harebus.Backlog) {
	if found == nil {
		return
	}
	of := o.outboxes.get(found.Name)
	of.waiting.Store(int64(found.Waiting))
	of.oldest.Store(int64(found.Oldest))
	of.lag.Store(int64(found.Lag))
	of.refused.Store(int64(found.Refused))
}
