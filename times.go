package harebus

import (
	"fmt"
	"strings"
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

// The layouts that are read, after a fraction, which Go accepts behind the
// seconds of any layout. No offset means UTC.
var readLayouts = []string{
	"2006-01-02T15:04:05Z07:00",
	isoLayout,
	legacyLayout,
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02 15:04:05",
	"2006-01-02T15:04:05-0700",
	"2006-01-02T15:04Z07:00",
	"2006-01-02T15:04",
	"20060102T150405Z0700",
	"20060102T150405",
	"2006-01-02",
	"20060102",
}

// parseTime reads a time header of any PikaBus generation, an AMQP timestamp
// included. The zero time is never returned without an error.
func parseTime(value any) (time.Time, error) {
	switch v := value.(type) {
	case time.Time:
		return checkTime(v.UTC())
	case []byte:
		return parseTimeText(string(v))
	case string:
		return parseTimeText(v)
	default:
		return time.Time{}, fmt.Errorf("a %T is not a time", value)
	}
}

func parseTimeText(text string) (time.Time, error) {
	const longest = 64
	trimmed := strings.TrimSpace(text)
	if len(trimmed) <= longest {
		for _, layout := range readLayouts {
			if t, err := time.Parse(layout, trimmed); err == nil {
				return checkTime(t.UTC())
			}
		}
	}
	return time.Time{}, fmt.Errorf("%s is not a time", quote(text))
}

func checkTime(t time.Time) (time.Time, error) {
	if t.Year() < 1 || t.Year() > 9999 || t.IsZero() {
		return time.Time{}, fmt.Errorf("year %d is out of range", t.Year())
	}
	return t, nil
}

// quote makes any text safe and short for an error or a log.
func quote(text string) string {
	const shown = 80
	if len(text) > shown {
		return fmt.Sprintf("%q…", text[:shown])
	}
	return fmt.Sprintf("%q", text)
}
