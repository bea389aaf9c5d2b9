package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/saga/sagatest"
)

// What follows is the code of docs/sagas.md about tests.

func TestTrip(t *testing.T) {
	sagatest.Run(t, registerTrips, func(t *testing.T, s *sagatest.Service) {
		s.Send(BookTrip{"7"}, BookTrip{"8"})
		s.Send(Booked{"7", "flight"}, Booked{"8", "flight"})
		s.Send(Booked{"7", "hotel"}, Booked{"8", "hotel"})
		s.Send(Booked{"7", "car"})

		s.After(time.Hour) // of virtual time: no answer about the car of trip 8

		var trip Trip
		if s.State("trip", "8", &trip) {
			t.Errorf("the trip goes on: %+v", trip)
		}
		var last []string
		for _, m := range s.Messages("bookings") {
			if m.Type == "Cancel" {
				last = append(last, string(m.Body))
			}
		}
		const want = `{"Trip":"8","Part":"car"} {"Trip":"8","Part":"hotel"} {"Trip":"8","Part":"flight"}`
		if got := strings.Join(last, " "); got != want {
			t.Errorf("cancelled %s, want %s", got, want)
		}
	}, "bookings")
}
