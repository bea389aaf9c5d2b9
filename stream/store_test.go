package stream_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/stream"
)

// odd is a store that does what no store should do.
type odd struct{ load, save func() }

func (o *odd) Load(context.Context) (int64, bool, error) { o.load(); return 0, false, nil }
func (o *odd) Save(context.Context, int64) error         { o.save(); return nil }

// TestOddStore: a store that panics, ends its goroutine or does not return keeps a reader from beginning, with the reason, and does
// not keep one that reads from reading or stopping.
func TestOddStore(t *testing.T) {
	nothing := func() {}
	for says, fails := range map[string]func(){
		"has panicked: no": func() { panic("no") }, "has ended its goroutine": runtime.Goexit, "has not returned": func() { time.Sleep(2 * time.Hour) },
	} {
		t.Run(says, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.publish(1)
				s := r.reader("a", stream.Config{Store: &odd{fails, nothing}}, done)
				if err := s.Start(r.withTimeout(time.Minute)); err == nil || !strings.Contains(err.Error(), "cannot load the place") || !strings.Contains(err.Error(), says) {
					t.Errorf("start: %v", err)
				}
				s = r.read("b", stream.Config{Group: "g", Store: &odd{nothing, fails}}, done)
				r.rest(5 * time.Minute)
				r.publish(1)
				r.rest(time.Second)
				r.wants("b1@0 b2@1")
				r.try(s.Stop(r.withTimeout(time.Minute)))
				r.rest(3 * time.Hour)
			})
		})
	}
}

// TestLostWhileSaving: an instance that has lost the lock reads no more at once, although the store is slow.
func TestLostWhileSaving(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.read("a", stream.Config{Group: "g", Store: &odd{func() {}, func() { time.Sleep(9 * time.Second) }}}, done)
		r.publish(1)
		r.rest(time.Second)
		r.try(r.broker.CancelConsumers(stream.TokenQueue("events", "g")))
		synctest.Wait()
		r.publish(1)
		r.rest(time.Second)
		r.wants("a1@0")
		r.rest(time.Minute)
	})
}

// TestTokenTaken: somebody takes the token of an instance that waits. It gets another one.
func TestTokenTaken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		queue := stream.TokenQueue("events", "g")
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.try(s.Stop(r.ctx))
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer conn.Close()
		ch, err := conn.Channel()
		r.try(err)
		_, err = ch.Consume(queue, "thief", true, false, false, false, nil)
		r.try(err)
		r.read("b", stream.Config{Group: "g"}, done)
		r.publish(1)
		r.rest(time.Second)
		r.wants("")
		r.try(ch.Cancel("thief", false))
		r.rest(2 * time.Minute)
		r.wants("b1@0")
	})
}

// TestNegativeToken: a token with an offset that there is not is no place.
func TestNegativeToken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		queue := stream.TokenQueue("events", "g")
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.try(s.Stop(r.ctx))
		r.publish(1)
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer conn.Close()
		ch, err := conn.Channel()
		r.try(err)
		r.try(ch.Publish("", queue, false, false, amqp.Publishing{Body: []byte(`{"offset":-7}`)}))
		r.read("b", stream.Config{Group: "g"}, done)
		r.rest(time.Second)
		r.wants("b1@0")
		if !r.said("is no token") {
			t.Error("nothing was logged")
		}
	})
}
