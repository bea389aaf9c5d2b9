package errorqueue

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/field"
)

// Filter chooses messages. Each field that is set must match; the zero value matches all.
type Filter struct {
	// IDs are ids of messages, of their parkings, or of groups. One of them must match.
	IDs []string
	// Type is the wire name of the type, Queue the queue in which the message failed, Kind the
	// kind of the failure.
	Type, Queue, Kind string
	// Before and After are limits for when the message was parked. A message whose time is
	// unknown is in neither.
	Before, After time.Time
	// Headers are headers and their values, as text. Names without the prefix of the standard
	// headers match those with it, too.
	Headers map[string]string
	// Body is text that is in the body, Failure in the text of the failure.
	Body, Failure string
}

// validate refuses what no message can match.
func (f *Filter) validate() error {
	if slices.Contains(f.IDs, "") {
		return errors.New("an id is empty")
	}
	if !f.Before.IsZero() && !f.After.IsZero() && !f.After.Before(f.Before) {
		return errors.New("no time is after After and before Before")
	}
	return nil
}

func (f *Filter) matches(c *Content) bool {
	is := func(want, value string) bool { return want == "" || want == value }
	switch {
	case len(f.IDs) > 0 && !slices.ContainsFunc(f.IDs, c.has):
	case !is(f.Type, c.Group.Type) || !is(f.Queue, c.Group.Queue) || !is(f.Kind, c.Group.Kind):
	case !f.inTime(c.Parked()):
	case f.Body != "" && !bytes.Contains(c.Body, []byte(f.Body)):
	case !strings.Contains(c.Failure, f.Failure):
	default:
		return f.matchesHeaders(c)
	}
	return false
}

// has says whether an id is one of the message.
func (c *Content) has(id string) bool { return id == c.ID() || id == c.MessageID || id == c.Group.ID }

func (f *Filter) inTime(parked time.Time) bool {
	if f.Before.IsZero() && f.After.IsZero() {
		return true
	}
	return !parked.IsZero() && (f.Before.IsZero() || parked.Before(f.Before)) && (f.After.IsZero() || parked.After(f.After))
}

func (f *Filter) matchesHeaders(c *Content) bool {
	for name, want := range f.Headers {
		found := false
		for key, value := range c.Headers {
			if key != name && !strings.HasSuffix(key, "."+name) {
				continue
			}
			text, ok := field.Text(value)
			if !ok {
				text = fmt.Sprint(value)
			}
			found = found || text == want
		}
		if !found {
			return false
		}
	}
	return true
}
