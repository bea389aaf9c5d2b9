package harebus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
)

// pauses is a back-off of the user's, for a goroutine that must go on whatever the
// policy does. When it panics, hangs or is nil, that is logged and the default
// takes its place for good.
type pauses struct {
	policy backoff.BackOff
	log    *zap.Logger
}

// newPauses returns the policy that factory makes, reset.
func newPauses(log *zap.Logger, factory func() backoff.BackOff) *pauses {
	p := &pauses{log: log}
	var err error
	if p.policy, err = promptly(func() backoff.BackOff { return fresher(factory) }); err != nil {
		p.replace(err)
	}
	return p
}

// fresher makes a policy and resets it: that is what makes fields count that were
// set on a backoff.ExponentialBackOff after it was made.
func fresher(factory func() backoff.BackOff) backoff.BackOff {
	policy := factory()
	policy.Reset()
	return policy
}

// NextBackOff returns the next pause.
func (p *pauses) NextBackOff() time.Duration {
	d, err := promptly(p.policy.NextBackOff)
	if err != nil {
		p.replace(err)
		return p.policy.NextBackOff()
	}
	return d
}

// Reset has the next pause be the first one.
func (p *pauses) Reset() {
	policy := p.policy
	if _, err := promptly(func() struct{} { policy.Reset(); return struct{}{} }); err != nil {
		p.replace(err)
	}
}

func (p *pauses) replace(err error) {
	p.log.Error("Connect.BackOff failed; the default takes its place", zap.Error(err))
	p.policy = connectBackOff()
}

// promptly calls foreign code that only computes something.
func promptly[T any](fn func() T) (T, error) {
	const long = 5 * time.Second
	ctx, cancel := context.WithTimeoutCause(context.Background(), long, fmt.Errorf("no answer within %v", long))
	defer cancel()
	return apart(ctx, func() (T, error) { return fn(), nil })
}

// tryBackOff finds what is wrong with a factory for policies. A policy keeps
// state and is not safe for concurrent use, so each call must make a new one.
func tryBackOff(factory func() backoff.BackOff) error {
	policies, err := promptly(func() [2]backoff.BackOff {
		pair := [2]backoff.BackOff{factory(), factory()}
		for _, policy := range pair {
			if policy != nil {
				policy.Reset()
				policy.NextBackOff()
			}
		}
		return pair
	})
	switch {
	case err != nil:
		return fmt.Errorf("cannot be used: %s", troubleText(err))
	case policies[0] == nil:
		return errors.New("returns nil")
	case shared(policies[0], policies[1]):
		return fmt.Errorf("returns the same %T at each call; make a new one inside the function", policies[0])
	}
	return nil
}

// shared says whether two policies are one that has state.
func shared(a, b backoff.BackOff) bool {
	if _, constant := a.(*backoff.ConstantBackOff); constant {
		return false
	}
	v, w := reflect.ValueOf(a), reflect.ValueOf(b)
	return v.Kind() == reflect.Pointer && w.Kind() == reflect.Pointer && v.Pointer() == w.Pointer() && v.Type().Elem().Size() > 0
}
