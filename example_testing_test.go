package harebus_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// What follows is the code of docs/testing.md, which quotes it.

// OrderService is the service under test. Stock is what it depends on.
type OrderService struct {
	Stock func(ctx context.Context, order int) error
}

// Place handles PlaceOrder.
func (s *OrderService) Place(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
	if err := s.Stock(ctx, cmd.ID); err != nil {
		return err
	}
	return bus.Publish(ctx, "order.placed", OrderPlaced(cmd), harebus.NonMandatory())
}

// Setup is what main and the tests share: everything but the broker.
func (s *OrderService) Setup(cfg harebus.Config) (*harebus.Setup, error) {
	cfg.Queue = "orders"
	setup, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	harebus.Handle(setup, s.Place)
	return setup, nil
}

func TestPlaceHandler(t *testing.T) {
	service := &OrderService{Stock: func(_ context.Context, order int) error {
		if order == 8 {
			return errors.New("sold out")
		}
		return nil
	}}
	setup, err := service.Setup(harebus.Config{})
	if err != nil {
		t.Fatal(err)
	}

	result, err := setup.Invoke(t.Context(), PlaceOrder{ID: 7})
	if err != nil || result.Err != nil {
		t.Fatal(err, result.Err)
	}
	sent := result.Sent
	if len(sent) != 1 || sent[0].RoutingKey != "order.placed" || string(sent[0].Body) != `{"ID":7}` {
		t.Errorf("sent %+v", sent)
	}

	result, err = setup.Invoke(t.Context(), PlaceOrder{ID: 8})
	if err != nil {
		t.Fatal(err)
	}
	if _, retries := result.Decision.Retries(); !retries || len(result.Sent) != 0 {
		t.Errorf("%v: %v, sent %+v", result.Err, result.Decision, result.Sent)
	}
}

func TestPlaceFlow(t *testing.T) {
	broker := brokertest.New()
	defer broker.Close()
	service := &OrderService{Stock: func(_ context.Context, order int) error {
		if order == 8 {
			return harebus.NoRetry(errors.New("sold out"))
		}
		return nil
	}}
	setup, err := service.Setup(harebus.Config{Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer setup.Close()

	for _, id := range []int{7, 8} {
		if err := setup.Bus().Send(t.Context(), "orders", PlaceOrder{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(t.Context(), "error"); err != nil { // everything has been handled
		t.Fatal(err)
	}
	parked := broker.Messages("error")
	if len(parked) != 1 || parked[0].Headers["PikaBus.ErrorDetails"] != "sold out" {
		t.Errorf("parked %+v", parked)
	}
}

func TestPlaceRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		defer broker.Close()
		start, attempts := time.Now(), []time.Duration(nil)
		service := &OrderService{Stock: func(context.Context, int) error {
			attempts = append(attempts, time.Since(start).Truncate(time.Second))
			return errors.New("the warehouse is closed")
		}}
		setup, err := service.Setup(harebus.Config{Dial: broker.Dial, Retry: harebus.RetryConfig{
			MaxRetries: 3,
			BackOff:    func() backoff.BackOff { return backoff.NewConstantBackOff(time.Hour) },
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer setup.Close()
		if err := setup.Bus().Send(t.Context(), "orders", PlaceOrder{ID: 7}); err != nil {
			t.Fatal(err)
		}
		if err := broker.WaitQuiet(t.Context(), "error"); err != nil { // three hours, in no time
			t.Fatal(err)
		}
		if want := []time.Duration{0, time.Hour, 2 * time.Hour, 3 * time.Hour}; !slices.Equal(attempts, want) {
			t.Errorf("attempts at %v, want %v", attempts, want)
		}
		if n := len(broker.Messages("error")); n != 1 {
			t.Errorf("%d messages parked, want 1", n)
		}
	})
}

func TestPlaceOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		defer broker.Close()
		attempts := 0
		service := &OrderService{Stock: func(context.Context, int) error {
			if attempts++; attempts == 1 {
				return harebus.RetryAfter(time.Hour, errors.New("the warehouse is closed"))
			}
			return nil
		}}
		setup, err := service.Setup(harebus.Config{Dial: broker.Dial})
		if err != nil {
			t.Fatal(err)
		}
		if err := setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer setup.Close()

		broker.Refuse(time.Minute) // an outage: no connection survives, none is made
		broker.Restart()
		start := time.Now()
		if err := setup.Bus().Send(t.Context(), "orders", PlaceOrder{ID: 7}); err != nil {
			t.Fatal(err)
		}
		t.Log("the broker took the message after", time.Since(start))
		if err := broker.WaitQuiet(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); attempts != 2 || took < time.Hour {
			t.Errorf("%d attempts within %v", attempts, took)
		}
	})
}
