package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

func TestOutcomeStrings(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[harebus.Outcome]string{
		harebus.NotSent: "not sent", harebus.Confirmed: "confirmed", harebus.Returned: "returned", harebus.Nacked: "nacked",
		harebus.Unknown: "unknown", 77: "not sent",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("%d is %q", outcome, got)
		}
	}
}

func TestPublishError(t *testing.T) {
	t.Parallel()
	sentinels := []error{harebus.ErrUnroutable, harebus.ErrNacked, harebus.ErrUnknownOutcome, harebus.ErrNotSent}
	for outcome, want := range map[harebus.Outcome]error{
		harebus.Returned: harebus.ErrUnroutable, harebus.Nacked: harebus.ErrNacked, harebus.Unknown: harebus.ErrUnknownOutcome, harebus.NotSent: harebus.ErrNotSent,
	} {
		plain := &harebus.PublishError{MessageID: "m", Exchange: "x", RoutingKey: "k", Outcome: outcome}
		caused := fmt.Errorf("outer: %w", &harebus.PublishError{Outcome: outcome, Err: context.DeadlineExceeded})
		for _, sentinel := range sentinels {
			if errors.Is(plain, sentinel) != (sentinel == want) || errors.Is(caused, sentinel) != (sentinel == want) {
				t.Errorf("%v matches %v: %v", outcome, sentinel, errors.Is(plain, sentinel))
			}
		}
		if !errors.Is(caused, context.DeadlineExceeded) || errors.Is(plain, context.DeadlineExceeded) {
			t.Errorf("%v: the cause is lost or invented", outcome)
		}
		var typed *harebus.PublishError
		if !errors.As(caused, &typed) || typed.Outcome != outcome {
			t.Errorf("%v: errors.As found %v", outcome, typed)
		}
		contains(t, plain.Error(), `harebus: publish message "m"`, `"x"`, `"k"`, want.Error())
		contains(t, caused.Error(), context.DeadlineExceeded.Error())
	}
}

func TestTransactionError(t *testing.T) {
	t.Parallel()
	failed := &harebus.PublishError{MessageID: "2", Outcome: harebus.Returned}
	nacked := &harebus.PublishError{MessageID: "4", Outcome: harebus.Nacked, Err: io.EOF}
	err := error(&harebus.TransactionError{Messages: []harebus.MessageOutcome{
		{MessageID: "1", Outcome: harebus.Confirmed}, {MessageID: "2", Outcome: harebus.Returned, Err: failed},
		{MessageID: "3", Outcome: harebus.Confirmed}, {MessageID: "4", Outcome: harebus.Nacked, Err: nacked},
	}})
	contains(t, err.Error(), "harebus: commit transaction of 4 messages", "2 confirmed, 1 returned, 1 nacked", failed.Error())
	if !errors.Is(err, harebus.ErrUnroutable) || !errors.Is(err, harebus.ErrNacked) || !errors.Is(err, io.EOF) || errors.Is(err, harebus.ErrUnknownOutcome) {
		t.Errorf("errors.Is is wrong about %v", err)
	}
	var typed *harebus.TransactionError
	if !errors.As(fmt.Errorf("x: %w", err), &typed) {
		t.Fatal("errors.As does not find it")
	}
	if got := typed.With(harebus.Confirmed); len(got) != 2 || got[0].MessageID != "1" || got[1].MessageID != "3" {
		t.Errorf("confirmed: %v", got)
	}
	if got := typed.With(harebus.Unknown); len(got) != 0 {
		t.Errorf("unknown: %v", got)
	}
}

func TestErrorMarks(t *testing.T) {
	t.Parallel()
	if harebus.NoRetry(nil) != nil || harebus.RetryAfter(time.Second, nil) != nil {
		t.Error("a mark on nothing must be nothing")
	}
	for _, err := range []error{harebus.NoRetry(io.EOF), harebus.RetryAfter(time.Second, io.EOF)} {
		if !errors.Is(err, io.EOF) || err.Error() != "EOF" {
			t.Errorf("the mark hides %v", err)
		}
	}
	p := &harebus.PanicError{Value: io.EOF, Stack: []byte("stack")}
	if !errors.Is(p, io.EOF) || errors.Is(&harebus.PanicError{Value: "EOF"}, io.EOF) {
		t.Error("a panic with an error must match it, and only that")
	}
	contains(t, p.Error(), "panic: EOF", "stack")
	reject := &harebus.RejectError{Reason: "bad-time", Err: io.EOF}
	if !errors.Is(reject, io.EOF) || reject.Error() != "bad-time: EOF" {
		t.Errorf("got %v", reject)
	}
}
