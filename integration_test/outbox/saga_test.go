package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

type (
	trip   struct{ Trip string }
	booked struct {
		Trip string
		Part int
	}
	late struct{}

	// booking is the state of a trip.
	booking struct{ Parts []int }
)

func (trip) MessageType() string   { return "Trip" }
func (booked) MessageType() string { return "Booked" }
func (late) MessageType() string   { return "Late" }

// short is a policy of short pauses.
func short() backoff.BackOff { return backoff.NewConstantBackOff(100 * time.Millisecond) }

func tripKey(m trip) string     { return m.Trip }
func bookedKey(m booked) string { return m.Trip }

// book counts the parts of a trip, and completes it when it has as many.
func book(parts int, out string) func(ctx context.Context, t *saga.Instance[booking], m booked) error {
	return func(ctx context.Context, t *saga.Instance[booking], m booked) error {
		t.State.Parts = append(t.State.Parts, m.Part)
		if len(t.State.Parts) < parts {
			return nil
		}
		t.Complete()
		return t.Send(ctx, out, placed{len(t.State.Parts)})
	}
}

func (r *rig) saga(s *harebus.Setup, steps ...saga.Step[booking]) {
	r.t.Helper()
	if err := saga.Register(s, saga.Config{Name: "trip", Store: saga.SQL()}, steps...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) send(s *harebus.Setup, message any, opts ...harebus.SendOption) {
	r.t.Helper()
	if err := s.Bus().Send(r.ctx, s.Queue(), message, opts...); err != nil {
		r.t.Fatal(err)
	}
}

// sagas is how many instances run, and how many are completed.
func (r *rig) sagas() (run, done int) {
	return r.number("select count(*) from harebus_saga where done_at is null"), r.number("select count(*) from harebus_saga where done_at is not null")
}

// TestSagaAtOnce: messages for one instance that come at the same time, in two processes, wait
// for each other in the database, also those that start it. Each is handled once, without a
// failure or a deadlock, and none is lost.
func TestSagaAtOnce(t *testing.T) {
	const starts, parts = 16, 60
	onEach(t, func(t *testing.T, r *rig) {
		var attempts atomic.Int64
		var services []*harebus.Setup
		var obs []*outbox.Outbox
		for range 2 {
			s, ob := r.counting(&attempts, parts)
			services, obs = append(services, s), append(obs, ob)
		}
		handled := func() int { return int(services[0].Stats().Handled + services[1].Stats().Handled) }
		warm := 0
		for services[0].Stats().Handled == 0 || services[1].Stats().Handled == 0 { // a new connection handles one message at first
			r.send(services[0], trip{fmt.Sprint("warm ", warm)})
			warm++
			r.eventually("it is handled", func() bool { return handled() == warm })
		}
		attempts.Store(0)
		for range starts {
			r.send(services[0], trip{"7"})
		}
		r.eventually("all starts are handled", func() bool { return handled() == warm+starts })
		for n := range parts {
			r.send(services[0], booked{"7", n})
		}
		if body := string(r.await("out", 1)[0].Body); body != fmt.Sprintf(`{"ID":%d}`, parts) {
			t.Errorf("sent %s, want %d parts", body, parts)
		}
		r.eventually("all are handled", func() bool { return handled() == warm+starts+parts })
		check(t, "attempts", int(attempts.Load()), starts+parts)
		check(t, "version", r.number("select version from harebus_saga where instance = '7'"), starts+parts)
		for n, s := range services {
			check(t, "failures", int(s.Stats().Failed), 0)
			if got, err := obs[n].Stats(r.ctx); err != nil || got.Conflicts != 0 {
				t.Errorf("%+v, %v: want no deadlock", got, err)
			}
		}
	})
}

// counting starts a service whose steps take a while and are counted.
func (r *rig) counting(attempts *atomic.Int64, parts int) (*harebus.Setup, *outbox.Outbox) {
	work := func() {
		attempts.Add(1)
		const takes = 5 * time.Millisecond
		time.Sleep(takes) // the others come meanwhile
	}
	ob := r.outbox(outbox.Config{})
	s := r.setup(ob, "trips")
	r.saga(s,
		saga.Start(tripKey, func(context.Context, *saga.Instance[booking], trip) error {
			work()
			return nil
		}),
		saga.On(bookedKey, func(ctx context.Context, t *saga.Instance[booking], m booked) error {
			work()
			return book(parts, "out")(ctx, t, m)
		}))
	r.start(s)
	return s, ob
}

// TestSagaStartRace: what continues an instance may come before or with what starts it. It is
// retried, and not lost.
func TestSagaStartRace(t *testing.T) {
	const trips, parts = 40, 2
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "trips")
		again := harebus.WithRetry(harebus.RetryConfig{MaxRetries: 20, BackOff: short})
		r.saga(s, saga.Start(tripKey, func(context.Context, *saga.Instance[booking], trip) error { return nil }), saga.On(bookedKey, book(parts, "out"), again))
		r.start(s)
		r.send(s, booked{"0", 0}) // surely too early
		r.eventually("it has failed", func() bool { return s.Stats().Failed == 1 })
		for n := range trips {
			key := strconv.Itoa(n)
			if n > 0 {
				r.send(s, booked{key, 0})
			}
			r.send(s, trip{key})
			r.send(s, booked{key, 1})
		}
		r.await("out", trips)
		run, done := r.sagas()
		check(t, "running", run, 0)
		check(t, "done", done, trips)
	})
}

