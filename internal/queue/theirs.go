package queue

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
)

// Note is what another bus says about a message in its error queue. Anybody may have written it.
type Note struct {
	// Bus names who has parked it: "masstransit", "nservicebus", "wolverine" or "spring".
	Bus string
	// Type is the name of the type, Kind the class of the exception, and Text its message and, on further lines, where it was.
	Type, Kind, Text string
	// Queue is where it failed. Without one, Exchange and Key are how the message came there.
	Queue, Exchange, Key string
	// Parked is when it was parked; zero if the note does not say.
	Parked time.Time
}

// Theirs is the note of another bus; nil if there is none, or if harebus has parked the message since.
func (m *Message) Theirs(prefix, errorQueue string) *Note {
	for _, name := range []string{harebus.HeaderSourceQueue, harebus.HeaderErrorDetails} {
		if _, ours := m.Headers[prefix+name]; ours {
			return nil
		}
	}
	for _, bus := range buses {
		if m.Text(bus.mark, "") == "" {
			continue
		}
		n := bus.read(m, errorQueue)
		n.Bus = bus.name
		return n
	}
	return nil
}

// buses are those that write a note, each with a header that no message is without.
var buses = []struct {
	name, mark string
	read       func(m *Message, errorQueue string) *Note
	// added are the headers that it adds, or how their names begin.
	added []string
}{
	{"nservicebus", "NServiceBus.FailedQ", (*Message).nservicebus, []string{
		"NServiceBus.FailedQ", "NServiceBus.ExceptionInfo.", "NServiceBus.TimeOfFailure", "NServiceBus.ProcessingEndpoint", "NServiceBus.ProcessingMachine",
		"$.diagnostics.hostid", "$.diagnostics.hostdisplayname",
	}},
	{"masstransit", "MT-Reason", (*Message).masstransit, []string{"MT-Fault-", "MT-Host-", "MT-Reason", "MT-Redelivery-Count"}},
	{"wolverine", "exception-type", (*Message).wolverine, []string{"exception-type", "exception-message", "exception-stack", "failed-at", "original-destination", "failure-group", "failure-title", "attempts"}},
	{"spring", "x-exception-stacktrace", (*Message).spring, []string{"x-exception-", "x-original-exchange", "x-original-routingKey"}},
}

// parkedFor is the note that harebus has written for the tools of the bus whose message it has parked; nil if there is none.
func (m *Message) parkedFor(prefix string) *Note {
	if name := m.Text(prefix+harebus.HeaderDialect, ""); name == "nservicebus" && m.Text(prefix+harebus.HeaderSourceQueue, "") != "" {
		return &Note{Bus: name}
	}
	return nil
}

// added says whether the bus that wrote the note has added a header with it.
func (n *Note) added(key string) bool {
	if n == nil {
		return false
	}
	for _, bus := range buses {
		if bus.name != n.Bus {
			continue
		}
		for _, name := range bus.added {
			if key == name || name[len(name)-1] == '-' && strings.HasPrefix(key, name) || name[len(name)-1] == '.' && strings.HasPrefix(key, name) {
				return true
			}
		}
	}
	return false
}

// lines are a text and where it comes from.
func lines(text, stack string) string {
	if stack == "" {
		return text
	}
	return text + "\n" + stack
}

func (m *Message) nservicebus(string) *Note {
	const info = "NServiceBus.ExceptionInfo."
	name, _, _ := strings.Cut(m.Text("NServiceBus.EnclosedMessageTypes", m.Type), ";")
	name, _, _ = strings.Cut(name, ",")
	queue, _, _ := strings.Cut(m.Text("NServiceBus.FailedQ", ""), "@") // with the machine on other transports
	return &Note{
		Type: name, Kind: m.Text(info+"ExceptionType", ""), Text: lines(m.Text(info+"Message", ""), m.Text(info+"StackTrace", "")), Queue: queue,
		Parked: dotNetTime(m.Text("NServiceBus.TimeOfFailure", "")),
	}
}

// dotNetTime reads 2026-11-28 10:52:49:361793 Z; zero if it is something else.
func dotNetTime(s string) time.Time {
	const seconds = len("2006-01-02 15:04:05")
	if len(s) <= seconds || s[seconds] != ':' {
		return time.Time{}
	}
	t, _ := time.Parse("2006-01-02 15:04:05.999999 Z", s[:seconds]+"."+s[seconds+1:]) // zero with an error
	return t
}

// masstransit reads the note in a queue NAME_error or NAME_skipped. The latter has messages that nobody consumes, and no exception.
func (m *Message) masstransit(errorQueue string) *Note {
	n := &Note{Kind: m.Text("MT-Fault-ExceptionType", m.Text("MT-Reason", "")), Type: m.Text("MT-Fault-MessageType", m.Type)}
	n.Text = lines(m.Text("MT-Fault-Message", ""), m.Text("MT-Fault-StackTrace", ""))
	n.Parked, _ = time.Parse(time.RFC3339, m.Text("MT-Fault-Timestamp", "")) // zero with an error
	if address, err := url.Parse(m.Text("MT-Fault-InputAddress", "")); err == nil {
		n.Queue = address.Path[strings.LastIndexByte(address.Path, '/')+1:]
	}
	for _, end := range []string{"_error", "_skipped"} {
		if queue, ok := strings.CutSuffix(errorQueue, end); ok && n.Queue == "" {
			n.Queue = queue
		}
	}
	if n.Text == "" && n.Kind == "dead-letter" {
		n.Text = "no consumer took it (MT-Reason dead-letter)"
	}
	if n.Type == "" {
		var envelope struct {
			MessageType []string `json:"messageType"`
		}
		if json.Unmarshal(m.Body, &envelope) == nil && len(envelope.MessageType) > 0 {
			n.Type = strings.TrimPrefix(envelope.MessageType[0], "urn:message:")
		}
	}
	return n
}

func (m *Message) wolverine(string) *Note {
	n := &Note{Kind: m.Text("exception-type", ""), Type: m.Type, Text: lines(m.Text("exception-message", ""), m.Text("exception-stack", ""))}
	if queue, ok := strings.CutPrefix(m.Text("original-destination", ""), "rabbitmq://queue/"); ok {
		n.Queue, _ = url.PathUnescape(queue) // empty with an error
	}
	if ms, err := strconv.ParseInt(m.Text("failed-at", ""), 10, 64); err == nil {
		n.Parked = time.UnixMilli(ms)
	}
	return n
}

// spring reads what RepublishMessageRecoverer adds. Its stack trace ends with the causes, and the last one is why.
func (m *Message) spring(string) *Note {
	const cause = "Caused by: "
	stack := m.Text("x-exception-stacktrace", "")
	last := stack
	if i := strings.LastIndex(stack, cause); i >= 0 {
		last = stack[i+len(cause):]
	}
	kind, _, _ := strings.Cut(last, "\n")
	kind, _, _ = strings.Cut(kind, ":")
	n := &Note{
		Type: m.Text("__TypeId__", m.Type), Kind: strings.TrimSpace(kind), Text: lines(m.Text("x-exception-message", ""), stack),
		Exchange: m.Text("x-original-exchange", ""), Key: m.Text("x-original-routingKey", ""),
	}
	if _, known := field.Text(m.Headers["x-original-exchange"]); known && n.Exchange == "" {
		n.Queue = n.Key
	}
	return n
}
