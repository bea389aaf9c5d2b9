package errorqueue_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/harebus/harebus/errorqueue"
)

// TestRetryOfMany: a queue that needs several consumers loses nothing on the way from one to the next. Nobody holds more
// than one of them may, before the rest is looked at: RabbitMQ searches all that a channel holds for each
// acknowledgement, and the client keeps in memory what comes before it is handled.
func TestRetryOfMany(t *testing.T) {
	const all, most = 16_400, 5000
	bubble(t, func(x *bench) {
		x.park(0, all)
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{}).Messages
			var odd []errorqueue.Message
			for i := 1; i < all; i += 2 {
				odd = append(odd, found[i])
			}
			held := 0
			report, err := q.Retry(x.Context(), odd, errorqueue.Options{Rate: -1, Progress: func(_, _, _ int) {
				if state, _ := x.broker.Queue("error"); held == 0 {
					held = state.Unacked
				}
			}})
			x.reports(report, err, "done 8200, left 0, gone 0, remaining 0, twice 0")
			if held == 0 || held > most {
				x.Errorf("after the first step %d messages are held", held)
			}
		})
		for queue, first := range map[string]int{"error": 0, "orders": 1} {
			want := make([]string, 0, all/2)
			for i := first; i < all; i += 2 {
				want = append(want, strconv.Itoa(i))
			}
			if got := strings.Fields(x.ids(queue)); !slices.Equal(got, want) {
				x.Errorf("queue %q has %d messages, or in another order", queue, len(got))
			}
		}
	})
}
