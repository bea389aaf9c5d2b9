package field

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The layouts that are read, after a fraction, which Go accepts behind the
// seconds of any layout. No offset means UTC.
var readLayouts = []string{
	"2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05",
	"01/02/2006 15:04:05",
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

// ParseTime reads a time header of any PikaBus generation, an AMQP timestamp
// included. The zero time is never returned without an error.
func ParseTime(value any) (time.Time, error) {
	switch v := value.(type) {
	case time.Time:
		return checkTime(v.UTC())
	case []byte:
		return timeOfText(string(v))
	case string:
		return timeOfText(v)
	default:
		return time.Time{}, fmt.Errorf("a %T is not a time", value)
	}
}

func timeOfText(text string) (time.Time, error) {
	const longest = 64
	trimmed := strings.TrimSpace(text)
	if len(trimmed) <= longest {
		for _, layout := range readLayouts {
			if t, err := time.Parse(layout, trimmed); err == nil {
				return checkTime(t.UTC())
			}
		}
	}
	return time.Time{}, fmt.Errorf("%.80q is not a time", text)
}

func checkTime(t time.Time) (time.Time, error) {
	if t.Year() < 1 || t.Year() > 9999 || t.IsZero() {
		return time.Time{}, fmt.Errorf("year %d is out of range", t.Year())
	}
	return t, nil
}

// Expiration is how AMQP writes after which time a message expires.
func Expiration(d time.Duration) (string, error) {
	ms := d.Milliseconds()
	if ms < 1 || ms > math.MaxUint32 {
		return "", fmt.Errorf("expiration %v is not between 1ms and %v", d, time.Duration(math.MaxUint32)*time.Millisecond)
	}
	return strconv.FormatInt(ms, 10), nil
}
