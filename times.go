package harebus

import (
	"fmt"
	"time"
)

// TimeFormat is how times are written into headers. Both formats are always
// read.
type TimeFormat int8

const (
	// TimeISO is ISO 8601 in UTC with microseconds, as PikaBus 2.x writes it:
	// 2026-11-21T08:44:41.901107+00:00. It is the default.
	TimeISO TimeFormat = iota
	// TimeLegacy is the format that PikaBus 1.x writes, and the only one that it
	// can read: 11/21/2026 08:46:59, in UTC, to the second.
	TimeLegacy
)

const (
	isoLayout    = "2006-01-02T15:04:05"
	legacyLayout = "01/02/2006 15:04:05"
)

// format drops what the format cannot hold, so that a receiver never sees a
// time that is later than t.
func (f TimeFormat) format(t time.Time) string {
	t = t.UTC()
	if f == TimeLegacy {
		return t.Format(legacyLayout)
	}
	if t.Nanosecond() < 1000 { // Python writes no fraction when there is none
		return t.Format(isoLayout) + "+00:00"
	}
	return t.Format(isoLayout+".000000") + "+00:00"
}

// quote makes any text safe and short for an error or a log.
func quote(text string) string {
	const shown = 80
	if len(text) > shown {
		return fmt.Sprintf("%q…", text[:shown])
	}
	return fmt.Sprintf("%q", text)
}
