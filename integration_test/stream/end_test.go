package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/replay"
	"github.com/harebus/harebus/stream"
)

// TestFromEnd: the end of a stream whose last piece is long is behind all of it: a reader that begins there gets what is published then, and nothing from before.
func TestFromEnd(t *testing.T) {
	g := newGroup(t, []string{rabbit.Shared(t).URL()})
	const before, after = 5000, 3
	publish := func(from, to int) {
		g.try(g.setup.Bus().Transaction(t.Context(), func(ctx context.Context, tx *harebus.Tx) error {
			for n := from; n <= to; n++ {
				if err := tx.Publish(ctx, "count", counted{n}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	publish(1, before)
	cfg := readerConfig(g.urls, g.name)
	cfg.Consume.Stream = &stream.Config{Group: fmt.Sprint("end-", rand.Uint64()), From: stream.FromEnd()}
	s, err := harebus.New(cfg)
	g.try(err)
	defer func() {
		g.try(s.Close())
		drop(t, rabbit.Shared(t), stream.TokenQueue(g.name, cfg.Consume.Stream.Group))
	}()
	got := make(chan int, before+after)
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, e counted) error {
		got <- e.N
		return nil
	})
	began := time.Now()
	g.try(s.Start(t.Context()))
	t.Logf("the reader has begun within %v", time.Since(began).Round(time.Millisecond))
	publish(before+1, before+after)
	for n := before + 1; n <= before+after; n++ {
		select {
		case e := <-got:
			if e != n {
				t.Fatalf("event %d came, want %d", e, n)
			}
		case <-time.After(patience):
			t.Fatalf("event %d does not come: %v", n, s.Ready())
		}
	}
}

// TestReplayedTimes: the broker serves the readers of a channel in the order in which they came, so where a time lies in a stream is certain without a pause:
// also a time before everything, and one after it.
func TestReplayedTimes(t *testing.T) {
	g := newGroup(t, []string{rabbit.Shared(t).URL()})
	publish := func(from, to int) {
		for n := from; n <= to; n++ {
			g.try(g.setup.Bus().Publish(t.Context(), "count", counted{n}))
		}
	}
	before := time.Now().Add(-time.Hour)
	publish(1, 300)
	<-time.After(2100 * time.Millisecond) // the broker's times are whole seconds
	middle := time.Now()
	publish(301, 500)
	after := time.Now().Add(time.Hour)
	for i := range 5 {
		for _, c := range []struct {
			from  stream.From
			until time.Time
			want  int
		}{
			{stream.FromStart(), before, 0}, {stream.FromStart(), middle, 300}, {stream.FromStart(), after, 500},
			{stream.FromTime(before), time.Time{}, 500}, {stream.FromTime(middle), time.Time{}, 200}, {stream.FromTime(after), time.Time{}, 0},
		} {
			report, err := replay.Run(t.Context(), replay.Options{
				Broker: access.Broker{URLs: g.urls}, Stream: g.name, Queue: g.name, From: c.from, Until: c.until, // a dry run only looks at the queue
				Run: "r", DryRun: true, HeaderPrefix: "PikaBus.", Timeout: patience,
			})
			if err != nil || report.Replayed != c.want || !report.Done {
				t.Fatalf("%d: %+v: %+v, %v", i, c, report, err)
			}
		}
	}
}
