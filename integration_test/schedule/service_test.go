package schedule_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/schedule"
	"github.com/harebus/harebus/topology"
)

// asService makes the test binary be an instance of the service, which can be killed. Its value is
// a plan.
const asService = "HAREBUS_SCHEDULE_SERVICE"

// plan is what an instance does.
type plan struct {
	URLs    []string
	Queue   string
	Type    topology.QueueType
	Version int
	Journal string // the file in which it notes its runs
}

// run is a line of the journal.
type run struct {
	Schedule string
	At, When time.Time
	ID       string
}

// expressions are the schedules of a version of the service.
func expressions(version int) map[string]string {
	all := map[string]string{"each": "* * * * * *", "third": "*/3 * * * * *", "idle": "@yearly"}
	switch version {
	case 1:
		all["removed"], all["changed"] = "*/2 * * * * *", "*/2 * * * * *"
	default:
		all["added"], all["changed"] = "*/2 * * * * *", "1-59/2 * * * * *"
	}
	return all
}

func TestMain(m *testing.M) {
	text := os.Getenv(asService)
	if text == "" {
		os.Exit(m.Run())
	}
	var p plan
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		err = p.serve(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is the instance.
func (p *plan) serve(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	journal, err := os.OpenFile(p.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = journal.Close() }()
	setup, _, err := p.service(func(r run) error { return json.NewEncoder(journal).Encode(r) })
	if err != nil {
		return err
	}
	return setup.Run(ctx)
}

// service makes the instance; note gets its runs.
func (p *plan) service(note func(run) error) (*harebus.Setup, *schedule.Schedules, error) {
	log, err := zap.NewDevelopment(zap.IncreaseLevel(zap.WarnLevel), zap.AddStacktrace(zap.FatalLevel))
	if err != nil {
		return nil, nil, err
	}
	setup, err := harebus.New(harebus.Config{
		Connect: harebus.ConnectConfig{URLs: p.URLs}, Queue: p.Queue, QueueOptions: harebus.QueueOptions{Type: p.Type}, Logger: zap.NewNop(),
		Retry: harebus.RetryConfig{GiveUpAfter: time.Hour}, // another version may know what this one does not
	})
	if err != nil {
		return nil, nil, err
	}
	schedules, err := schedule.New(setup, schedule.Config{Type: p.Type, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	for name, cron := range expressions(p.Version) {
		err := schedules.Add(name, cron, func(ctx context.Context, _ *harebus.Bus, due schedule.Due) error {
			return note(run{name, due.At, time.Now(), harebus.Incoming(ctx).ID})
		}, schedule.CatchUp(schedule.All, time.Hour))
		if err != nil {
			return nil, nil, err
		}
	}
	return setup, schedules, nil
}