// TestSagaFailure: a step that fails leaves the row as it was, or leaves none, and sends nothing.
func TestSagaFailure(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "trips")
		once := harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1})
		r.saga(s, saga.Start(tripKey, func(ctx context.Context, t *saga.Instance[booking], m trip) error {
			t.State.Parts = []int{1}
			return errors.Join(t.Send(ctx, "out", placed{1}), t.Timeout(ctx, time.Hour, late{}), r.insert(ctx, 1), errorFor(m.Trip))
		}, once), saga.On(bookedKey, func(ctx context.Context, t *saga.Instance[booking], m booked) error {
			if err := errors.Join(book(1, "out")(ctx, t, m), r.insert(ctx, 2)); err != nil {
				return err
			}
			panic("after everything")
		}, once), saga.OnTimeout(func(context.Context, *saga.Instance[booking], late) error { return nil }))
		r.start(s)
		r.send(s, trip{"bad"})
		r.send(s, trip{"good"})
		r.await("out", 1)
		before := r.number("select version from harebus_saga where instance = 'good'")
		r.send(s, booked{"good", 1})
		r.await("error", 2)
		run, done := r.sagas()
		check(t, "running", run, 1)
		check(t, "done", done, 0)
		check(t, "effects", r.number("select count(*) from effects"), 1)
		check(t, "version", r.number("select version from harebus_saga where instance = 'good'"), before)
		r.await("out", 1)
	})
}

func errorFor(key string) error {
	if key == "bad" {
		return errNo
	}
	return nil
}

// TestSagaRestart: a completed instance leaves a row without a state. A key can be used again;
// a copy of the message that started the last run, a late message and a timeout of an earlier
// run are dropped, also without the inbox. When the row has expired, nobody remembers the instance.
func TestSagaRestart(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{NoInbox: true, Keep: time.Minute})
		s := r.setup(ob, "trips")
		const wait = time.Second
		r.saga(s, saga.Start(tripKey, func(ctx context.Context, t *saga.Instance[booking], _ trip) error {
			return t.Timeout(ctx, wait, late{})
		}), saga.On(bookedKey, book(1, "out"), harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1})),
			saga.OnTimeout(func(ctx context.Context, t *saga.Instance[booking], _ late) error {
				t.Complete()
				return t.Send(ctx, "out", placed{-1})
			}))
		r.start(s)
		handled := 0
		done := func(message any, opts ...harebus.SendOption) {
			t.Helper()
			r.send(s, message, opts...)
			handled++
			r.eventually("it is handled", func() bool { return s.Stats().Handled >= uint64(handled) })
		}
		done(trip{"7"}, harebus.WithMessageID("one"))
		done(trip{"7"}, harebus.WithMessageID("one"))
		check(t, "version", r.number("select version from harebus_saga"), 1)
		done(booked{"7", 1})
		r.await("out", 1)
		done(trip{"7"}, harebus.WithMessageID("one"))
		done(booked{"7", 1})
		running, completed := r.sagas()
		check(t, "running", running, 0)
		check(t, "completed", completed, 1)
		check(t, "bytes of the state", r.number("select length(state) from harebus_saga"), 0)
		handled++ // the timeout of the first run
		r.eventually("the timeout has come", func() bool { return s.Stats().Handled >= uint64(handled) })
		r.await("out", 1)

		start := time.Now()
		done(trip{"7"}, harebus.WithMessageID("two"))
		r.await("out", 2) // its timeout
		if took := time.Since(start); took < wait {
			t.Errorf("the timeout came after %v", took)
		}
		old := map[string]string{"sqlite": "1", "postgres": "now() - interval '2 minutes'", "mariadb": "date_sub(utc_timestamp(6), interval 2 minute)"}[r.data.Kind]
		r.exec("update harebus_saga set done_at = " + old)
		// Another process cleans up when it begins.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		ob = r.outbox(outbox.Config{NoInbox: true, Keep: time.Minute})
		s = r.setup(ob, "trips")
		r.saga(s, saga.Start(tripKey, func(context.Context, *saga.Instance[booking], trip) error { return nil }),
			saga.On(bookedKey, book(1, "out"), harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1})))
		r.start(s)
		r.eventually("the row has expired", func() bool { return r.number("select count(*) from harebus_saga") == 0 })
		r.send(s, booked{"7", 1})
		details, _ := r.await("error", 1)[0].Publishing.Headers["PikaBus.ErrorDetails"].(string)
		contains(t, errors.New(details), `saga: trip: key "7": there is no instance with this key`)
	})
}

