package schedule_test

import (
	"context"
	"flag"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/schedule"
)

var many = flag.Int("many", 0, "TestMany measures a service with so many schedules")

// TestMany measures how long a service with thousands of schedules takes to start, to take over and to fire all of them at
// once, and what it costs while nothing is due.
func TestMany(t *testing.T) {
	if *many == 0 {
		t.Log("not asked for; run with -many 10000")
		return
	}
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	t.Logf("RabbitMQ %s", node.Version())
	log, err := zap.NewDevelopment(zap.IncreaseLevel(zap.WarnLevel), zap.AddStacktrace(zap.FatalLevel))
	if err != nil {
		t.Fatal(err)
	}
	var fired atomic.Int64
	begin := func(cron string) (*harebus.Setup, *schedule.Schedules) {
		t.Helper()
		setup, err := harebus.New(harebus.Config{URL: node.URL(), Queue: "many"})
		if err != nil {
			t.Fatal(err)
		}
		schedules, err := schedule.New(setup, schedule.Config{Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		measure(t, "registered", func() {
			for n := range *many {
				err := schedules.Add(fmt.Sprint("schedule ", n), cron, func(context.Context, *harebus.Bus, schedule.Due) error {
					fired.Add(1)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
		return setup, schedules
	}
	minute := func(at time.Time) string { return fmt.Sprintf("%d %d * * * *", at.Second(), at.Minute()) }
	first, schedules := begin(minute(time.Now().UTC().Add(time.Hour)))
	measure(t, "start, no tokens", func() {
		start(t, first)
		until(t, func() bool { return schedules.Stats().Tokens == *many })
	})
	measure(t, "idle for 20 s", func() { pass(t, 20*time.Second) })
	due := time.Now().UTC().Add(20 * time.Second).Truncate(time.Second)
	second, schedules := begin(minute(due))
	start(t, second)
	measure(t, "takeover after a stop", func() {
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return schedules.Stats().Tokens == *many && schedules.Stats().Leads })
	})
	pass(t, time.Until(due))
	measure(t, "all fired and handled", func() { until(t, func() bool { return fired.Load() >= int64(*many) }) })
	pass(t, 3*time.Second) // for what would come twice
	if n := fired.Load(); n != int64(*many) {
		t.Errorf("%d were fired", n)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// measure logs how long something takes, and the CPU time that this process uses meanwhile.
func measure(t *testing.T, what string, do func()) {
	t.Helper()
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began, before := time.Now(), cpu()
	do()
	t.Logf("%s: %v, %v of CPU time", what, time.Since(began).Round(time.Millisecond), (cpu() - before).Round(time.Millisecond))
}
