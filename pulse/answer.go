package pulse

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus"
)

// Answer is what an instance of a service says about itself.
type Answer struct {
	// Instance names the process: its host, its process id and random digits.
	Instance string `json:"instance"`
	// Service, Version and Config are those of the [Config] and a digest of the harebus.Config:
	// instances with the same settings have the same digest.
	Service string `json:"service"`
	Version string `json:"version"`
	Config  string `json:"config"`
	// Started is when the instance began to serve, and Clock what its clock showed when it
	// answered.
	Started time.Time `json:"started"`
	Clock   time.Time `json:"clock"`
	// NotReady is why Setup.Ready fails; empty if it does not.
	NotReady string `json:"not_ready,omitempty"`
	// Control says that the instance takes orders, and Refused why it has not carried out the
	// one that this is the answer to.
	Control bool   `json:"control"`
	Refused string `json:"refused,omitempty"`
	// LogLevel is the level of the log, if orders can change it, and LogUntil when it is again what
	// it was; zero if no order holds.
	LogLevel string    `json:"log_level,omitempty"`
	LogUntil time.Time `json:"log_until,omitzero"`
	// Connections, Published, Unpublished and Republished are those of harebus.Stats.
	Connections uint64  `json:"connections"`
	Published   uint64  `json:"published"`
	Unpublished uint64  `json:"unpublished"`
	Republished uint64  `json:"republished"`
	Queues      []Queue `json:"queues"`
	// Cut says that the answer would have been too large and lacks the counts by type.
	Cut bool `json:"cut,omitempty"`
	// Ahead is how far the clock of the instance is ahead of that of the asker, as far as the
	// time until the answer tells. It is set by the [Client].
	Ahead time.Duration `json:"ahead,omitempty"`
}

// Queue is what an instance says about one of its listener queues. The counts are those of
// harebus.Stats: since the setup was made.
type Queue struct {
	Name   string `json:"name"`
	Paused bool   `json:"paused"`
	// Concurrency, Prefetch and Consumers are what the instance consumes with now, and Rate how
	// many messages it handles a second at most; 0 is as many as it can.
	Concurrency int     `json:"concurrency"`
	Prefetch    int     `json:"prefetch"`
	Consumers   int     `json:"consumers"`
	Rate        float64 `json:"rate,omitempty"`
	// InHand is the number of messages inside handlers, and Oldest for how long the oldest has
	// been there.
	InHand      int64         `json:"in_hand"`
	Oldest      time.Duration `json:"oldest"`
	Delivered   uint64        `json:"delivered"`
	Redelivered uint64        `json:"redelivered"`
	// All are the counts of all types together, and Types those of each.
	All   harebus.MessageStats            `json:"all"`
	Types map[string]harebus.MessageStats `json:"types,omitempty"`
}

const (
	// mostBytes is the largest answer: some 200 types with times.
	mostBytes = 128 << 10
	// mostQueues is how many queues an answer has.
	mostQueues = 200
	// mostText is the longest text: a reason.
	mostText = 1000
)

// encode writes an answer, without the counts by type if it is too large.
func (a *Answer) encode() ([]byte, error) {
	if len(a.Queues) > mostQueues {
		a.Queues, a.Cut = a.Queues[:mostQueues], true
	}
	body, err := json.Marshal(a) //nolint:musttag // the counts of harebus.MessageStats have the names of its fields
	if err != nil || len(body) <= mostBytes {
		return body, err
	}
	a.Cut = true
	for i := range a.Queues {
		a.Queues[i].Types = nil
	}
	return json.Marshal(a) //nolint:musttag // the counts of harebus.MessageStats have the names of its fields
}

// read reads an answer. It came from the network, so nothing in it is taken for granted.
func read(body []byte) (a Answer, err error) {
	if len(body) > 2*mostBytes {
		return a, fmt.Errorf("it has %d bytes", len(body))
	}
	if err := json.Unmarshal(body, &a); err != nil { //nolint:musttag // the counts of harebus.MessageStats have the names of its fields
		return a, err
	}
	short := func(texts ...string) bool {
		for _, text := range texts {
			if len(text) > mostText {
				return false
			}
		}
		return true
	}
	if a.Instance == "" || len(a.Queues) > mostQueues || !short(a.Instance, a.Service, a.Version, a.Config, a.NotReady, a.Refused, a.LogLevel) {
		return a, errors.New("it is not the answer of an instance")
	}
	for i := range a.Queues {
		q := &a.Queues[i]
		if !short(q.Name) {
			return a, errors.New("a queue has no name that a queue can have")
		}
		q.Oldest = max(q.Oldest, 0)
		mend(&q.All)
		for name, counts := range q.Types {
			mend(&counts)
			q.Types[name] = counts
		}
	}
	return a, nil
}

// mend drops histograms with other buckets than those of this version.
func mend(m *harebus.MessageStats) {
	for _, h := range []*harebus.Histogram{&m.HandlingTime, &m.CriticalTime} {
		if len(h.Counts) != len(harebus.HistogramBounds())+1 {
			*h = harebus.Histogram{}
		}
	}
}

// shorten cuts a text to what an answer may have.
func shorten(text string) string {
	if len(text) <= mostText {
		return text
	}
	return strings.ToValidUTF8(text[:mostText], "")
}
