package saga_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The messages of most tests, and the state of an order.
type (
	placed struct{ Order string }
	paid   struct {
		Order  string
		Amount int
	}
	late    struct{}
	shipped struct {
		Order  string
		Amount int
	}

	order struct {
		Paid  int
		Parts []int
	}
)

func (placed) MessageType() string  { return "Placed" }
func (paid) MessageType() string    { return "Paid" }
func (late) MessageType() string    { return "Late" }
func (shipped) MessageType() string { return "Shipped" }

var errNo = errors.New("no")

func placedKey(m placed) string { return m.Order }
func paidKey(m paid) string     { return m.Order }

// patience is how long an order waits for its payment.
const patience = 24 * time.Hour

// steps are those of an order that is shipped when 100 are paid, and cancelled when that takes
// too long.
func steps() []saga.Step[order] {
	return []saga.Step[order]{
		saga.Start(placedKey, func(ctx context.Context, o *saga.Instance[order], _ placed) error {
			return o.Timeout(ctx, patience, late{})
		}),
		saga.On(paidKey, pay),
		saga.OnTimeout(func(ctx context.Context, o *saga.Instance[order], _ late) error {
			o.Complete()
			return o.Send(ctx, "shop", shipped{o.Key, -o.State.Paid})
		}),
	}
}

func pay(ctx context.Context, o *saga.Instance[order], m paid) error {
	o.State.Paid += m.Amount
	o.State.Parts = append(o.State.Parts, m.Amount)
	if o.State.Paid < 100 {
		return nil
	}
	o.Complete()
	return o.Send(ctx, "shop", shipped{o.Key, o.State.Paid})
}

// orders registers the saga of orders.
func orders(setup *harebus.Setup, store saga.Store) error {
	return saga.Register(setup, saga.Config{Name: "order", Store: store}, steps()...)
}

// run runs the saga of orders.
func run(t *testing.T, test func(t *testing.T, s *sagatest.Service)) {
	t.Helper()
	t.Parallel()
	sagatest.Run(t, orders, test, "shop")
}

// bodies are those of the messages in a queue, sorted: instances do not wait for each other.
func bodies(s *sagatest.Service, queue string) string {
	var all []string
	for _, m := range s.Messages(queue) {
		all = append(all, string(m.Body))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// details are the reasons why messages were parked.
func details(s *sagatest.Service) string {
	var all []string
	for _, m := range s.Messages(sagatest.Parked) {
		text, _ := m.Headers["PikaBus.ErrorDetails"].(string)
		all = append(all, text)
	}
	return strings.Join(all, "\n")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not contain %q", text, part)
		}
	}
}

func state(s *sagatest.Service, key string) (o order, ok bool) {
	ok = s.State("order", key, &o)
	return o, ok
}