// TestSagaPgx: sagas work with pgx, without database/sql.
func TestSagaPgx(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "postgres"))
	_, ob := r.pgx()
	s := r.setup(ob, "trips")
	r.saga(s, saga.Start(tripKey, func(ctx context.Context, t *saga.Instance[booking], _ trip) error {
		return t.Timeout(ctx, 0, late{})
	}), saga.On(bookedKey, book(2, "out")), saga.OnTimeout(func(ctx context.Context, t *saga.Instance[booking], _ late) error {
		return t.Send(ctx, s.Queue(), booked{t.Key, 2})
	}))
	r.start(s)
	r.send(s, trip{"7"})
	r.eventually("it runs", func() bool { return s.Stats().Handled > 0 })
	r.send(s, booked{"7", 1})
	if body := string(r.await("out", 1)[0].Body); body != `{"ID":2}` {
		t.Error(body)
	}
	run, done := r.sagas()
	check(t, "running", run, 0)
	check(t, "done", done, 1)
}

// TestSagaVersion: a row that somebody has changed without its lock is not overwritten. The
// message is handled again, and that is no failure.
func TestSagaVersion(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		s := r.setup(r.outbox(outbox.Config{}), "trips")
		var times atomic.Int64
		r.saga(s, saga.Start(tripKey, func(ctx context.Context, t *saga.Instance[booking], _ trip) error {
			t.State.Parts = append(t.State.Parts, 1)
			if times.Add(1) != 2 {
				return nil
			}
			_, err := outbox.SQL(ctx).ExecContext(ctx, "update harebus_saga set version = version + 1")
			return err
		}))
		r.start(s)
		r.send(s, trip{"7"})
		r.send(s, trip{"7"})
		r.eventually("both are handled", func() bool { return s.Stats().Handled == 2 })
		check(t, "runs", int(times.Load()), 3)
		check(t, "retries", int(s.Stats().Retried), 0)
		check(t, "postponed", int(s.Stats().Postponed), 1)
		check(t, "version", r.number("select version from harebus_saga"), 2)
	})
}

// TestSagaNoOutbox: a saga whose Transactor is something else says so.
func TestSagaNoOutbox(t *testing.T) {
	r := newRig(t, database.Need(t, "sqlite"))
	cfg := harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: "trips", Handling: harebus.HandlingConfig{Transactor: sagatest.NewStore()}}
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r.saga(s, saga.Start(tripKey, func(context.Context, *saga.Instance[booking], trip) error { return nil }, harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1})))
	r.start(s)
	r.send(s, trip{"7"})
	details, _ := r.await("error", 1)[0].Publishing.Headers["PikaBus.ErrorDetails"].(string)
	contains(t, errors.New(details), "leads to no transaction of an outbox", "Handling.Transactor")
}

