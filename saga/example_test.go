package saga_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

// BookTrip starts the saga, and Booked and Refused are the answers of the other services.
type (
	BookTrip struct{ Trip string }
	Booked   struct{ Trip, Part string }
	Refused  struct{ Trip, Part string }
	TooLong  struct{}
)

func (BookTrip) MessageType() string { return "BookTrip" }
func (Booked) MessageType() string   { return "Booked" }
func (Refused) MessageType() string  { return "Refused" }
func (TooLong) MessageType() string  { return "TooLong" }

// Book and Cancel are commands to the services.
type (
	Book   struct{ Trip, Part string }
	Cancel struct{ Trip, Part string }
)

func (Book) MessageType() string   { return "Book" }
func (Cancel) MessageType() string { return "Cancel" }

// Trip is the state: what has been booked so far, in order.
type Trip struct{ Booked []string }

// parts of a trip, in the order in which they are booked.
var parts = []string{"flight", "hotel", "car"}

// next books the part after those that are booked, or completes the trip.
func next(ctx context.Context, t *saga.Instance[Trip]) error {
	if len(t.State.Booked) == len(parts) {
		t.Complete()
		return nil
	}
	return t.Send(ctx, "bookings", Book{t.Key, parts[len(t.State.Booked)]})
}

// compensate cancels the first parts of the trip, in reverse order: a loop is enough for that.
func compensate(ctx context.Context, t *saga.Instance[Trip], parts []string) error {
	t.Complete()
	for _, part := range slices.Backward(parts) {
		if err := t.Send(ctx, "bookings", Cancel{t.Key, part}); err != nil {
			return err
		}
	}
	return nil
}

func registerTrips(setup *harebus.Setup, store saga.Store) error {
	return saga.Register(setup, saga.Config{Name: "trip", Store: store},
		saga.Start(func(m BookTrip) string { return m.Trip }, func(ctx context.Context, t *saga.Instance[Trip], _ BookTrip) error {
			if !t.New {
				return nil
			}
			return errors.Join(t.Timeout(ctx, time.Hour, TooLong{}), next(ctx, t))
		}),
		saga.On(func(m Booked) string { return m.Trip }, func(ctx context.Context, t *saga.Instance[Trip], m Booked) error {
			t.State.Booked = append(t.State.Booked, m.Part)
			return next(ctx, t)
		}),
		saga.On(func(m Refused) string { return m.Trip }, func(ctx context.Context, t *saga.Instance[Trip], _ Refused) error {
			return compensate(ctx, t, t.State.Booked)
		}),
		saga.OnTimeout(func(ctx context.Context, t *saga.Instance[Trip], _ TooLong) error {
			// The part that was asked for last may still be booked, and the answer would come
			// too late. So it is cancelled, too.
			return compensate(ctx, t, parts[:len(t.State.Booked)+1])
		}))
}

// A trip needs a flight, a hotel and a car. There is no car, so the hotel and the flight are
// cancelled, in reverse order. Here everything runs in one process, with a store in memory; a
// service uses saga.SQL and an outbox.
func Example_compensation() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	broker := brokertest.New()
	defer broker.Close()

	// The service that books and cancels. It has no cars.
	bookings, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "bookings", Consume: harebus.ConsumeConfig{Concurrency: 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bookings.Close()
	cancelled := make(chan string)
	harebus.Handle(bookings, func(ctx context.Context, bus *harebus.Bus, m Book) error {
		fmt.Println("book the", m.Part)
		if m.Part == "car" {
			return bus.Reply(ctx, Refused(m))
		}
		return bus.Reply(ctx, Booked(m))
	})
	harebus.Handle(bookings, func(_ context.Context, _ *harebus.Bus, m Cancel) error {
		cancelled <- m.Part
		return nil
	})

	// The service with the saga.
	store := sagatest.NewStore()
	trips, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "trips", Handling: harebus.HandlingConfig{Transactor: store}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer trips.Close()
	if err := errors.Join(registerTrips(trips, store), bookings.Start(ctx), trips.Start(ctx)); err != nil {
		fmt.Println(err)
		return
	}
	if err := trips.Bus().Send(ctx, "trips", BookTrip{"7"}); err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		fmt.Println("cancel the", <-cancelled)
	}

	// Output:
	// book the flight
	// book the hotel
	// book the car
	// cancel the hotel
	// cancel the flight
}
