package wait

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Next asks a policy for a pause; one that has come to its end starts anew.
func Next(policy backoff.BackOff) time.Duration {
	d := policy.NextBackOff()
	if d == backoff.Stop {
		policy.Reset()
		d = policy.NextBackOff()
	}
	return max(d, 0)
}

// Sleep waits for d and says whether it did: false means that ctx has ended.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
