package main

import (
	"context"
	"fmt"
	"time"

	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/internal/visible"
)

// delays counts deferred messages for top. Some 140 queues are asked, so not for each table.
type delays struct {
	options deferred.Options
	at      time.Time
	said    string
}

// look is a line about deferred messages, or "" if there are none.
func (d *delays) look(ctx context.Context) string {
	const every = 20 * time.Second
	if !d.at.IsZero() && time.Since(d.at) < every {
		return d.said
	}
	counts, err := d.options.Count(ctx)
	d.at, d.said = time.Now(), ""
	switch {
	case err != nil:
		d.said = "deferred -: " + visible.Line(err.Error())
	case counts.Total+counts.Lost > 0:
		d.said = fmt.Sprintf("deferred %d", counts.Total)
	}
	if counts.Lost > 0 {
		d.said += fmt.Sprintf(", %d lost (harebus deferred restore -lost)", counts.Lost)
	}
	return d.said
}
