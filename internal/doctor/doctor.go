// Package doctor looks for what is wrong, or dangerous, with a broker for a service: it compares
// the service's topology with the broker, reads the arguments of queues (arguments.go), asks
// for permissions (permissions.go), for the state of the broker (broker.go) and its nodes (nodes.go), and for recurring
// schedules (schedules.go). It changes nothing. Each finding has the reason why it matters and the command that mends it.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// Options say what to look at.
type Options struct {
	Link *session.Link
	API  *management.Client // nil without the management plugin
	// Address is that of the API, for the commands that are printed.
	Address string
	// Want is the topology of the service, and File its file, for the commands that are printed.
	Want topology.Topology
	File string
	// VHost is the virtual host, for the commands that are printed.
	VHost string
	// ErrorQueue is the error queue if no queue names it.
	ErrorQueue string
	// Tokens is the queue of the tokens of schedules, if it is not named after that of the
	// service, and Bus asks the leader.
	Tokens string
	Bus    *harebus.Bus
	// Now is the time.
	Now func() time.Time
}

// Finding is something that is wrong.
type Finding struct {
	// Fault is true for what makes the service fail or lose messages, false for what only may.
	Fault bool   `json:"fault"`
	What  string `json:"what"`
	Why   string `json:"why"`
	Fix   string `json:"fix"`
}

// Report is what was found.
type Report struct {
	Findings []Finding `json:"findings"`
	Passed   int       `json:"passed"` // checks that found nothing
	// Unchecked is what could not be checked, and why.
	Unchecked []string `json:"unchecked"`
	// Notes are how other buses have to address the queues.
	Notes []string `json:"notes,omitempty"`
}

// examination is one look.
type examination struct {
	Options

	s      survey.Survey
	report Report
	plan   *plan.Plan
	errors map[string]bool // the names of error queues
}

// Examine looks at everything.
func Examine(ctx context.Context, o Options) (*Report, error) {
	e := &examination{Options: o, report: Report{Findings: []Finding{}, Unchecked: []string{}}, errors: errorQueues(o)}
	if err := e.alarm(ctx); err != nil {
		return nil, err
	}
	if len(e.report.Findings) > 0 {
		e.unchecked("everything else: a broker in alarm answers no question after a message")
		return &e.report, nil
	}
	err := o.Link.With(ctx, func(on *session.Session) error {
		e.s = survey.Survey{On: on}
		return e.all(ctx)
	})
	return &e.report, err
}

func (e *examination) all(ctx context.Context) (err error) {
	e.report = Report{Findings: []Finding{}, Unchecked: e.report.Unchecked} // an earlier attempt may have lost its connection
	if e.plan, err = plan.Make(ctx, e.s, e.API, e.Want); err != nil {
		return err
	}
	for _, check := range []func(context.Context) error{
		e.objects, e.queues, e.peers, e.delays, e.permissions, e.limits, e.nodes, e.clock, e.policies, e.schedules,
	} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	e.unchecked("the consumer timeout, the largest message, the dead-letter worker's settings: RabbitMQ tells them only to rabbitmqctl environment")
	return nil
}

func (e *examination) fault(what, why, fix string) {
	e.report.Findings = append(e.report.Findings, Finding{true, what, why, fix})
}

func (e *examination) warn(what, why, fix string) {
	e.report.Findings = append(e.report.Findings, Finding{false, what, why, fix})
}

func (e *examination) passed() { e.report.Passed++ }

func (e *examination) unchecked(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(e.report.Unchecked, text) {
		e.report.Unchecked = append(e.report.Unchecked, text)
	}
}

// ctl is a command of rabbitmqctl for the virtual host.
func (e *examination) ctl(command string, args ...string) string {
	words := append([]string{"rabbitmqctl", command, "-p", e.VHost}, args...)
	for i, word := range words {
		words[i] = shell(word)
	}
	return strings.Join(words, " ")
}

// shell quotes a word if a shell would not take it as it is.
func shell(word string) string {
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}) {
		return word
	}
	if strings.ContainsFunc(word, unicode.IsControl) {
		return strconv.Quote(word) // to be read; no such name is to be typed
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// migrate is the command that replaces a queue. Without the management API nobody sees whether
// one that dead-letters at-least-once still holds dead letters.
func (e *examination) migrate(queue string) string {
	if e.API != nil || e.plan.Queues[queue].Arguments["x-dead-letter-strategy"] == "at-least-once" {
		return fmt.Sprintf("harebus topology migrate -api %s %s %s", shell(e.address()), shell(e.File), shell(queue))
	}
	return fmt.Sprintf("harebus topology migrate -settle 30s -only-these %s %s   (if the queue has no other bindings than the file's; else with -api)",
		shell(e.File), shell(queue))
}

// address is that of the management API, or a place for it.
func (e *examination) address() string {
	if e.Address == "" {
		return "http://HOST:15672"
	}
	return e.Address
}

func (e *examination) apply() string { return "harebus topology apply " + shell(e.File) }

// errorQueues are the queues to which others dead-letter, and the one that is named.
func errorQueues(o Options) map[string]bool {
	names := map[string]bool{o.ErrorQueue: true}
	for _, q := range o.Want.Queues {
		if key, ok := q.Arguments["x-dead-letter-routing-key"].(string); ok && q.Arguments["x-dead-letter-exchange"] == "" {
			names[key] = true
		}
	}
	return names
}

// objects turns the differences of the plan into findings, but for those of existing queues.
func (e *examination) objects(context.Context) error {
	e.report.Passed += e.plan.Same
	for _, d := range e.plan.Differences {
		switch d.Action {
		case plan.Create:
			e.fault(d.Object+" does not exist", e.missing(d.Name), e.apply())
		case plan.Bind:
			e.fault(d.Object+" is missing", "messages that it should route do not reach the queue", e.apply())
		case plan.Replace:
			e.fault(fmt.Sprintf("%s is not as wanted: %s", d.Object, d.Text), why(d.Text),
				fmt.Sprintf("harebus topology apply -replace-exchanges -api %s %s", shell(e.address()), shell(e.File)))
		case plan.Surplus:
			e.warn(d.Object+" is not wanted", "the queue gets messages for which the service may have no handler; they are retried and parked",
				"harebus topology prune -surplus -yes -api "+shell(e.Address)+" "+shell(e.File))
		case plan.Absent:
			e.fault(d.Object+" does not exist", "the service uses it and does not declare it: it does not start", d.Remedy)
		case plan.Hidden:
			e.unchecked("%s: %s", d.Object, d.Text)
		case plan.Migrate: // see queues
		}
	}
	for _, text := range e.plan.Unseen {
		e.unchecked("%s", text)
	}
	return nil
}

func (e *examination) missing(name string) string {
	if e.errors[name] {
		return "messages that cannot be handled have no place to go: they are retried without end, or dropped at the delivery limit"
	}
	return "what is sent to it is returned to the sender, or waits in the exit of delays"
}

// why is the reason for the difference of an exchange.
func why(difference string) string {
	switch {
	case strings.Contains(difference, "alternate-exchange"):
		return "with an alternate exchange a message that reaches no queue is not returned: sending to a missing queue reports success"
	case strings.Contains(difference, "internal"):
		return "the broker refuses whatever is published to an internal exchange"
	case strings.Contains(difference, "transient"), strings.Contains(difference, "auto-delete"):
		return "the exchange, with its bindings, is deleted at a restart or when its last binding goes"
	default:
		return "the service cannot declare it, and does not start"
	}
}
