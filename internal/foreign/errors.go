package foreign

import "errors"

var errEndless = errors.New("the error wraps too many others, or itself")

// EachError calls visit for an error and those it wraps, outermost first, until
// visit returns false. Unlike [errors.As] it comes to an end in a circle, calls
// no methods but Unwrap, and survives their panics.
func EachError(err error, visit func(error) bool) error {
	const most = 1000
	left, endless := most, false
	var walk func(error) bool
	walk = func(err error) bool {
		if left--; left < 0 {
			endless = true
			return false
		}
		if err == nil {
			return true
		}
		if !visit(err) {
			return false
		}
		switch e := err.(type) { //nolint:errorlint // this is what unwraps
		case interface{ Unwrap() error }:
			return walk(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, wrapped := range e.Unwrap() {
				if !walk(wrapped) {
					return false
				}
			}
		}
		return true
	}
	return Call(func() error {
		if walk(err); endless {
			return errEndless
		}
		return nil
	})
}
