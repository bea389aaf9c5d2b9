// Package badinput is the table of bad messages that a service must survive, each
// with its expected end: handled, or parked with a reason. Tests put them into the
// queue of a service on the in-process broker and on real ones.
package badinput

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// Class is the expected end of a bad message.
type Class int

// The classes.
const (
	Handled Class = iota // the bad part is ignored
	Parked               // in the error queue at once
	Retried              // handled six times, then in the error queue
)

// Case is one bad message. Its number is that of the fault it stands for.
type Case struct {
	Name    string
	Message amqp.Publishing
	// Table replaces the headers of Message by an encoded table, for what the
	// client library does not write.
	Table []byte
	// Topic is the key with which Message is published as an event. Without one it
	// is put into the queue.
	Topic string
	Want  Class
	// Reason is the code of a parked message, or part of the details of one whose
	// handler fails.
	Reason string
	// Tight cases need a service changed by [Tighten].
	Tight bool
	// See checks the message as the handler saw it, Copy the copy in the error
	// queue.
	See  func(*harebus.Message) error
	Copy func(amqp.Publishing) error
}

// All returns every case.
func All() []Case {
	var all []Case
	for _, cases := range [][]Case{
		headerCases(), counterCases(), timeCases(), contentCases(), bodyCases(), forgedCases(), handlerCases(), topicCases(),
	} {
		all = append(all, cases...)
	}
	return all
}

// MaxBody is that of a tightened service.
const MaxBody = 32 << 10

// Victims are queues that headers name. They must exist, and no message may reach
// them.
var Victims = []string{"victim", "payments"}

// ErrorQueue is what the error queue of the service must be called.
const ErrorQueue = "error"

// Subscription is one that the service must have.
const Subscription = "#"

// MaxRetries is that of the service.
const MaxRetries = 5

// Tighten sets stricter limits than the defaults for a service.
func Tighten(c *harebus.Config) {
	c.Payload.Codecs = append(c.Payload.Codecs, harebus.JSON{Strict: true})
	c.Payload.MaxBody = MaxBody
	c.QueueOptions.Type = "classic"
	c.Reply.Policy = harebus.RepliesTo("friend")
}

// CheckCopy checks what is in the error queue: all of the original, and why.
func (c *Case) CheckCopy(got amqp.Publishing) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !bytes.Equal(got.Body, c.Message.Body) {
		fault("the body has become %.80q", got.Body)
	}
	details, _ := got.Headers[prefixed("ErrorDetails")].(string)
	if !strings.Contains(details, c.Reason) || c.Want == Parked && !strings.HasPrefix(details, c.Reason) {
		fault("the details are %.120q, want %q", details, c.Reason)
	}
	count := int8(1)
	if c.Want == Retried {
		count = MaxRetries + 1
	}
	if got.Headers[prefixed("ErrorRetries")] != count {
		fault("the failures are %v, want %d", got.Headers[prefixed("ErrorRetries")], count)
	}
	if got.Headers[prefixed("SourceQueue")] == nil {
		fault("no source queue")
	}
	if got.Headers[prefixed("MessageId")] == nil && c.Message.Headers[prefixed("MessageId")] != nil {
		fault("no message id")
	}
	faults = append(faults, c.checkHeaders(got.Headers), c.checkProperties(got))
	if c.Copy != nil {
		faults = append(faults, c.Copy(got))
	}
	return errors.Join(faults...)
}

// checkHeaders demands every header but those that parking writes and those that
// are the broker's.
func (c *Case) checkHeaders(got amqp.Table) error {
	var faults []error
	rest := maps.Clone(c.Message.Headers)
	for _, name := range []string{"ErrorDetails", "ErrorRetries", "SourceQueue", "MessageId", "DeferredTime"} {
		delete(rest, prefixed(name))
	}
	for name, want := range rest {
		if _, forged := brokerHeaders()[name]; forged {
			continue
		}
		if fmt.Sprint(got[name]) != fmt.Sprint(want) {
			faults = append(faults, fmt.Errorf("header %q is %v, want %v", name, got[name], want))
		}
	}
	return errors.Join(faults...)
}

// checkProperties demands every property that a parked message keeps.
func (c *Case) checkProperties(got amqp.Publishing) error {
	kept := func(m *amqp.Publishing) [6]any {
		return [...]any{m.ContentType, m.ContentEncoding, m.Priority, m.Type, m.AppId, m.ReplyTo}
	}
	if want := kept(&c.Message); kept(&got) != want {
		return fmt.Errorf("the properties have become %v, want %v", kept(&got), want)
	}
	if c.Message.MessageId != "" && got.MessageId != c.Message.MessageId {
		return fmt.Errorf("the message id has become %q, want %q", got.MessageId, c.Message.MessageId)
	}
	return nil
}
