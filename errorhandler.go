package harebus

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// ErrorHandler decides about a message that was not handled: its handler, commit or decoding failed with err. If err is
// a [*RejectError], no handler has seen the message. proposed is the decision by Config.Retry or [WithRetry] and by
// [NoRetry], [RetryAfter] or [Postpone]. Return it in all cases that you do not want to change.
//
// The bus carries the decision out, waits for the confirm, and then acknowledges the message. The function is called
// from many goroutines. If it panics, or has not returned within 30 s, the message is parked.
type ErrorHandler func(m *Message, err error, proposed Decision) Decision

// Decision is an ErrorHandler's answer. The zero value parks.
type Decision struct {
	action action
	after  time.Duration
}

type action int8

const (
	actionPark action = iota
	actionRetry
	actionPostpone
	actionDiscard
)

// Park moves the message to the error queue, with the reason.
func Park() Decision { return Decision{} }

// RetryIn has the message handled again, d after now: at once if d is negative, after [topology.MaxDelay] if it is more
// than that. It waits in the broker, not in this process. The attempt counts as a failure.
func RetryIn(d time.Duration) Decision { return Decision{actionRetry, possible(d)} }

// PostponeBy is RetryIn for an attempt that does not count, as [Postpone] asks for. A d under 100 ms counts as 100 ms:
// nothing else limits how often the message is handled.
func PostponeBy(d time.Duration) Decision {
	return Decision{actionPostpone, possible(max(d, leastPostponement))}
}

const leastPostponement = 100 * time.Millisecond

// Discard drops the message for good. Only a log entry and a count remain.
func Discard() Decision { return Decision{action: actionDiscard} }

// possible limits the pause d to what the delay queues can hold.
func possible(d time.Duration) time.Duration { return min(max(d, 0), topology.MaxDelay) }

// Parks says whether the message goes to the error queue.
func (d Decision) Parks() bool { return d.action == actionPark }

// Retries returns the pause before the message is handled again, if it is and the attempt counts.
func (d Decision) Retries() (time.Duration, bool) { return d.after, d.action == actionRetry }

// Postpones returns the pause before the message is handled again, if it is and the attempt does not count.
func (d Decision) Postpones() (time.Duration, bool) { return d.after, d.action == actionPostpone }

// Discards says whether the message is dropped.
func (d Decision) Discards() bool { return d.action == actionDiscard }

// String returns the decision in words: "retry in 2s".
func (d Decision) String() string {
	switch d.action {
	case actionRetry:
		return "retry in " + d.after.String()
	case actionPostpone:
		return "postpone by " + d.after.String()
	case actionDiscard:
		return "discard"
	default:
		return "park"
	}
}

// RetryConfig is the policy for a message whose handler failed: it is handled again after a pause, and after the last
// retry it is parked in the error queue. A message that cannot be decoded, or whose handler returned [NoRetry], is
// parked at once. A message without a handler is retried, unless Config.Handling.Unhandled says otherwise.
type RetryConfig struct {
	// MaxRetries is how often a message is handled again after it failed, at most 1,000. Default: 5, or no limit when
	// GiveUpAfter is set. Negative: never.
	MaxRetries int
	// GiveUpAfter parks a message that fails or is postponed later than this after its first failure. The time of the
	// first failure is by the clock of the process in which it failed. Default: no limit.
	GiveUpAfter time.Duration
	// BackOff makes the policy for the pauses, a new one at each call. The bus resets it and calls NextBackOff as often
	// as the message has failed. It uses the last result; backoff.Stop parks the message. Default: from 2 s, doubling
	// to 1 min, ± 20 %.
	BackOff func() backoff.BackOff
	// Rules are exceptions for some errors; the first that matches counts.
	Rules []RetryRule
}

// RetryRule treats some errors differently.
type RetryRule struct {
	// Match chooses the errors: [MatchIs], [MatchAs] or any function.
	Match func(error) bool
	// MaxRetries is as in RetryConfig; zero takes the value of the RetryConfig.
	MaxRetries int
	// GiveUpAfter is as in RetryConfig; zero takes the value of the RetryConfig, and negative means no limit.
	GiveUpAfter time.Duration
	// BackOff is as in RetryConfig; nil takes the value of the RetryConfig.
	BackOff func() backoff.BackOff
}

