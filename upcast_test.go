package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/contract"
)

// Three versions of one command.
type (
	shipV1 struct{ Order int }
	shipV2 struct{ Orders []int }
	shipV3 struct {
		Orders []int
		Fast   bool
	}
)

func (shipV1) MessageType() string { return "Ship" }
func (shipV2) MessageType() string { return "Ship.v2" }
func (shipV3) MessageType() string { return "Ship.v3" }

func toV2(_ context.Context, old shipV1) (shipV2, error) { return shipV2{[]int{old.Order}}, nil }
func toV3(_ context.Context, old shipV2) (shipV3, error) { return shipV3{Orders: old.Orders}, nil }

// TestUpcast: a message of each older version reaches the handler of the newest, which sees how it came.
func TestUpcast(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("shipping"))
		got := make(chan string, 3)
		harebus.Upcast(s, toV2)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, m shipV3) error {
			got <- fmt.Sprintf("%v %s", m, harebus.Incoming(ctx).Type)
			return nil
		})
		harebus.Upcast(s, toV3)
		r.start(s)
		for want, message := range map[string]any{"{[1] false} Ship": shipV1{1}, "{[2 3] false} Ship.v2": shipV2{[]int{2, 3}}, "{[4] true} Ship.v3": shipV3{[]int{4}, true}} {
			if err := s.Bus().Send(r.ctx, "shipping", message); err != nil {
				t.Fatal(err)
			}
			if text := receive(r, got); text != want {
				t.Errorf("%T: %s, want %s", message, text, want)
			}
		}
		done, err := s.Invoke(r.ctx, shipV1{9})
		if err != nil || done.Err != nil || receive(r, got) != "{[9] false} Ship" {
			t.Errorf("invoke: %v, %+v", err, done)
		}
	})
}

// TestUpcastAcrossADeployment: a message fails in a service that knows only the old version, after it has sent something, and
// is handled by one that upcasts. What both send has the same id.
func TestUpcastAcrossADeployment(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "next")
		before := r.setup(r.config("shipping"))
		harebus.Handle(before, func(ctx context.Context, bus *harebus.Bus, m shipV1) error {
			if err := bus.Send(ctx, "next", order{m.Order}, harebus.Immediately()); err != nil {
				return err
			}
			return errors.New("the printer is on fire")
		})
		r.start(before)
		if err := before.Bus().Send(r.ctx, "shipping", shipV1{7}); err != nil {
			t.Fatal(err)
		}
		r.await("next", 1)
		if err := before.Close(); err != nil {
			t.Fatal(err)
		}
		after := r.setup(r.config("shipping"))
		harebus.Upcast(after, toV2)
		harebus.Handle(after, func(ctx context.Context, bus *harebus.Bus, m shipV2) error {
			return bus.Send(ctx, "next", order{m.Orders[0]})
		})
		r.start(after)
		sent := r.await("next", 2)
		if sent[0].MessageId == "" || sent[0].MessageId != sent[1].MessageId {
			t.Errorf("ids %q and %q", sent[0].MessageId, sent[1].MessageId)
		}
	})
}

// TestUpcastTakesTheOptions: retries and timeout are those of the handler at the end of the chain.
func TestUpcastTakesTheOptions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("shipping"))
		harebus.Upcast(s, toV2)
		harebus.Upcast(s, toV3)
		left := make(chan time.Duration, 1)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ shipV3) error {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			return errors.New("no")
		}, harebus.WithTimeout(time.Second), harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1}))
		r.start(s)
		if err := s.Bus().Send(r.ctx, "shipping", shipV1{1}); err != nil {
			t.Fatal(err)
		}
		if got := receive(r, left); got != time.Second {
			t.Errorf("timeout %v", got)
		}
		parked := r.await("error", 1)
		if got := parked[0].Headers["PikaBus.ErrorRetries"]; fmt.Sprint(got) != "1" {
			t.Errorf("parked after %v failures", got)
		}
	})
}

// TestUpcastThatFails: an error of the conversion is that of a handler.
func TestUpcastThatFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("shipping"))
		harebus.Upcast(s, func(context.Context, shipV1) (shipV2, error) {
			return shipV2{}, harebus.NoRetry(errors.New("an order without a number"))
		})
		harebus.Handle(s, func(context.Context, *harebus.Bus, shipV2) error { return nil })
		r.start(s)
		if err := s.Bus().Send(r.ctx, "shipping", shipV1{}); err != nil {
			t.Fatal(err)
		}
		parked := r.await("error", 1)
		contains(t, fmt.Sprint(parked[0].Headers["PikaBus.ErrorDetails"]), "an order without a number")
	})
}

