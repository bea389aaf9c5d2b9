package session_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/harebus/harebus/internal/session"
)

// sentAcks is a channel that notes the acks.
type sentAcks struct {
	single   []uint64
	multiple []uint64
}

func (s *sentAcks) Ack(tag uint64, multiple bool) error {
	if multiple {
		s.multiple = append(s.multiple, tag)
	} else {
		s.single = append(s.single, tag)
	}
	return nil
}

// noAcks is a channel that takes them.
type noAcks struct{ *sentAcks }

func (noAcks) Ack(uint64, bool) error { return nil }

func (*sentAcks) Nack(uint64, bool, bool) error { return nil }
func (*sentAcks) Reject(uint64, bool) error     { return nil }

// TestAckerBehindHeldDeliveries: while the first deliveries are held, those behind them are acknowledged once each, in
// ascending order; when the first are settled, one ack is enough for them.
func TestAckerBehindHeldDeliveries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, behindHeld) // where no ack is sent because a millisecond is over
}

func behindHeld(t *testing.T) {
	const held, all = 1000, 3002 // a quarter of the rest is an even number, so no flush divides a pair
	var sent sentAcks
	a := session.NewAcker(&sent, all)
	defer a.Close()
	for pair := uint64(held + 1); pair < all; pair += 2 {
		a.Done(pair + 1)
		a.Done(pair)
	}
	a.Flush()
	if len(sent.single) != all-held || len(sent.multiple) != 0 || slices.Contains(sent.single, held) {
		t.Fatalf("%d acks one by one, %d of several", len(sent.single), len(sent.multiple))
	}
	for i := 0; i < len(sent.single); i += 2 {
		if sent.single[i] > sent.single[i+1] {
			t.Fatalf("the ack of %d went before that of %d", sent.single[i], sent.single[i+1])
		}
	}
	for tag := uint64(1); tag <= held; tag++ {
		a.Done(tag)
	}
	a.Flush()
	if last := sent.multiple[len(sent.multiple)-1]; last != held {
		t.Errorf("everything up to %d is acknowledged, want %d", last, held)
	}
}

// TestAckerWithFewLeft: acks do not wait for others that cannot come, because the broker delivers no more.
func TestAckerWithFewLeft(t *testing.T) {
	t.Parallel()
	const prefetch = 100
	var sent sentAcks
	a := session.NewAcker(&sent, prefetch)
	defer a.Close()
	a.Done(prefetch - 1)
	a.Flush()
	if a.Done(prefetch); len(sent.single) != 2 {
		t.Errorf("%d of 2 acks were sent, and 98 deliveries are being handled", len(sent.single))
	}
}

// BenchmarkAckerBehindHeldDeliveries is the ack of one delivery while as many are held as a service has schedules. That it
// does not depend on their number is what matters.
func BenchmarkAckerBehindHeldDeliveries(b *testing.B) {
	for _, held := range []uint64{100, 10_000} {
		b.Run(fmt.Sprint(held), func(b *testing.B) {
			b.ReportAllocs()
			a := session.NewAcker(noAcks{}, int(2*held)) //nolint:gosec // small
			defer a.Close()
			for tag := held + 1; tag <= 2*held; tag++ { // the acks of the last five minutes
				a.Done(tag)
			}
			for tag := 2*held + 1; b.Loop(); tag++ {
				a.Done(tag)
			}
		})
	}
}
