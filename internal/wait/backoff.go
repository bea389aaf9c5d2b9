package wait

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/foreign"
)

// Pauses is a back-off of the user's, for a goroutine that must go on whatever the
// policy does. When it panics, hangs or is nil, that is logged and [Default]
// takes its place for good.
type Pauses struct {
	policy backoff.BackOff
	log    *zap.Logger
}

// NewPauses returns the policy that factory makes, reset.
func NewPauses(log *zap.Logger, factory func() backoff.BackOff) *Pauses {
	p := &Pauses{log: log}
	var err error
	if p.policy, err = promptly(func() backoff.BackOff { return Fresh(factory) }); err != nil {
		p.replace(err)
	}
	return p
}

// Fresh makes a policy and resets it: that is what makes fields count that were
// set on a backoff.ExponentialBackOff after it was made.
func Fresh(factory func() backoff.BackOff) backoff.BackOff {
	policy := factory()
	policy.Reset()
	return policy
}

// NextBackOff returns the next pause.
func (p *Pauses) NextBackOff() time.Duration {
	d, err := promptly(p.policy.NextBackOff)
	if err != nil {
		p.replace(err)
		return p.policy.NextBackOff()
	}
	return d
}

// Reset has the next pause be the first one.
func (p *Pauses) Reset() {
	policy := p.policy
	if _, err := promptly(func() struct{} { policy.Reset(); return struct{}{} }); err != nil {
		p.replace(err)
	}
}

func (p *Pauses) replace(err error) {
	p.log.Error("Connect.BackOff failed; the default takes its place", zap.String("error", foreign.Details(err)))
	p.policy = Default()
}

// promptly calls foreign code that only computes something.
func promptly[T any](fn func() T) (T, error) {
	const long = 5 * time.Second
	ctx, cancel := context.WithTimeoutCause(context.Background(), long, fmt.Errorf("no answer within %v", long))
	defer cancel()
	return foreign.Apart(ctx, func() (T, error) { return fn(), nil })
}

// TryBackOff finds what is wrong with a factory for policies. A policy keeps
// state and is not safe for concurrent use, so each call must make a new one.
func TryBackOff(factory func() backoff.BackOff) error {
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
		return fmt.Errorf("cannot be used: %s", foreign.Text(err))
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

// Default is the back-off of connections: 50 ms, doubled up to 1.5 s, without end.
func Default() backoff.BackOff { return doubled(50*time.Millisecond, 1500*time.Millisecond) }

// Retry is the back-off of failed messages: 2 s, doubled up to a minute, without end.
func Retry() backoff.BackOff { return doubled(2*time.Second, time.Minute) }

func doubled(first, most time.Duration) backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(most),
		backoff.WithMaxElapsedTime(0),
	)
}
