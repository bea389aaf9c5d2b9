package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/visible"
)

// schedules asks the leaders of recurring schedules. It connects when it first asks.
type schedules struct {
	broker access.Broker
	std    stdio
	link   *session.Link
	setup  *harebus.Setup
}

// close ends the connections. Every answer is known by then.
func (s *schedules) close() {
	if s.setup != nil {
		_ = s.setup.Close()
	}
	if s.link != nil {
		s.link.Close()
	}
}

func (s *schedules) open() (err error) {
	if s.link == nil {
		if s.link, err = s.broker.Link("schedules"); err != nil {
			return err
		}
	}
	if s.setup == nil {
		s.setup, err = sender(s.broker, s.std)
	}
	return err
}

// ask asks about the schedules whose tokens are in a queue of an instance that has answered.
func (s *schedules) ask(ctx context.Context, queue string, patience time.Duration) (scheduled.Summary, error) {
	if err := s.open(); err != nil {
		return scheduled.Summary{}, err
	}
	asking, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no answer"))
	defer cancel()
	client := scheduled.Client{Link: s.link, Bus: s.setup.Bus(), Queue: queue}
	state, err := client.Look(asking)
	if err != nil {
		if asking.Err() != nil {
			err = context.Cause(asking)
		}
		return scheduled.Summary{}, err
	}
	return state.Summary(time.Now()), nil
}

// schedules adds what leaders say to the lines of their queues.
func (t *top) schedules(ctx context.Context, v *view) {
	for i := range v.lines {
		l := &v.lines[i]
		if !strings.HasSuffix(l.Queue, scheduled.Suffix) {
			continue
		}
		sum, err := t.leaders.ask(ctx, l.Queue, t.wait)
		if err != nil {
			l.ScheduleError = err.Error()
			continue
		}
		l.Schedules = &sum
	}
}

// noteSchedules prints what leaders have said.
func noteSchedules(text io.Writer, lines []line) {
	for i := range lines {
		l := &lines[i]
		switch {
		case l.ScheduleError != "":
			fmt.Fprintf(text, "? %s: its schedules are not known: %s\n", visible.Word(l.Queue), visible.Line(l.ScheduleError))
		case l.Schedules != nil:
			fmt.Fprintf(text, "%s %s\n", visible.Word(l.Queue), describeSchedules(*l.Schedules, time.Now()))
		}
	}
}

func describeSchedules(s scheduled.Summary, now time.Time) string {
	text := fmt.Sprintf("%d schedules", s.Schedules)
	if s.Paused > 0 {
		text += fmt.Sprintf(", %d paused", s.Paused)
	}
	if s.At != nil {
		text += fmt.Sprintf(", next %s in %v", visible.Word(s.Next), max(s.At.Sub(now), 0).Round(time.Second))
	}
	if s.Leader == "" {
		text += "; nobody leads"
	}
	if len(s.Overdue) > 0 {
		const most = 5
		var names []string
		for _, name := range s.Overdue[:min(len(s.Overdue), most)] {
			names = append(names, visible.Word(name))
		}
		text += fmt.Sprintf("; %d overdue: %s", len(s.Overdue), strings.Join(names, " "))
	}
	return text
}
