package answers_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/answers"
	"github.com/harebus/harebus/brokertest"
)

// Book asks for a seat; Booked and Full are the answers.
type (
	Book   struct{ Seat string }
	Booked struct{ Ticket int }
	Full   struct{ Next string }
)

func (Book) MessageType() string   { return "Book" }
func (Booked) MessageType() string { return "Booked" }
func (Full) MessageType() string   { return "Full" }

// A request has one of two answers, and a command asks for the acknowledgement that it was handled.
func Example() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{
		Queue: "seats", Dial: broker.Dial,
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{answers.Acknowledge}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, b Book) error {
		switch b.Seat {
		case "12A":
			return bus.Reply(ctx, Full{Next: "14C"})
		case "14C":
			return bus.Reply(ctx, Booked{Ticket: 7})
		}
		return nil // a command that nobody waits for
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	seats := answers.Of(Booked{}, Full{})
	for _, seat := range []string{"12A", "14C"} {
		answer, err := seats.Request(ctx, setup.Bus(), "seats", Book{seat})
		if err != nil {
			log.Fatal(err)
		}
		switch a := answer.(type) {
		case Booked:
			fmt.Println("booked", seat, "with ticket", a.Ticket)
		case Full:
			fmt.Println(seat, "is taken; next is", a.Next)
		}
	}
	handled, err := harebus.Request[answers.Handled](ctx, setup.Bus(), "seats", Book{"any"}, answers.WhenHandled())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", handled.Type)
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 12A is taken; next is 14C
	// booked 14C with ticket 7
	// handled: Book
}
