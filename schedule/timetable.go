package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	cron "github.com/netresearch/go-cron"
)

// timetable says when a schedule is due.
type timetable interface {
	// next is the first due time after a time; zero if there is none.
	next(after time.Time) time.Time
}

// every is a fixed interval, counted from the due time before.
type every time.Duration

func (e every) next(after time.Time) time.Time { return after.Add(time.Duration(e)) }

// calendar is an expression of five or six fields in a time zone.
//
// The parser computes on a clock that never changes. calendar maps that to the clock of the
// zone, one stretch between two changes after the other, because the parser's own handling of
// changes loses due times in zones that change by half an hour or at midnight, fires those of a
// repeated hour twice, and never returns for a date that a zone has left out.
type calendar struct {
	spec cron.Schedule
	zone *time.Location
	// elapsed says that the hour is a wildcard: the schedule follows the time that passes, so it
	// is due in both of two repeated hours and not at all in a skipped one.
	elapsed bool
}

func (c *calendar) next(after time.Time) time.Time {
	inside := after.In(c.zone) // some time of the stretch
	from := wall(inside)
	for {
		shown := c.spec.Next(from)
		if shown.IsZero() {
			return time.Time{}
		}
		due := shown.Add(-offset(inside)).In(c.zone)
		_, end := inside.ZoneBounds()
		switch {
		case end.IsZero() || due.Before(end):
			if c.elapsed || !repeated(due) {
				return due
			}
			from = shown
		case !c.elapsed && shown.Before(wall(end)): // the clock skips this time
			return end
		default:
			inside, from = end, wall(end).Add(-time.Nanosecond)
		}
	}
}

// wall is what the clock of the zone shows, as a time that knows no changes.
func wall(t time.Time) time.Time { return t.UTC().Add(offset(t)) }

func offset(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

// repeated says whether the clock has shown this time before, because it was set back.
func repeated(t time.Time) bool {
	start, _ := t.ZoneBounds()
	if start.IsZero() {
		return false
	}
	back := offset(start.Add(-time.Nanosecond)) - offset(t)
	return t.Before(start.Add(back))
}

// names are the expressions that have one.
var names = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

const everyPrefix = "@every "

// parser follows cron(8): if both the day of the month and the day of the week are restricted,
// one of them is enough. 29 February does not come for eight years around 2100.
var parser = cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom).
	WithMaxSearchYears(12)

// parse reads an expression.
func parse(expression string, zone *time.Location) (timetable, error) {
	expression = strings.TrimSpace(expression)
	if interval, ok := strings.CutPrefix(expression, everyPrefix); ok {
		return parseEvery(interval)
	}
	if strings.HasPrefix(expression, "@") {
		fields, ok := names[expression]
		if !ok {
			return nil, fmt.Errorf("%.40q is unknown; use @yearly, @monthly, @weekly, @daily, @hourly, or @every and a duration", expression)
		}
		expression = fields
	}
	if strings.Contains(expression, "TZ=") {
		return nil, errors.New("it names a time zone; pass In(location) instead")
	}
	fields := strings.Fields(expression)
	if n := len(fields); n != 5 && n != 6 {
		return nil, fmt.Errorf("it has %d fields; write minute, hour, day of month, month, day of week, with seconds in front if you need them", n)
	}
	spec, err := parser.Parse("TZ=UTC " + expression)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", faulty(fields), err)
	}
	c := &calendar{spec, zone, strings.HasPrefix(fields[len(fields)-4], "*")}
	if c.next(time.Now()).IsZero() {
		return nil, errors.New("it never comes due: no month has such a day")
	}
	return c, nil
}

func parseEvery(interval string) (timetable, error) {
	d, err := time.ParseDuration(strings.TrimSpace(interval))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the interval: %w", err)
	case d < time.Second:
		return nil, fmt.Errorf("the interval %v is less than a second", d)
	}
	return every(d), nil
}

// faulty names the first field that the parser refuses.
func faulty(fields []string) string {
	titles := []string{"second", "minute", "hour", "day of month", "month", "day of week"}
	titles = titles[6-len(fields):]
	for i, field := range fields {
		alone := []string{"*", "*", "*", "*", "*", "*"}[6-len(fields):]
		alone[i] = field
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			return fmt.Sprintf("the field %s, %.40q", titles[i], field)
		}
	}
	return "the fields"
}
