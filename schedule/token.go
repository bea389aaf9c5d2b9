package schedule

import (
	"time"
)

// The types of the messages in the schedules queue.
const (
	typeToken   = "harebus.schedule.token"
	typeMark    = "harebus.schedule.mark"
	typeDone    = "harebus.schedule.done"
	typeRequest = "harebus.schedule.request"
	typeAnswer  = "harebus.schedule.answer"
)

// token is the message that stands for a schedule. Its watermark alone decides what is due.
type token struct {
	Name string `json:"name"`
	// Last is the watermark: the latest due time that was fired or left out. Of a Fresh token it
	// is when the token was made.
	Last  time.Time `json:"last"`
	Fresh bool      `json:"fresh,omitempty"`
	// Revision counts the changes of a token with the same watermark.
	Revision int `json:"revision,omitempty"`
	// Missed is how many due times were left out since the latest that was fired, Fired.
	Missed int        `json:"missed,omitempty"`
	Fired  *time.Time `json:"fired,omitempty"`
	// Running is the due time of a run that has not ended, if runs must not overlap.
	Running *time.Time `json:"running,omitempty"`
	Paused  bool       `json:"paused,omitempty"`
	// Orphan is since when no leader has had a definition of the schedule.
	Orphan *time.Time `json:"orphan,omitempty"`

	// What follows is for people and for the tools in internal/scheduled: the definition, the next due time when it was
	// written, and when that is fired, if later.
	Expression string     `json:"cron,omitempty"`
	Zone       string     `json:"zone,omitempty"`
	Next       *time.Time `json:"next,omitempty"`
	Fires      *time.Time `json:"fires,omitempty"`
}

// beats says which of two tokens of one name counts: the one with the later watermark. One that
// was made because none was found never beats another.
func (t *token) beats(other *token) bool {
	switch {
	case t.Fresh != other.Fresh:
		return other.Fresh
	case !t.Last.Equal(other.Last):
		return t.Last.After(other.Last) != t.Fresh // of two fresh ones the older
	default:
		return t.Revision > other.Revision
	}
}

// mark is a message that an instance sends to itself. When a mark that it sent as the active
// consumer comes back, every token that was in the queue before is in its hands.
type mark struct {
	Instance string `json:"instance"`
	Service  string `json:"service"` // its queue
	Number   int    `json:"number"`
	Probe    bool   `json:"probe,omitempty"`
}

// done says that a run has ended.
type done struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// dueMessage is what the service gets for a due time.
type dueMessage struct {
	Schedule string     `json:"schedule"`
	At       time.Time  `json:"at"`
	Previous *time.Time `json:"previous,omitempty"`
	Missed   int        `json:"missed,omitempty"`
	Manual   bool       `json:"manual,omitempty"`
}

// dueType is the wire name of the due messages of a schedule.
func dueType(name string) string { return "harebus.schedule.due:" + name }
