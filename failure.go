package harebus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
)

// patience is how long foreign code that decides about a failed message may take.
// It can hold up one worker for this long; then the message is parked without its
// decision.
const patience = 30 * time.Second

var errImpatient = fmt.Errorf("no answer within %v", patience)

// failure is the error of an attempt. The methods of a handler's error are foreign
// code: they may panic, hang, or unwrap in a circle. So they are called once, in a
// goroutine of their own, and after that only the stored text is used.
type failure struct {
	// err is the error itself, for foreign code to look at; nil when its methods
	// cannot be trusted.
	err error
	// text is what it says: valid UTF-8 of bounded length.
	text string

	rejected *RejectError
	hopeless bool // marked with NoRetry
	// asked is the pause that the error asks for with RetryAfter or Postpone.
	asked *askedError
	hold  *Hold
	// kind and types are what groups of failures are made of: see resend.Failure.
	kind, types string
}

// ErrorKind is the reason code of a rejected message, "panic", "timeout" or "error".
func (f *failure) ErrorKind() string {
	if f.rejected != nil {
		return f.rejected.Reason
	}
	return cmp.Or(f.kind, "error")
}

// ErrorTypes are the types of the error and of all that it wraps.
func (f *failure) ErrorTypes() string { return f.types }

// Error is the text, as it was read.
func (f *failure) Error() string { return f.text }

// Unwrap returns the error itself if its methods can be trusted.
func (f *failure) Unwrap() error { return f.err }

// withheld is the failure without its texts, which can quote a message.
func (f *failure) withheld() *failure {
	w := &failure{text: fmt.Sprintf("%T: %v", f.shown(), errConfidential), hopeless: f.hopeless, asked: f.asked, hold: f.hold, kind: f.kind, types: f.types}
	if f.rejected != nil {
		w.rejected = &RejectError{Reason: f.rejected.Reason, Err: errConfidential, curable: f.rejected.curable}
		w.text = w.rejected.Error()
	}
	return w
}

var errConfidential = errors.New("the message is confidential, so the text is withheld")

// shown is the error for the user's own functions.
func (f *failure) shown() error {
	if f.err != nil {
		return f.err
	}
	return f
}

// final says that no other attempt can end differently.
func (f *failure) final() bool {
	return f.hopeless || (f.rejected != nil && !f.rejected.curable)
}

// failed reads an error. One that has been read stays as it is.
func failed(ctx context.Context, err error) *failure {
	if f, ok := err.(*failure); ok { //nolint:errorlint // it is the outermost, or it is not read yet
		return f
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errImpatient)
	defer cancel()
	f, trouble := foreign.Apart(ctx, func() (*failure, error) { return readError(err), nil })
	if trouble != nil {
		return &failure{text: foreign.Unreadable(err, trouble)}
	}
	return f
}

func readError(err error) *failure {
	f := &failure{err: err}
	trouble := foreign.Call(func() error { f.text = header.ErrorDetails(err); return nil })
	if trouble != nil {
		f.text, f.err = foreign.Unreadable(err, trouble), nil
	}
	trouble = foreign.EachError(err, func(e error) bool {
		f.types += fmt.Sprintf("%T ", e)
		switch e := e.(type) { //nolint:errorlint // EachError unwraps
		case *RejectError:
			if f.rejected == nil {
				f.rejected = e
			}
		case *noRetryError:
			f.hopeless = true
		case *Hold:
			f.hold = e
		case *foreign.PanicError:
			f.kind = "panic"
		case *timeoutError:
			f.kind = "timeout"
		case *askedError:
			if f.asked == nil {
				f.asked = e
			}
		}
		return true
	})
	if trouble != nil {
		f.err = nil
	}
	return f
}

// rejection returns the RejectError in an error, or nil.
func rejection(err error) *RejectError {
	var rejected *RejectError
	_ = foreign.EachError(err, func(e error) bool { // an unreadable error is no RejectError
		r, ok := e.(*RejectError) //nolint:errorlint // EachError unwraps
		if ok {
			rejected = r
		}
		return !ok
	})
	return rejected
}