// TestSagaRoute: with a database for each tenant, an instance is in that of its message.
func TestSagaRoute(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	other := newRig(t, database.Need(t, "sqlite"))
	obs := map[any]*outbox.Outbox{"a": r.outbox(outbox.Config{Name: "a"}), "b": other.outbox(outbox.Config{Name: "b"})}
	router := outbox.Route(func(m *harebus.Message) (*outbox.Outbox, error) { return obs[m.Headers["tenant"]], nil }, obs["a"], obs["b"])
	s, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: "trips", Handling: harebus.HandlingConfig{Transactor: router}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r.saga(s, saga.Start(tripKey, func(_ context.Context, t *saga.Instance[booking], _ trip) error {
		t.State.Parts = append(t.State.Parts, 1)
		return nil
	}))
	r.start(s)
	for _, tenant := range []string{"a", "b", "b"} {
		r.send(s, trip{"7"}, harebus.WithHeader("tenant", tenant))
	}
	r.eventually("all are handled", func() bool { return s.Stats().Handled == 3 })
	check(t, "version of a", r.number("select version from harebus_saga"), 1)
	check(t, "version of b", other.number("select version from harebus_saga"), 2)
}

// TestSagaGap: on MariaDB, a message for a key without an instance keeps the starts of keys in the
// same gap waiting until its transaction ends, unless the isolation level is READ COMMITTED. On
// PostgreSQL it keeps nobody waiting.
func TestSagaGap(t *testing.T) {
	for _, kind := range []string{"postgres", "mariadb"} {
		for _, level := range []sql.IsolationLevel{sql.LevelDefault, sql.LevelReadCommitted} {
			t.Run(kind+"/"+level.String(), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, database.Need(t, kind))
				ob := r.outbox(outbox.Config{TxOptions: &sql.TxOptions{Isolation: level}})
				bus := r.setup(ob, "").Bus()
				load := func(key string, create bool) *outbox.Tx {
					tx, err := ob.Begin(r.ctx, bus)
					if err == nil {
						_, err = outbox.LoadSaga(tx.Context(r.ctx), "trip", key, create)
					}
					if err != nil {
						t.Error(err)
					}
					return tx
				}
				early := load("5", false)
				started := make(chan *outbox.Tx)
				go func() { started <- load("6", true) }()
				waits := false
				var start *outbox.Tx
				select {
				case start = <-started:
				case <-time.After(time.Second): // long enough for a start that does not wait
					waits = true
				}
				if want := kind == "mariadb" && level == sql.LevelDefault; waits != want {
					t.Errorf("the start of a neighbouring key waits: %t, want %t", waits, want)
				}
				early.Rollback()
				if start == nil {
					start = <-started
				}
				start.Rollback()
			})
		}
	}
}

// TestSagaDeadlock: two steps that lock each other's rows run again at once, and the retry
// policy does not see it.
func TestSagaDeadlock(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		if r.data.Kind == "sqlite" {
			return // one transaction writes at a time
		}
		r.exec("create table stock (id integer primary key, n integer not null)")
		r.exec("insert into stock values (1, 0), (2, 0)")
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "trips")
		var met [3]atomic.Bool
		var both sync.WaitGroup
		both.Add(2)
		lock := func(ctx context.Context, id int) error {
			_, err := outbox.SQL(ctx).ExecContext(ctx, fmt.Sprintf("update stock set n = n + 1 where id = %d", id))
			return err
		}
		r.saga(s, saga.Start(tripKey, func(ctx context.Context, t *saga.Instance[booking], m trip) error {
			if m.Trip == "0" {
				return t.Send(ctx, "out", placed{0})
			}
			n, err := strconv.Atoi(m.Trip)
			if err != nil {
				return err
			}
			if err := lock(ctx, n); err != nil {
				return err
			}
			if !met[n].Swap(true) {
				both.Done()
			}
			both.Wait()
			return errors.Join(lock(ctx, 3-n), t.Send(ctx, "out", placed{n}))
		}))
		r.start(s)
		r.send(s, trip{"0"})
		r.await("out", 1) // a new connection handles one message at first
		r.send(s, trip{"1"})
		r.send(s, trip{"2"})
		r.await("out", 3)
		check(t, "failures that the policy saw", int(s.Stats().Failed), 0)
		check(t, "effects", r.number("select sum(n) from stock"), 4)
		if got, err := ob.Stats(r.ctx); err != nil || got.Conflicts == 0 {
			t.Errorf("%+v, %v: there was no deadlock", got, err)
		}
		run, _ := r.sagas()
		check(t, "running", run, 3)
	})
}
