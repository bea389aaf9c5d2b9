package main

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// job is the message that everybody sends and handles.
type job struct {
	ID   int64  `json:"id"`
	Sent int64  `json:"sent"` // nanoseconds since the process started
	Text string `json:"text"`
}

// jobType is its name on the wire.
const jobType = "bench.Job"

// MessageType tells harebus the name.
func (job) MessageType() string { return jobType }

// directExchange is where harebus sends commands, with the queue as key.
const directExchange = "PikaBusDirect"

var (
	began   = time.Now()
	counter atomic.Int64
)

// now is the time since the process started.
func now() int64 { return int64(time.Since(began)) }

// text fills a job so that its body has about size bytes.
func text(size int) string {
	const around = 60 // the rest of the JSON, with numbers of a usual length
	return strings.Repeat("x", max(size-around, 1))
}

func newJob(text string) job { return job{ID: counter.Add(1), Sent: now(), Text: text} }

// isoTime is how harebus writes a time.
func isoTime(t time.Time) string { return t.Format("2006-01-02T15:04:05.000000") + "+00:00" }

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// envelope is all that goes with a body, as one would write it by hand for
// receivers that expect what harebus sends.
type envelope struct {
	id, correlation string
	time            time.Time
	origin          string // the sender's own queue; empty for a sender without one
}

func newEnvelope(correlation, origin string) envelope {
	if correlation == "" {
		correlation = newID()
	}
	return envelope{id: newID(), correlation: correlation, time: time.Now().UTC(), origin: origin}
}

func (e *envelope) headers() map[string]any {
	h := make(map[string]any, 12)
	h["PikaBus.MessageId"] = e.id
	h["PikaBus.CorrelationId"] = e.correlation
	h["PikaBus.TimeSent"] = isoTime(e.time)
	h["PikaBus.Intent"] = "command"
	h["PikaBus.ContentType"] = "application/json"
	h["PikaBus.ContentEncoding"] = "utf-8"
	h["PikaBus.MessageType"] = jobType
	if e.origin != "" {
		h["PikaBus.OriginatingAddress"] = e.origin
		h["PikaBus.ReplyToAddress"] = e.origin
	}
	return h
}

// publishing builds the message for the plain client.
func publishing(j *job, correlation, origin string) (amqp.Publishing, error) {
	body, err := json.Marshal(j)
	if err != nil {
		return amqp.Publishing{}, err
	}
	e := newEnvelope(correlation, origin)
	return amqp.Publishing{
		Headers:         e.headers(),
		ContentType:     "application/json",
		ContentEncoding: "utf-8",
		DeliveryMode:    amqp.Persistent,
		CorrelationId:   e.correlation,
		ReplyTo:         origin,
		MessageId:       e.id,
		Timestamp:       e.time,
		Type:            jobType,
		Body:            body,
	}, nil
}

// received decodes a body as the plain clients do.
func received(body []byte) (job, error) {
	var j job
	err := json.Unmarshal(body, &j)
	return j, err
}
