package schedule

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// due returns the next n due times after from, in the zone.
func due(t *testing.T, expression, zone, from string, n int) []string {
	t.Helper()
	location, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	table, err := parse(expression, location)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation("2006-01-02 15:04", from, location)
	if err != nil {
		t.Fatal(err)
	}
	var times []string
	for range n {
		at = table.next(at)
		times = append(times, at.In(location).Format("01-02 15:04 -0700"))
	}
	return times
}

// TestDaylightSaving: a time that the clock skips is due at once after the gap, and one that it
// shows twice is due the first time only, as in cron(8), whatever the size and the hour of the
// change. A wildcard in the hour follows the time that passes.
func TestDaylightSaving(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		expression, zone, from string
		want                   string
	}{
		"skipped":                    {"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "03-29 03:00 +0200, 03-30 02:30 +0200"},
		"repeated":                   {"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", "10-25 02:30 +0200, 10-26 02:30 +0100"},
		"several skipped":            {"*/20 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "03-29 03:00 +0200, 03-30 02:00 +0200"},
		"every hour, skipped":        {"30 * * * *", "Europe/Berlin", "2026-03-29 00:45", "03-29 01:30 +0100, 03-29 03:30 +0200"},
		"every hour, repeated":       {"30 * * * *", "Europe/Berlin", "2026-10-25 01:45", "10-25 02:30 +0200, 10-25 02:30 +0100, 10-25 03:30 +0100"},
		"every minute, repeated":     {"*/30 * * * *", "Europe/Berlin", "2026-10-25 01:45", "10-25 02:00 +0200, 10-25 02:30 +0200, 10-25 02:00 +0100, 10-25 02:30 +0100"},
		"weekly, day of 23 hours":    {"0 12 * * 0", "Europe/Berlin", "2026-03-22 12:00", "03-29 12:00 +0200, 04-05 12:00 +0200"},
		"half an hour skipped":       {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00", "10-04 02:30 +1100, 10-05 02:15 +1100"},
		"half an hour repeated":      {"45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00", "04-05 01:45 +1100, 04-06 01:45 +1030"},
		"half an hour, every minute": {"*/30 * * * *", "Australia/Lord_Howe", "2026-04-05 01:10", "04-05 01:30 +1100, 04-05 01:30 +1030, 04-05 02:00 +1030"},
		"half-hour zone, skipped":    {"30 2 * * *", "Australia/Adelaide", "2026-10-03 12:00", "10-04 03:00 +1030, 10-05 02:30 +1030"},
		"half-hour zone, repeated":   {"30 2 * * *", "Australia/Adelaide", "2026-04-04 12:00", "04-05 02:30 +1030, 04-06 02:30 +0930"},
		"south, skipped":             {"30 2 * * *", "Australia/Sydney", "2026-10-03 12:00", "10-04 03:00 +1100, 10-05 02:30 +1100"},
		"south, repeated":            {"30 2 * * *", "Australia/Sydney", "2026-04-04 12:00", "04-05 02:30 +1100, 04-06 02:30 +1000"},
		"no change":                  {"30 2 * * *", "Asia/Kolkata", "2026-03-28 12:00", "03-29 02:30 +0530, 03-30 02:30 +0530"},
		"last second of a year":      {"59 59 23 31 12 *", "UTC", "2026-12-31 23:58", "12-31 23:59 +0000, 12-31 23:59 +0000"},
		"over midnight":              {"0 22-1 * * *", "UTC", "2026-01-31 12:00", "01-31 22:00 +0000, 01-31 23:00 +0000, 02-01 00:00 +0000, 02-01 01:00 +0000, 02-01 22:00 +0000"},
		"the 31st":                   {"0 0 31 * *", "UTC", "2026-01-31 00:00", "03-31 00:00 +0000, 05-31 00:00 +0000"},
		"no midnight":                {"0 0 * * *", "America/Santiago", "2026-09-05 12:00", "09-06 01:00 -0300, 09-07 00:00 -0300"},
		"no midnight, weekly":        {"30 0 * * 0", "America/Santiago", "2026-09-05 12:00", "09-06 01:00 -0300, 09-13 00:30 -0300"},
		"no such date":               {"0 12 30 12 *", "Pacific/Apia", "2011-12-29 12:00", "12-31 00:00 +1400, 12-30 12:00 +1400"},
		"leap day":                   {"0 0 29 2 *", "UTC", "2026-01-01 00:00", "02-29 00:00 +0000, 02-29 00:00 +0000"},
		"year's end":                 {"59 23 31 12 *", "UTC", "2026-12-31 23:58", "12-31 23:59 +0000, 12-31 23:59 +0000"},
		"year's beginning":           {"@yearly", "UTC", "2026-12-31 23:58", "01-01 00:00 +0000"},
		"one of two days":            {"0 0 13 * 5", "UTC", "2026-02-10 00:00", "02-13 00:00 +0000, 02-20 00:00 +0000"},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.Split(c.want, ", ")
			if got := due(t, c.expression, c.zone, c.from, len(want)); !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

// TestEveryDueTimeIsInTheZone: over three years of zones that change in every known way, each due
// time is after the one before, and no day but one that the zone leaves out is without one.
func TestEveryDueTimeIsInTheZone(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns", "UTC"} {
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for _, expression := range []string{"0 0 * * *", "30 0 * * *", "0 1 * * *", "15 2 * * *", "30 2 * * *", "0 3 * * *", "59 23 * * *"} {
			table, err := parse(expression, location)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Date(2025, 1, 1, 23, 59, 30, 0, location)
			for day := range 3 * 365 {
				next := table.next(at)
				if want := time.Date(2025, 1, 2+day, 12, 0, 0, 0, location); !next.After(at) || next.Format(time.DateOnly) != want.Format(time.DateOnly) {
					t.Fatalf("%s in %s: after %v comes %v, want one on %v", expression, zone, at, next, want.Format(time.DateOnly))
				}
				at = next
			}
		}
	}
}

// TestFaultyExpressions: what cannot be is refused, and the field is named.
func TestFaultyExpressions(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		"":                                       "it has 0 fields",
		"* * * *":                                "it has 4 fields",
		"61 * * * *":                             "the field minute, \"61\"",
		"* 24 * * *":                             "the field hour, \"24\"",
		"* * 0 * *":                              "the field day of month, \"0\"",
		"* * * 13 *":                             "the field month, \"13\"",
		"* * * * XYZ":                            "the field day of week, \"XYZ\"",
		"99 * * * * *":                           "the field second, \"99\"",
		"0 0 30 2 *":                             "it never comes due",
		"0 0 31 2 *":                             "it never comes due",
		"0 0 31 4,6,9,11 *":                      "it never comes due",
		"60 59 23 30 6 *":                        "the field second, \"60\"", // a leap second
		"60 * * * *":                             "the field minute, \"60\"",
		"* * 32 * *":                             "the field day of month, \"32\"",
		"*/0 * * * *":                            "the field minute, \"*/0\"",
		"-1 * * * *":                             "the field minute, \"-1\"",
		"1.5 * * * *":                            "the field minute, \"1.5\"",
		"* * * * * * *":                          "it has 7 fields",
		"@daily 3":                               "is unknown",
		"@every":                                 "is unknown",
		"@every 2562048h":                        "the interval",
		"@fortnightly":                           "is unknown",
		"@every 500ms":                           "less than a second",
		"@every soon":                            "the interval",
		"@every -1h":                             "less than a second",
		"TZ=Nowhere 0 * * * *":                   "pass In(location)",
		"CRON_TZ=Nowhere 0 * * * *":              "pass In(location)",
		strings.Repeat("1,", 5000) + "1 * * * *": "the field minute",
	} {
		if _, err := parse(expression, time.UTC); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v, want %q", expression, err, want)
		}
	}
}
