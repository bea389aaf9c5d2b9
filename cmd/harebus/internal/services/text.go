package services

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/pulse"
)

// MoreConsumers says which queues have consumers that have not answered.
func (s *State) MoreConsumers() (notes []string) {
	for _, name := range slices.Sorted(maps.Keys(s.Consumers)) {
		if more := s.Waiting[name].Consumers - s.Consumers[name]; more > 0 {
			notes = append(notes, fmt.Sprintf("? %s has %d consumers more than the instances that have answered", visible.Word(name), more))
		}
	}
	return notes
}

// Untold says of which queues of instances the broker does not tell.
func (s *State) Untold() (notes []string) {
	for _, name := range slices.Sorted(maps.Keys(s.Consumers)) {
		if why := s.Waiting[name].Unknown; why != "" {
			notes = append(notes, fmt.Sprintf("? %s: %s", visible.Word(name), visible.Line(why)))
		}
	}
	return notes
}

// Unanswered says what is known of queues of which no instance has answered.
func (s *State) Unanswered() (notes []string) {
	for _, name := range slices.Sorted(slices.Values(s.Silent)) {
		notes = append(notes, fmt.Sprintf("? %s: no answer; %s", visible.Word(name), waits(s.Waiting[name])))
	}
	return notes
}

// waits says what is known of a queue without an instance that answers.
func waits(w pulse.Waiting) string {
	switch {
	case w.Unknown != "":
		return visible.Line(w.Unknown)
	case !w.Exists:
		return "there is no such queue"
	}
	return fmt.Sprintf("%d messages are ready, and it has %d consumers", w.Ready, w.Consumers)
}

// tolerance is how far a clock may be wrong without a remark.
const tolerance = 2 * time.Second

// Blocked says that the broker takes no messages, if it has said so; otherwise it is nil.
func (s *State) Blocked() error {
	if s.Round.Blocked == "" {
		return nil
	}
	return fmt.Errorf("the broker takes no messages now: %s", visible.Line(s.Round.Blocked))
}

// Remarks says what is unusual about instances, and the broker.
func (s *State) Remarks() (notes []string) {
	note := func(format string, args ...any) { notes = append(notes, "▲ "+fmt.Sprintf(format, args...)) }
	if s.Round.Blocked != "" {
		note("%s", s.Blocked())
	}
	for i := range s.Round.Answers {
		a := &s.Round.Answers[i]
		name := visible.Word(a.Instance)
		if a.NotReady != "" {
			note("%s is not ready: %s", name, visible.Line(a.NotReady))
		}
		if a.Ahead.Abs() > tolerance {
			note("%s: its clock is %s %s that of this machine", name, Short(a.Ahead.Abs()), map[bool]string{true: "ahead of", false: "behind"}[a.Ahead > 0])
		}
		if !a.LogUntil.IsZero() {
			note("%s: its log is written at level %s until %s", name, visible.Word(a.LogLevel), a.LogUntil.UTC().Format("15:04:05Z"))
		}
		if a.Cut {
			note("%s has too many types or queues to name all", name)
		}
	}
	return notes
}

// Missed says who has not answered any more.
func (w *Watch) Missed() (notes []string) {
	for _, name := range slices.Sorted(maps.Keys(w.Gone)) {
		notes = append(notes, fmt.Sprintf("? %s has not answered since %s", visible.Word(name), w.Gone[name].Format(time.TimeOnly)))
	}
	return notes
}

// Condition is whether an instance consumes from a queue.
func Condition(a *pulse.Answer, q *pulse.Queue) string {
	switch {
	case q.Paused:
		return "paused"
	case a.NotReady != "":
		return "not ready"
	}
	return "consumes"
}

// Limits are how many messages are handled at once, and a second.
func Limits(q *pulse.Queue) string {
	text := strconv.Itoa(q.Concurrency)
	if q.Consumers > 1 {
		text = fmt.Sprintf("%d×%d", q.Consumers, q.Concurrency)
	}
	if q.Rate > 0 {
		text += fmt.Sprintf(", %.4g/s", q.Rate)
	}
	return text
}

// Quantiles are the bounds of half and of 99 of 100.
func Quantiles(h harebus.Histogram) string {
	if h.Count() == 0 {
		return "-"
	}
	return Short(h.Quantile(0.5)) + "/" + Short(h.Quantile(0.99)) //nolint:mnd // as the help of status says
}

// Short is a duration in few characters.
func Short(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d == math.MaxInt64:
		return ">24h"
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Minute:
		d = d.Round(time.Second)
	case d >= time.Second:
		d = d.Round(100 * time.Millisecond) //nolint:mnd // one digit
	case d >= time.Millisecond:
		d = d.Round(100 * time.Microsecond) //nolint:mnd // one digit
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
