package harebus

import (
	"context"
	"runtime/debug"
)

// guard calls foreign code and returns its error; a panic is a [*PanicError]. A
// call that ends its goroutine (runtime.Goexit) never comes back from guard: the
// deferred functions of its callers still run, and conclude is for them.
func guard(fn func() error) (err error) {
	conclude(fn, func(e error) { err = e })
	return err
}

// conclude calls foreign code and passes its outcome to done, exactly once. A
// panic is a [*PanicError]. When the call ends its goroutine, the outcome is
// [ErrGoexit]: done runs while the goroutine ends, may take as long as it needs,
// and conclude does not return.
func conclude(fn func() error, done func(error)) {
	err := ErrGoexit // unless fn returns or panics
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		done(err)
	}()
	err = fn()
}

// apart calls foreign code in a goroutine of its own, which the call may end
// ([ErrGoexit]) without harm to the caller. When ctx ends first, apart returns
// its cause and leaves the call behind. It is for rare calls.
func apart[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	ended := make(chan outcome, 1) // with room, so that a call left behind can end
	go func() {
		var value T
		conclude(func() (err error) {
			value, err = fn()
			return err
		}, func(err error) { ended <- outcome{value, err} })
	}()
	select {
	case o := <-ended:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
