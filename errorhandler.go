package harebus

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus/topology"
)

// ErrorHandler decides what becomes of a message whose handler, commit or
// decoding failed with err. It decides only: the bus carries it out, confirmed,
// before it acknowledges the message. It is called from many goroutines.
type ErrorHandler func(m *Message, err error) Decision

// Decision is an ErrorHandler's answer. The zero value parks.
type Decision struct {
	action action
	after  time.Duration
}

type action int8

const (
	actionPark action = iota
	actionRetry
	actionDiscard
)

// Park moves the message to the error queue, with the reason.
func Park() Decision { return Decision{} }

// RetryIn has the message handled again, d after now. It waits in the broker,
// not in this process.
func RetryIn(d time.Duration) Decision { return Decision{actionRetry, max(d, 0)} }

// Discard drops the message for good. It is logged and counted, and that is all
// that remains of it.
func Discard() Decision { return Decision{action: actionDiscard} }

// RetryConfig is what happens to a message whose handler failed: it is handled
// again after a pause, and parked in the error queue in the end. What cannot be
// decoded or has no handler is parked at once, as is an error marked [NoRetry].
type RetryConfig struct {
	// MaxRetries is how often a message is handled again after it failed.
	// Default: 5. Negative: never.
	MaxRetries int
	// BackOff makes the policy for the pauses, which is asked as often as the
	// message has failed; its last answer counts, and backoff.Stop parks the
	// message. Default: from 2 s, doubling to 1 min, ± 20 %.
	BackOff func() backoff.BackOff
	// Rules are exceptions for some errors; the first that matches counts.
	Rules []RetryRule
}

// RetryRule treats some errors differently.
type RetryRule struct {
	// Match chooses the errors: [MatchIs], [MatchAs] or any function.
	Match func(error) bool
	// MaxRetries is as in RetryConfig, with zero meaning the same as there.
	MaxRetries int
	// BackOff is as in RetryConfig, with nil meaning the same as there.
	BackOff func() backoff.BackOff
}

// MatchIs matches what [errors.Is] finds to be target.
func MatchIs(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// MatchAs matches what [errors.As] finds to be a T.
func MatchAs[T error]() func(error) bool {
	return func(err error) bool {
		var target T
		return errors.As(err, &target)
	}
}

func (r RetryConfig) withDefaults() RetryConfig {
	fill(&r.MaxRetries, 5)
	if r.BackOff == nil {
		r.BackOff = retryBackOff
	}
	rules := make([]RetryRule, len(r.Rules))
	for i, rule := range r.Rules {
		fill(&rule.MaxRetries, r.MaxRetries)
		if rule.BackOff == nil {
			rule.BackOff = r.BackOff
		}
		rules[i] = rule
	}
	r.Rules = rules
	return r
}

func retryBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(2*time.Second),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(time.Minute),
		backoff.WithMaxElapsedTime(0),
	)
}

func (r RetryConfig) validate() []error {
	var faults []error
	for i, rule := range r.Rules {
		if rule.Match == nil {
			faults = append(faults, fmt.Errorf("Retry.Rules[%d] has no Match", i))
		}
	}
	return faults
}

// mostFailures is how often a message on its way may have failed before. An
// ErrorHandler of the user's own knows no such limit.
func (c *Config) mostFailures() int {
	if c.ownErrorHandler {
		return maxFailures
	}
	most := max(c.Retry.MaxRetries, 0)
	for _, rule := range c.Retry.Rules {
		most = max(most, rule.MaxRetries)
	}
	return min(most, maxFailures)
}

// decide is the default ErrorHandler.
func (r RetryConfig) decide(m *Message, err error) Decision {
	var rejected *RejectError
	var hopeless *noRetryError
	if errors.As(err, &rejected) || errors.As(err, &hopeless) {
		return Park()
	}
	retries, policy := r.MaxRetries, r.BackOff
	for _, rule := range r.Rules {
		if rule.Match(err) {
			retries, policy = rule.MaxRetries, rule.BackOff
			break
		}
	}
	failures := m.Attempt
	if failures > retries {
		return Park()
	}
	var asked *retryAfterError
	if errors.As(err, &asked) {
		return RetryIn(min(asked.after, topology.MaxDelay))
	}
	pauses := policy()
	var pause time.Duration
	for range failures {
		if pause = pauses.NextBackOff(); pause == backoff.Stop {
			return Park()
		}
	}
	return RetryIn(min(pause, topology.MaxDelay))
}