// bookedV1 is an older version of an event; bookedV2 knows when it is not valid.
type (
	bookedV1 struct{ Seat int }
	bookedV2 struct{ Seats []int }
)

func (bookedV1) MessageType() string { return "Booked" }
func (bookedV1) Topic() string       { return "seat.booked" }
func (bookedV2) MessageType() string { return "Booked.v2" }
func (bookedV2) Topic() string       { return "seats.booked" }
func (b *bookedV2) Validate() error {
	if len(b.Seats) == 0 || b.Seats[0] == 0 {
		return errors.New("no seats")
	}
	return nil
}

// TestUpcastOfAnEvent: the topic of the older event is bound, and stands in the contract; what the conversion makes is validated.
func TestUpcastOfAnEvent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("hall"))
		got := make(chan bookedV2, 2)
		harebus.Upcast(s, func(_ context.Context, old bookedV1) (bookedV2, error) { return bookedV2{[]int{old.Seat}}, nil })
		harebus.HandleEvent(s, heard(got))
		r.start(s)
		for _, event := range []bookedV1{{0}, {7}} {
			if err := s.Bus().PublishEvent(r.ctx, event); err != nil {
				t.Fatal(err)
			}
		}
		if b := receive(r, got); b.Seats[0] != 7 {
			t.Errorf("%+v", b)
		}
		contains(t, fmt.Sprint(r.await("error", 1)[0].Headers["PikaBus.ErrorDetails"]), "bad-payload: validate *harebus_test.bookedV2: no seats")
		of, err := s.Contract()
		if err != nil || len(of.Receives) != 2 || of.Receives[0].Topic != "seat.booked" || of.Receives[1].Topic != "seats.booked" {
			t.Errorf("%+v, %v", of.Receives, err)
		}
	})
}

// TestUpcastValidatesPointers: likewise if the handler takes a pointer.
func TestUpcastValidatesPointers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("hall"))
		harebus.Upcast(s, func(context.Context, shipV1) (*bookedV2, error) { return &bookedV2{}, nil })
		harebus.Handle(s, func(context.Context, *harebus.Bus, *bookedV2) error { return nil })
		r.start(s)
		if err := s.Bus().Send(r.ctx, "hall", shipV1{}); err != nil {
			t.Fatal(err)
		}
		contains(t, fmt.Sprint(r.await("error", 1)[0].Headers["PikaBus.ErrorDetails"]), "no seats")
	})
}

type nameless struct{}

// TestUpcastFaults: Start refuses upcasts that lead to no handler.
func TestUpcastFaults(t *testing.T) {
	t.Parallel()
	end := func(context.Context, *harebus.Bus, shipV3) error { return nil }
	for name, row := range map[string]struct {
		register func(s *harebus.Setup)
		want     string
	}{
		"no end": {func(s *harebus.Setup) { harebus.Upcast(s, toV2); harebus.Upcast(s, toV3) },
			`upcast of "Ship": there is no handler of "Ship.v3" that takes a harebus_test.shipV3; register one with Handle`},
		"an undecoded end": {func(s *harebus.Setup) {
			harebus.Upcast(s, toV3)
			s.HandleMessage("Ship.v3", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		}, `there is no handler of "Ship.v3" that takes`},
		"another Go type": {func(s *harebus.Setup) {
			harebus.Upcast(s, toV3)
			harebus.Handle(s, func(context.Context, *harebus.Bus, *shipV3) error { return nil })
		}, `that takes a harebus_test.shipV3`},
		"a circle": {func(s *harebus.Setup) {
			harebus.Upcast(s, toV2)
			harebus.Upcast(s, func(context.Context, shipV2) (shipV1, error) { return shipV1{}, nil })
		}, `upcast of "Ship": it leads in a circle`},
		"to itself": {func(s *harebus.Setup) {
			harebus.Upcast(s, func(_ context.Context, m shipV1) (shipV1, error) { return m, nil })
		}, `upcast of "Ship": it leads in a circle over "Ship"`},
		"nil": {func(s *harebus.Setup) { harebus.Handle(s, end); harebus.Upcast[shipV2, shipV3](s, nil) }, "convert is nil"},
		"a new type without a name": {func(s *harebus.Setup) {
			harebus.Upcast(s, func(context.Context, shipV1) (nameless, error) { return nameless{}, nil })
		}, "the type has no wire name"},
		"an old type without a name": {func(s *harebus.Setup) {
			harebus.Handle(s, end)
			harebus.Upcast(s, func(context.Context, nameless) (shipV3, error) { return shipV3{}, nil })
		}, "the type has no wire name"},
		"two for one": {func(s *harebus.Setup) { harebus.Handle(s, end); harebus.Upcast(s, toV3); harebus.Upcast(s, toV3) }, "there is one already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := harebus.New(harebus.Config{Queue: "shipping", Dial: brokertest.New().Dial})
			if err != nil {
				t.Fatal(err)
			}
			row.register(s)
			err = s.Start(t.Context())
			if err == nil {
				t.Fatal("Start returned nil")
			}
			contains(t, err.Error(), row.want)
			_, err = s.Contract()
			if err == nil {
				t.Fatal("Contract returned nil")
			}
			contains(t, err.Error(), row.want)
		})
	}
}

