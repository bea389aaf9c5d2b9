// Package foreign calls foreign code: handlers, hooks, policies, and other code of the
// user. Such code can panic, end its goroutine or never return; the caller continues in
// all these cases.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
)

// ErrGoexit says that foreign code has ended its goroutine with runtime.Goexit.
var ErrGoexit = errors.New("the goroutine was ended by runtime.Goexit; return an error instead")

// PanicError is a panic of foreign code.
type PanicError struct {
	// Value is what was passed to panic.
	Value any
	// Stack is the stack of the panicking goroutine.
	Stack []byte
}

// Error is the value and the stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack)
}

// Unwrap returns the value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// StackMark stands between the text of a panic and its stack.
const StackMark = "\n\ngoroutine "

// Text is the text of an error of [Call] or [Apart] that may hold another error whose
// methods cannot be called.
func Text(trouble error) string {
	p, ok := trouble.(*PanicError) //nolint:errorlint // Call returns it as it is
	if !ok {
		return trouble.Error()
	}
	switch value := p.Value.(type) {
	case string, runtime.Error:
		return fmt.Sprintf("panic: %v", value)
	default:
		return fmt.Sprintf("panic: %T", value)
	}
}

// Unreadable is the text of an error that has none, because its methods cannot be called.
func Unreadable(err, trouble error) string {
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Sprintf("a nil %T was returned as an error; return nil itself (%s)", err, Text(trouble))
	}
	return fmt.Sprintf("the methods of the error, a %T, cannot be called: %s", err, Text(trouble))
}

// TextOf is the text of an error for a log.
func TextOf(err error) string {
	var text string
	if trouble := Call(func() error { text = err.Error(); return nil }); trouble != nil {
		return Unreadable(err, trouble)
	}
	return text
}

// Details is [Text] with the stack of a panic, for a log.
func Details(trouble error) string {
	text := Text(trouble)
	if p, ok := trouble.(*PanicError); ok { //nolint:errorlint // likewise
		text += "\n\n" + string(p.Stack)
	}
	return text
}

// Call calls foreign code and returns its error; a panic is a [*PanicError]. A
// call that ends its goroutine (runtime.Goexit) never comes back from Call: the
// deferred functions of its callers still run, and Conclude is for them.
func Call(fn func() error) (err error) {
	Conclude(fn, func(e error) { err = e })
	return err
}

// Conclude calls foreign code and passes its outcome to done, exactly once. A
// panic is a [*PanicError]. When the call ends its goroutine, the outcome is
// [ErrGoexit]: done runs while the goroutine ends, may take as long as it needs,
// and Conclude does not return.
func Conclude(fn func() error, done func(error)) {
	err := ErrGoexit // unless fn returns or panics
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		done(err)
	}()
	err = fn()
}

// Apart calls foreign code in a goroutine of its own, which the call may end
// ([ErrGoexit]) without harm to the caller. When ctx ends first, Apart returns
// its cause and leaves the call behind. It is for rare calls.
func Apart[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	ended := make(chan outcome, 1) // with room, so that a call left behind can end
	go func() {
		var value T
		Conclude(func() (err error) {
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
