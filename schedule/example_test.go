package schedule_test

import (
	"context"
	"fmt"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/schedule"
)

// A schedule whose runs are counted until there were two of them.
func Example() {
	broker := brokertest.New() // in place of RabbitMQ
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	schedules, err := schedule.New(setup, schedule.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	runs := 0
	err = schedules.Add("cleanup", "@every 1s", func(_ context.Context, _ *harebus.Bus, due schedule.Due) error {
		if runs++; runs == 2 {
			fmt.Println("the second run is due after", due.At.Sub(due.Previous))
			stop()
		}
		return nil
	}, schedule.Overlap(schedule.Skip))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := setup.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: the second run is due after 1s
}

// A month of a daily job, in a unit test.
func ExampleSchedules_Rehearse() {
	setup, err := harebus.New(harebus.Config{Queue: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	schedules, err := schedule.New(setup, schedule.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = schedules.Add("invoices", "0 3 * * 1-5", func(ctx context.Context, bus *harebus.Bus, due schedule.Due) error {
		return bus.Send(ctx, "invoices", PlaceOrder{ID: due.At.Day()})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	march := time.Date(2026, time.March, 1, 0, 0, 0, 0, time.UTC)
	runs, err := schedules.Rehearse(context.Background(), "invoices", march, march.AddDate(0, 1, 0))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d runs, the first sends %s to %s\n", len(runs), runs[0].Sent[0].Body, runs[0].Sent[0].RoutingKey)
	// Output: 22 runs, the first sends {"ID":2} to invoices
}

// PlaceOrder is a command.
type PlaceOrder struct{ ID int }

// MessageType is its name on the wire.
func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// What cannot be is refused, with the reason.
func ExampleSchedules_Add() {
	setup, err := harebus.New(harebus.Config{Queue: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	schedules, err := schedule.New(setup, schedule.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	handle := func(context.Context, *harebus.Bus, schedule.Due) error { return nil }
	fmt.Println(schedules.Add("nightly", "0 25 * * *", handle))
	fmt.Println(schedules.Add("leap", "0 0 30 2 *", handle))
	// Output:
	// schedule: add "nightly": expression "0 25 * * *": the field hour, "25": end of range (25) above maximum (23): "25"
	// schedule: add "leap": expression "0 0 30 2 *": it never comes due: no month has such a day
}