// MatchIs matches errors for which errors.Is(err, target) is true.
func MatchIs(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// MatchAs matches errors that [errors.As] can convert to a T.
func MatchAs[T error]() func(error) bool {
	return func(err error) bool {
		var target T
		return errors.As(err, &target)
	}
}

// withDefaults returns a copy with every zero field filled in: from base, which is complete.
func (r RetryConfig) withDefaults(base RetryConfig) RetryConfig {
	if r.MaxRetries == 0 && r.GiveUpAfter > 0 {
		r.MaxRetries = maxFailures
	}
	fill(&r.MaxRetries, base.MaxRetries)
	fill(&r.GiveUpAfter, base.GiveUpAfter)
	if r.BackOff == nil {
		r.BackOff = base.BackOff
	}
	if r.Rules == nil {
		r.Rules = base.Rules
	}
	rules := make([]RetryRule, len(r.Rules))
	for i, rule := range r.Rules {
		if rule.MaxRetries == 0 && rule.GiveUpAfter > 0 {
			rule.MaxRetries = maxFailures
		}
		fill(&rule.MaxRetries, r.MaxRetries)
		fill(&rule.GiveUpAfter, r.GiveUpAfter)
		if rule.BackOff == nil {
			rule.BackOff = r.BackOff
		}
		rules[i] = rule
	}
	r.Rules = rules
	return r
}

// defaultRetry is what a setup does when Config.Retry is zero.
func defaultRetry() RetryConfig { return RetryConfig{MaxRetries: 5, BackOff: wait.Retry} }

// validate names the faults by where the policy is configured.
func (r RetryConfig) validate(where string) []error {
	var faults []error
	check := func(field string, factory func() backoff.BackOff) {
		if err := wait.TryBackOff(factory); err != nil {
			faults = append(faults, fmt.Errorf("%s.%s %w", where, field, err))
		}
	}
	check("BackOff", r.BackOff)
	for i, rule := range r.Rules {
		if rule.Match == nil {
			faults = append(faults, fmt.Errorf("%s.Rules[%d] has no Match", where, i))
		}
		check(fmt.Sprintf("Rules[%d].BackOff", i), rule.BackOff)
	}
	return faults
}

// ends says whether an ordinary failure of this attempt parks the message.
func (r *RetryConfig) ends(m *Message) bool {
	return m.Attempt > min(r.MaxRetries, maxFailures) || r.tooOld(m, r.GiveUpAfter)
}

func (*RetryConfig) tooOld(m *Message, limit time.Duration) bool {
	return limit > 0 && !m.FirstFailed.IsZero() && time.Since(m.FirstFailed) > limit
}

// most is the largest failure count with which a message is still handled.
func (r *RetryConfig) most() int {
	most := max(r.MaxRetries, 0)
	for _, rule := range r.Rules {
		most = max(most, rule.MaxRetries)
	}
	return min(most, maxFailures)
}

// decide is the decision of the policy about a message that has failed m.Attempt times.
func (r *RetryConfig) decide(m *Message, f *failure) Decision {
	if f.final() {
		return Park()
	}
	rule := r.ruleFor(f.shown())
	failures := m.Attempt
	switch {
	case r.tooOld(m, rule.GiveUpAfter):
		return Park()
	case f.asked != nil && f.asked.uncounted:
		return PostponeBy(f.asked.after)
	case failures > min(rule.MaxRetries, maxFailures):
		return Park()
	case f.asked != nil:
		return RetryIn(f.asked.after)
	}
	policy := wait.Fresh(rule.BackOff)
	var pause time.Duration
	for range failures {
		if pause = policy.NextBackOff(); pause == backoff.Stop {
			return Park()
		}
	}
	return RetryIn(pause)
}

// ruleFor returns the rule for an error; it is the policy itself if no other matches.
func (r *RetryConfig) ruleFor(err error) RetryRule {
	for _, rule := range r.Rules {
		if rule.Match(err) {
			return rule
		}
	}
	return RetryRule{MaxRetries: r.MaxRetries, GiveUpAfter: r.GiveUpAfter, BackOff: r.BackOff}
}
