package streams

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

// loading is how long a store may take to say where to begin.
const loading = 30 * time.Second

// ask calls the store, which is somebody's code: it may panic, end its goroutine or never return. None of this may end the
// process, or keep the lock of a group. A call that has not returned may still write, so there is no other one meanwhile.
func (r *Reader) ask(ctx context.Context, call func(ctx context.Context) error) error {
	select {
	case r.asking <- struct{}{}:
	case <-ctx.Done():
		return errors.New("an earlier call of the OffsetStore has not returned")
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("the OffsetStore has ended its goroutine")
		defer func() {
			if v := recover(); v != nil {
				r.Log.Error("the OffsetStore has panicked", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
				err = fmt.Errorf("the OffsetStore has panicked: %v", v)
			}
			<-r.asking
			done <- err
		}()
		err = call(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the OffsetStore has not returned: %w", context.Cause(ctx))
	}
}

// askPlace is Load of the store.
func (r *Reader) askPlace(ctx context.Context) (mark, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loading, fmt.Errorf("%v have passed", loading))
	defer cancel()
	var got mark
	err := r.ask(ctx, func(ctx context.Context) (err error) {
		got.offset, got.known, err = r.Store.Load(ctx)
		return err
	})
	if err != nil {
		return mark{}, err // got may still be written
	}
	return got, nil
}
