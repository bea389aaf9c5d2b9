package answers_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/answers"
	"github.com/harebus/harebus/brokertest"
)

type (
	reserve  struct{ Amount int }
	reserved struct{ ID string }
	soldOut  struct{ Left int }
	other    struct{}
)

func (reserve) MessageType() string  { return "Reserve" }
func (reserved) MessageType() string { return "Reserved" }
func (*soldOut) MessageType() string { return "SoldOut" }
func (other) MessageType() string    { return "Other" }

// rig is a broker in a bubble of time, and a service for stock on it.
type rig struct {
	t      *testing.T
	ctx    context.Context
	broker *brokertest.Broker
}

func bubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		t.Cleanup(b.Close)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		t.Cleanup(cancel)
		test(&rig{t, ctx, b})
	})
}

// service starts a service with a handler of Reserve.
func (r *rig) service(queue string, fn func(ctx context.Context, bus *harebus.Bus, m reserve) error, middleware ...harebus.Middleware) *harebus.Setup {
	r.t.Helper()
	s, err := harebus.New(harebus.Config{Queue: queue, Dial: r.broker.Dial, Handling: harebus.HandlingConfig{Middleware: middleware}})
	if err != nil {
		r.t.Fatal(err)
	}
	harebus.Handle(s, fn)
	if err := s.Start(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return s
}

var stock = answers.Of(reserved{}, &soldOut{})

// TestOneOf: each of the types is returned as it was given, and others are errors that have the reply.
func TestOneOf(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.service("stock", func(ctx context.Context, bus *harebus.Bus, m reserve) error {
			switch m.Amount {
			case 1:
				return bus.Reply(ctx, reserved{"r1"})
			case 2:
				return bus.Reply(ctx, &soldOut{7})
			case 3:
				return bus.Reply(ctx, other{})
			case 4:
				return bus.Reply(ctx, []int{1}, harebus.WithType("Reserved"))
			case 5:
				return bus.Reply(ctx, reserved{}, harebus.WithType(harebus.NoType))
			}
			return harebus.NoRetry(errors.New("the shelf fell over"))
		})
		ask := func(n int) (any, error) { return stock.Request(r.ctx, s.Bus(), "stock", reserve{n}) }
		if got, err := ask(1); err != nil || got != (reserved{"r1"}) {
			r.t.Errorf("%#v, %v", got, err)
		}
		got, err := ask(2)
		if sold, ok := got.(*soldOut); err != nil || !ok || sold.Left != 7 {
			r.t.Errorf("%#v, %v", got, err)
		}
		var failed *harebus.RequestError
		if got, err := ask(3); got != nil || !errors.Is(err, harebus.ErrUnexpectedReply) || !errors.As(err, &failed) || failed.Reply.Type != "Other" || failed.MessageID == "" {
			r.t.Errorf("%#v, %v", got, err)
		}
		var rejected *harebus.RejectError
		if got, err := ask(4); got != nil || !errors.As(err, &rejected) || rejected.Reason != "bad-payload" {
			r.t.Errorf("%#v, %v", got, err)
		}
		if got, err := ask(5); got != nil || !errors.Is(err, harebus.ErrUnexpectedReply) {
			r.t.Errorf("%#v, %v", got, err)
		}
		var fault *harebus.FaultError
		if got, err := ask(6); got != nil || !errors.As(err, &fault) || !strings.Contains(fault.Details, "the shelf fell over") {
			r.t.Errorf("%#v, %v", got, err)
		}
	})
}

