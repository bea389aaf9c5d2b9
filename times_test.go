package harebus_test

import (
	"testing"
	"testing/quick"
	"time"

	"github.com/harebus/harebus"
)

func TestTimeFormat(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 8, 44, 41, 901107999, time.UTC)
	for want, got := range map[string]string{
		"2026-11-21T08:44:41.901107+00:00": harebus.TimeISO.Format(at),
		"2026-11-21T08:44:41+00:00":        harebus.TimeISO.Format(at.Truncate(time.Second)),
		"2026-11-21T08:44:41.000001+00:00": harebus.TimeISO.Format(at.Truncate(time.Second).Add(1999 * time.Nanosecond)),
		"11/21/2026 08:44:41":              harebus.TimeLegacy.Format(at),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	zone := time.FixedZone("", 5*3600+1800)
	if got := harebus.TimeISO.Format(at.In(zone)); got != "2026-11-21T08:44:41.901107+00:00" {
		t.Errorf("a local time is written as %q", got)
	}
	if got := harebus.TimeLegacy.Format(at.In(zone)); got != "11/21/2026 08:44:41" {
		t.Errorf("a local time is written as %q", got)
	}
}

func TestTimeParse(t *testing.T) {
	t.Parallel()
	second := time.Date(2026, 11, 21, 8, 44, 41, 0, time.UTC)
	micros := second.Add(901107 * time.Microsecond)
	for text, want := range map[string]time.Time{
		"2026-11-21T08:44:41.901107+00:00": micros,
		"2026-11-21T08:44:41+00:00":        second,
		"2026-11-21T08:44:41":              second,
		"2026-11-21T08:44:41.901107":       micros,
		"2026-11-21T08:44:41.901107Z":      micros,
		"2026-11-21T08:44:41.901107123Z":   micros.Add(123),
		"2026-11-21T10:44:41.901107+02:00": micros,
		"2026-11-21T10:44:41+0200":         second,
		"2026-11-20T20:44:41-12:00":        second,
		"2026-11-21 08:44:41":              second,
		"2026-11-21 08:44:41.901107+00:00": micros,
		"2026-11-21T08:44Z":                second.Add(-41 * time.Second),
		"2026-11-21T08:44":                 second.Add(-41 * time.Second),
		"20261121T084441":                  second,
		"20261121T084441Z":                 second,
		"2026-11-21":                       second.Truncate(24 * time.Hour),
		"20261121":                         second.Truncate(24 * time.Hour),
		"11/21/2026 08:44:41":              second,
		" 11/21/2026 08:44:41\n":           second,
		"0001-01-01T00:00:01+00:00":        time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC),
		"9999-12-31T23:59:59.999999+00:00": time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC),
	} {
		for _, value := range []any{text, []byte(text)} {
			got, err := harebus.ParseTime(value)
			if err != nil || !got.Equal(want) || got.Location() != time.UTC {
				t.Errorf("%T %q is %v, want %v: %v", value, text, got, want, err)
			}
		}
	}
	if got, err := harebus.ParseTime(second.In(time.FixedZone("", 3600))); err != nil || !got.Equal(second) {
		t.Errorf("a timestamp is %v: %v", got, err)
	}
	for _, bad := range []any{
		nil, 1, int64(1795250681), 1.5, true, "", "x", "1795250681", "0000-01-01", "0001-01-01T00:00:00Z", "10000-01-01", "2026-13-01", "2026-02-30",
		"21/11/2026 08:44:41", "2026-11-21T25:00:00", "2026-11-21T08:44:61", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
		time.Time{}, time.Unix(1<<60, 0), "2026-11-21T08:44:41" + long, []byte{0xff},
	} {
		if got, err := harebus.ParseTime(bad); err == nil || !got.IsZero() {
			t.Errorf("%.40v is %v, %v", bad, got, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("%.40v: an error of %d bytes", bad, len(err.Error()))
		}
	}
}

// TestTimeRoundTrip: a receiver never sees a later time than was meant, and not
// one that is earlier by more than the format's grain.
func TestTimeRoundTrip(t *testing.T) {
	t.Parallel()
	const years = 9000 * 365 * 24 * 3600
	for format, grain := range map[harebus.TimeFormat]time.Duration{harebus.TimeISO: time.Microsecond, harebus.TimeLegacy: time.Second} {
		near := func(seconds int64, nanos uint32, offset int16) bool {
			seconds %= years
			if seconds < 0 {
				seconds = -seconds
			}
			zone := time.FixedZone("", int(offset))
			at := time.Date(2, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(nanos%1e9)).AddDate(0, 0, int(seconds/86400)).Add(time.Duration(seconds%86400) * time.Second).In(zone)
			got, err := harebus.ParseTime(format.Format(at))
			if err != nil {
				t.Log(at, err)
				return false
			}
			return !got.After(at) && at.Sub(got) < grain
		}
		if err := quick.Check(near, &quick.Config{MaxCount: 2000}); err != nil {
			t.Errorf("format %d: %v", format, err)
		}
	}
}
