package proof

import (
	"fmt"
	"runtime"
)

// misbehave fails as foreign code can: mostly with an error, sometimes with a panic,
// by ending the goroutine, or with an error whose methods panic. It quotes what the message
// carries, as foreign code does.
func misbehave(n int, quote string) error {
	switch n % 16 {
	case 1:
		runtime.Goexit()
	case 5:
		panic("meant to fail " + quote)
	case 9:
		return hostileError{}
	case 13:
		var none *typedNil
		return none
	}
	return fmt.Errorf("%w %s", errMeant, quote)
}

// hostileError is an error whose methods all panic.
type hostileError struct{}

func (hostileError) Error() string   { panic("Error panics") }
func (hostileError) Is(error) bool   { panic("Is panics") }
func (hostileError) As(any) bool     { panic("As panics") }
func (hostileError) Unwrap() []error { panic("Unwrap panics") }

// typedNil is the error of a function that returns a nil pointer as an error.
type typedNil struct{ text string } //nolint:errname // named for its fault

func (e *typedNil) Error() string { return e.text }
