package schedule

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestRehearse: the handler is called for each due time, in order, with the ids that the leader would give, and without a
// broker.
func TestRehearse(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.die() // there is no broker
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			t.Fatal(err)
		}
		sundays := errors.New("not on Sundays")
		err = i.Add("daily", "30 2 * * *", func(ctx context.Context, bus *harebus.Bus, due Due) error {
			if due.At.Weekday() == time.Sunday {
				return sundays
			}
			return errors.Join(i.note(ctx, bus, due), bus.Send(ctx, "billing", command{"Bill"}))
		}, In(berlin), Overlap(Skip))
		if err != nil {
			t.Fatal(err)
		}
		from := time.Date(2026, time.March, 1, 0, 0, 0, 0, berlin)
		all, err := i.Rehearse(t.Context(), "daily", from, from.AddDate(0, 1, 0))
		if err != nil || len(all) != 31 {
			t.Fatalf("%d runs, %v; want 31", len(all), err)
		}
		for day, one := range all {
			sunday := day%7 == 0 // the first of March is one
			if sunday != errors.Is(one.Err, sundays) || !sunday && (len(one.Sent) != 1 || one.Sent[0].RoutingKey != "billing") {
				t.Errorf("day %d: error %v, sent %v", day+1, one.Err, one.Sent)
			}
		}
		if len(r.runs) != 26 {
			t.Errorf("%d runs were noted", len(r.runs))
		}
		d := i.leader.definitions["daily"]
		if first := r.runs[0]; first.id != d.id(first.At) || !first.Previous.Equal(first.At.AddDate(0, 0, -1)) {
			t.Errorf("the first run: %+v", first)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := i.Rehearse(ended, "daily", from, from.AddDate(1, 0, 0)); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end of the context: %v", err)
		}
		if _, err := i.Rehearse(t.Context(), "dayly", from, from); err == nil || !strings.Contains(err.Error(), `no schedule "dayly"`) {
			t.Errorf("of none: %v", err)
		}
	})
}