// TestUpcastAfterStart: one that leads nowhere is reported by Ready and is not used, not even by a later one of the same
// type; one that leads to a handler is used.
func TestUpcastAfterStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("shipping")
		cfg.Handling.Unhandled = harebus.UnhandledPark
		s := r.setup(cfg)
		got := make(chan shipV3, 1)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, m shipV3) error { got <- m; return nil })
		r.start(s)
		harebus.Upcast(s, toV3)
		if err := s.Bus().Send(r.ctx, "shipping", shipV2{[]int{1}}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		harebus.Upcast(s, func(_ context.Context, m shipV1) (order, error) { return order{m.Order}, nil })
		err := s.Ready()
		if err == nil {
			t.Fatal("Ready returned nil")
		}
		contains(t, err.Error(), `upcast of "Ship": there is no handler of "Order"`)
		if err := s.Bus().Send(r.ctx, "shipping", shipV1{2}); err != nil {
			t.Fatal(err)
		}
		contains(t, r.details(), `no handler for messages of type "Ship"`)
		if service, _ := s.Contract(); len(service.Receives) != 2 {
			t.Errorf("%+v", service.Receives)
		}
		harebus.Upcast(s, toV2)
		if err := s.Bus().Send(r.ctx, "shipping", shipV1{3}); err != nil {
			t.Fatal(err)
		}
		if m := receive(r, got); m.Orders[0] != 3 {
			t.Errorf("%+v", m)
		}
	})
}

// TestContract: handlers, subscriptions and declarations of all endpoints, with the codecs of their types.
func TestContract(t *testing.T) {
	t.Parallel()
	s, err := harebus.New(harebus.Config{
		Queue: "shipping", Subscriptions: []string{"stock.*"}, Exchanges: harebus.ExchangeConfig{Topic: "events"},
		Payload: harebus.PayloadConfig{HeaderPrefix: "Bus.", TypeCodecs: map[string]harebus.Codec{"Raw": harebus.Bytes{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ignore := func(context.Context, *harebus.Bus, *harebus.Message) error { return nil }
	harebus.HandleEvent(s, func(context.Context, *harebus.Bus, placed) error { return nil })
	s.HandleMessage("Raw", ignore)
	s.HandleMessage(harebus.NoType, ignore)
	s.HandleMessage(harebus.AnyType, ignore)
	one, err := s.Endpoint(harebus.EndpointConfig{Queue: "caches", QueueOptions: harebus.QueueOptions{PerInstance: true}})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(one, func(context.Context, *harebus.Bus, *order) error { return nil })
	harebus.Sends[order](one, "orders")
	harebus.Publishes[*paid](s, "")
	harebus.Publishes[order](s, "order.taken")
	const media = "application/json"
	want := contract.Service{
		Direct: "PikaBusDirect", Topic: "events", HeaderPrefix: "Bus.",
		Queues: []contract.Queue{{Name: "shipping", Topics: []string{"stock.*", "order.placed"}}, {Name: "caches", PerInstance: true, Topics: nil}},
		Receives: []contract.Message{
			{Type: "Placed", Value: reflect.TypeFor[placed](), ContentType: media, Queue: "shipping", Topic: "order.placed"},
			{Type: "Raw", ContentType: "application/octet-stream", Queue: "shipping"},
			{Type: "Order", Value: reflect.TypeFor[*order](), ContentType: media, Queue: "caches"},
		},
		Sends: []contract.Message{
			{Type: "Paid", Value: reflect.TypeFor[*paid](), ContentType: media, Topic: "order.paid"},
			{Type: "Order", Value: reflect.TypeFor[order](), ContentType: media, Topic: "order.taken"},
			{Type: "Order", Value: reflect.TypeFor[order](), ContentType: media, Queue: "orders"},
		},
	}
	if got, err := s.Contract(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, got, want)
	}
}