// TestOneOfFaults: types without a name are refused before anything is sent.
func TestOneOfFaults(t *testing.T) {
	t.Parallel()
	for want, types := range map[string]answers.Types{
		"there are no types": answers.Of(), "a string has no method MessageType": answers.Of("x"), "a *answers_test.soldOut has no": answers.Of((*soldOut)(nil)),
		`two types have the wire name "Reserved"`: answers.Of(reserved{}, &reserved{}), "a <nil> has no": answers.Of(nil),
	} {
		if _, err := types.Request(t.Context(), nil, "stock", reserve{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestWhenHandled: the acknowledgement comes when the command is handled, not when it fails, and once for each command that asks.
func TestWhenHandled(t *testing.T) {
	bubble(t, func(r *rig) {
		r.service("stock", func(ctx context.Context, _ *harebus.Bus, m reserve) error {
			if m.Amount == 1 && harebus.Incoming(ctx).Attempt == 1 {
				return errors.New("not yet")
			}
			if m.Amount == 2 {
				return harebus.NoRetry(errors.New("never"))
			}
			return nil
		}, answers.Acknowledge)
		told := make(chan string, 9)
		shop := r.service("shop", func(context.Context, *harebus.Bus, reserve) error { return nil })
		harebus.Handle(shop, func(ctx context.Context, _ *harebus.Bus, m answers.Handled) error {
			told <- m.MessageID + " " + m.Type + " " + harebus.Incoming(ctx).CorrelationID
			return nil
		})
		for i, id := range []string{"zero", "one", "two", "three"} {
			opts := []harebus.SendOption{harebus.WithMessageID(id), harebus.WithCorrelationID("c-" + id), answers.WhenHandled()}
			if id == "three" {
				opts = opts[:2]
			}
			if err := shop.Bus().Send(r.ctx, "stock", reserve{i}, opts...); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := r.broker.WaitQuiet(r.ctx, "error"); err != nil {
			r.t.Fatal(err)
		}
		close(told)
		var all []string
		for one := range told {
			all = append(all, one)
		}
		if got := strings.Join(all, ", "); got != "zero Reserve c-zero, one Reserve c-one" {
			r.t.Errorf("told of %s", got)
		}
	})
}

// TestWhenHandledAsRequest: a request waits for the handling, and a sender that has gone harms nobody.
func TestWhenHandledAsRequest(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.service("stock", func(context.Context, *harebus.Bus, reserve) error { return nil }, answers.Acknowledge)
		done, err := harebus.Request[answers.Handled](r.ctx, s.Bus(), "stock", reserve{1}, harebus.WithMessageID("m"), answers.WhenHandled())
		if err != nil || done != (answers.Handled{MessageID: "m", Type: "Reserve"}) {
			r.t.Errorf("%+v, %v", done, err)
		}
		if err := s.Bus().Send(r.ctx, "stock", reserve{1}, harebus.WithReplyTo("gone"), answers.WhenHandled()); err != nil {
			r.t.Fatal(err)
		}
		if err := r.broker.WaitQuiet(r.ctx); err != nil { // also the error queue is empty
			r.t.Error(err)
		}
	})
}

// TestWhenHandledWithoutAddress: a command that asks for an acknowledgement and has no address for it is parked unhandled, with the remedy.
func TestWhenHandledWithoutAddress(t *testing.T) {
	bubble(t, func(r *rig) {
		s := r.service("stock", func(context.Context, *harebus.Bus, reserve) error { r.t.Error("it was handled"); return nil }, answers.Acknowledge)
		sender, err := harebus.New(harebus.Config{Dial: r.broker.Dial})
		if err != nil {
			r.t.Fatal(err)
		}
		defer func() { _ = sender.Close() }()
		if err := sender.Bus().Send(r.ctx, "stock", reserve{1}, answers.WhenHandled()); err != nil {
			r.t.Fatal(err)
		}
		if err := r.broker.WaitQuiet(r.ctx, "error"); err != nil {
			r.t.Fatal(err)
		}
		parked := r.broker.Messages("error")
		if len(parked) != 1 || s.Stats().Parked != 1 {
			r.t.Fatalf("%d parked", len(parked))
		}
		if text, _ := parked[0].Headers["PikaBus.ErrorDetails"].(string); !strings.Contains(text, "must pass WithReplyTo") {
			r.t.Error(text)
		}
	})
}
