package limit

import (
	"time"

	"github.com/harebus/harebus"
)

// What the errors of the bus ask for: [harebus.RetryAfter] and [harebus.Postpone], which is not
// counted, and [harebus.NoRetry].
type (
	pauser interface {
		Pause() (d time.Duration, counted bool)
	}
	final interface{ NoRetry() }
)

// about says whether an error is about the message, and not about the system behind its handler.
func about(err error) bool {
	_, rejected := find[*harebus.RejectError](err)
	_, hopeless := find[final](err)
	return rejected || hopeless
}

// find is [errors.AsType] for the errors of handlers: it comes to an end if an error wraps itself,
// calls no methods but Unwrap, and survives their panics.
func find[T any](err error) (found T, ok bool) {
	defer func() { _ = recover() }() // nothing can be found in such an error
	left := 1000
	var walk func(error)
	walk = func(err error) {
		if left--; err == nil || left < 0 || ok {
			return
		}
		if found, ok = err.(T); ok {
			return
		}
		switch e := err.(type) { //nolint:errorlint // this is what unwraps
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, wrapped := range e.Unwrap() {
				walk(wrapped)
			}
		}
	}
	walk(err)
	return found, ok
}
