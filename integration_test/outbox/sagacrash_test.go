package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/saga"
)

const instances = 8

// saga makes the service one of a saga: each command adds its number to the state of one of
// some instances and is sent on, and so is the timeout of each instance, as a negative number.
func (o *orders) saga(s *harebus.Setup) error {
	key := func(m order) string { return strconv.Itoa(m.ID % instances) }
	add := func(ctx context.Context, t *saga.Instance[booking], n int) error {
		t.State.Parts = append(t.State.Parts, n)
		return t.Send(ctx, o.Out, placed{n})
	}
	return saga.Register(s, saga.Config{Name: "numbers", Store: saga.SQL()},
		saga.Start(key, func(ctx context.Context, t *saga.Instance[booking], m order) error {
			if t.New {
				if err := t.Timeout(ctx, time.Second, late{}); err != nil {
					return err
				}
			}
			return add(ctx, t, m.ID)
		}),
		saga.OnTimeout(func(ctx context.Context, t *saga.Instance[booking], _ late) error {
			n, err := strconv.Atoi(t.Key)
			return errors.Join(err, add(ctx, t, -1-n))
		}))
}

// TestSagaCrash: a service with a saga is killed (SIGKILL) before and after a commit, on each
// database, with RabbitMQ. Another instance goes on: each command and each timeout has changed its instance
// once, and what was sent for it arrives, under one id.
func TestSagaCrash(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{})
	t.Run("steps", func(t *testing.T) {
		for _, kind := range database.Kinds {
			for _, step := range []string{"handler returned", "committed"} {
				t.Run(kind+"/"+strings.ReplaceAll(step, " ", "_"), func(t *testing.T) {
					t.Parallel()
					sagaCrash(t, node.URL(), kind, step)
				})
			}
		}
	})
}

func sagaCrash(t *testing.T, url, kind, step string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	data := database.Need(t, kind)
	db := data.Open(t)
	name := "saga." + strings.ReplaceAll(t.Name(), "/", ".")
	o := &orders{Driver: data.Driver, DSN: data.DSN, Dialect: data.Dialect, URL: url, Queue: name, Out: name + ".out", Step: step, After: 7, Saga: true}
	arrivals := consume(t, url, o.Out)
	survivor := &orders{Dialect: o.Dialect, URL: url, Queue: o.Queue, Out: o.Out, Saga: true}
	s, ob, err := survivor.service(db)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := errors.Join(ob.Migrate(ctx), s.Init(ctx)); err != nil {
		t.Fatal(err)
	}
	for n := range commands {
		if err := s.Bus().Send(ctx, o.Queue, order{n}); err != nil {
			t.Fatal(err)
		}
	}
	kill(ctx, t, o)
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ids := map[string]map[string]int{}
	for len(ids) < commands+instances {
		select {
		case m := <-arrivals:
			note(ids, m)
		case <-ctx.Done():
			t.Fatalf("%d of %d commands and timeouts have led to a message", len(ids), commands+instances)
		}
	}
	awaitEmpty(ctx, t, ob)
	for len(arrivals) > 0 {
		note(ids, <-arrivals)
	}
	for body, of := range ids {
		if len(of) != 1 {
			t.Errorf("%s came under the ids %v", body, of)
		}
	}
	var got, want []int
	for i := range instances {
		want = append(want, -1-i)
		text := ""
		if err := db.QueryRowContext(ctx, "select state from harebus_saga where instance = '"+strconv.Itoa(i)+"'").Scan(&text); err != nil {
			t.Fatal(err)
		}
		var state booking
		if err := json.Unmarshal([]byte(text), &state); err != nil {
			t.Fatal(err)
		}
		got = append(got, state.Parts...)
	}
	for n := range commands {
		want = append(want, n)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the states have %v, want %v", got, want)
	}
}
