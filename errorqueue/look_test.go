package errorqueue_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/errorqueue"
)

// TestGroups: messages that failed in the same way are one group, with the same id at each look.
func TestGroups(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 3)
		x.put("error",
			parked("p1", "Pay", "panic: nil map\n\ngoroutine 7 [running]:\npanic(1)\n\t/x.go:1\nshop.pay(0x1)\n\t/shop.go:9\n", nil),
			parked("p2", "Pay", "panic: nil map\n\ngoroutine 99 [running]:\npanic(1)\n\t/x.go:1\nshop.pay(0x2)\n\t/shop.go:9\n", nil),
			amqp.Publishing{MessageId: "b", Type: "Place", Headers: amqp.Table{"x-death": []any{amqp.Table{"queue": "orders", "reason": "delivery_limit"}}}},
			parked("k", "Place", "any text", amqp.Table{"PikaBus.ErrorGroup": "1234567890abcdef", "PikaBus.ErrorKind": "timeout"}),
			parked("l", "Place", "another text", amqp.Table{"PikaBus.ErrorGroup": "1234567890abcdef", "PikaBus.ErrorKind": "timeout"}))
		describe := func(q *errorqueue.Queue) string {
			var b strings.Builder
			for _, g := range x.look(q, errorqueue.Filter{}).Groups() {
				fmt.Fprintf(&b, "%s %d %s %s %q %s\n", g.ID, g.Count, g.Type, g.Queue, g.Kind, g.Error)
			}
			return b.String()
		}
		var first, second string
		x.with(func(q *errorqueue.Queue) { first = describe(q) })
		x.with(func(q *errorqueue.Queue) { second = describe(q) })
		if first != second {
			t.Errorf("the first look says\n%sthe second\n%s", first, second)
		}
		for _, want := range []string{
			` 3 Place orders "" order #: out of stock`, ` 2 Pay orders "" panic: nil map @ shop.pay`,
			` 1 Place orders "delivery_limit" the broker moved it here: delivery_limit`, ` 2 Place orders "timeout" any text`,
		} {
			if !strings.Contains(first, want+"\n") {
				t.Errorf("no group %q in\n%s", want, first)
			}
		}
		x.expect("error", "1 2 3 p1 p2 b k l")
	})
}

// TestFilter: each condition of a filter, and all of them together.
func TestFilter(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		time.Sleep(time.Hour) // of virtual time
		x.put("error", parked("3", "Pay", "declined", amqp.Table{"PikaBus.SourceQueue": "payments", "tenant": "south", "PikaBus.ErrorKind": "bad-payload"}),
			amqp.Publishing{MessageId: "4", Body: []byte("nothing is known")})
		x.with(func(q *errorqueue.Queue) {
			all := x.look(q, errorqueue.Filter{})
			now := time.Now()
			for name, test := range map[string]struct {
				filter errorqueue.Filter
				want   string
			}{
				"all":           {errorqueue.Filter{}, "1 2 3 4"},
				"type":          {errorqueue.Filter{Type: "Place"}, "1 2"},
				"queue":         {errorqueue.Filter{Queue: "payments"}, "3"},
				"kind":          {errorqueue.Filter{Kind: "bad-payload"}, "3"},
				"older":         {errorqueue.Filter{Before: now.Add(-time.Minute)}, "1 2"},
				"newer":         {errorqueue.Filter{After: now.Add(-time.Minute)}, "3"},
				"header":        {errorqueue.Filter{Headers: map[string]string{"tenant": "south"}}, "3"},
				"bus header":    {errorqueue.Filter{Headers: map[string]string{"ErrorRetries": "6"}}, "1 2 3"},
				"body":          {errorqueue.Filter{Body: `"2"`}, "2"},
				"failure":       {errorqueue.Filter{Failure: "stock"}, "1 2"},
				"message id":    {errorqueue.Filter{IDs: []string{"4"}}, "4"},
				"parking":       {errorqueue.Filter{IDs: []string{all.Messages[1].ID()}}, "2"},
				"hash":          {errorqueue.Filter{IDs: []string{all.Messages[3].ID()}}, "4"},
				"group":         {errorqueue.Filter{IDs: []string{all.Messages[0].Group.ID}}, "1 2"},
				"several":       {errorqueue.Filter{IDs: []string{"1", "4"}}, "1 4"},
				"all must":      {errorqueue.Filter{Type: "Place", Body: `"2"`, IDs: []string{"1", "2"}}, "2"},
				"none":          {errorqueue.Filter{Type: "place"}, ""},
				"header absent": {errorqueue.Filter{Headers: map[string]string{"absent": ""}}, ""},
			} {
				var ids []string
				found := x.look(q, test.filter)
				for i := range found.Messages {
					ids = append(ids, found.Messages[i].MessageID)
				}
				if got := strings.Join(ids, " "); got != test.want || found.Seen != 4 {
					t.Errorf("%s: %q of %d, want %q", name, got, found.Seen, test.want)
				}
			}
			for name, f := range map[string]errorqueue.Filter{
				"an id is empty": {IDs: []string{""}}, "no time is": {Before: now, After: now},
			} {
				if _, err := q.Look(x.Context(), f); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		x.expect("error", "1 2 3 4")
	})
}

// TestLooksAreFree: a hundred looks take nothing out of a quorum queue, whatever its delivery limit is, and keep the order.
func TestLooksAreFree(t *testing.T) {
	for name, args := range map[string]amqp.Table{
		"limit 2":       {"x-queue-type": "quorum", "x-delivery-limit": int32(2)},
		"limit 5":       {"x-queue-type": "quorum", "x-delivery-limit": int32(5)},
		"limit 20":      {"x-queue-type": "quorum", "x-delivery-limit": int32(20)},
		"limit 1000000": {"x-queue-type": "quorum", "x-delivery-limit": int32(1_000_000)},
		"classic":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(x *bench) {
				x.declare("failed", args)
				for i := range 40 {
					x.put("failed", parked(fmt.Sprint(i), "Place", "no", nil))
				}
				before := x.ids("failed")
				x.with(func(q *errorqueue.Queue) {
					for range 100 {
						if found := x.look(q, errorqueue.Filter{}); len(found.Messages) != 40 {
							x.Fatalf("a look found %d", len(found.Messages))
						}
					}
				}, func(c *errorqueue.Config) { c.Name = "failed" })
				x.expect("failed", before)
				count := x.broker.Messages("failed")[0].DeliveryCount
				if renewed := count < 20; renewed != (name != "limit 1000000") && name != "classic" {
					t.Errorf("the delivery count is %d", count)
				}
			})
		})
	}
}

// TestRefused: what is no error queue is not looked at, and what cannot be is said.
func TestRefused(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 3)
		x.declare("consumed", nil)
		_, err := x.ch.Consume("consumed", "", true, false, false, false, nil)
		x.try(err)
		x.declare("listener", amqp.Table{"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-delivery-limit": int32(20)})
		for i, limit := range []string{"none", "once"} {
			x.declare(limit, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(i)})
			x.put(limit, parked("1", "Place", "no", nil))
		}
		for name, change := range map[string]func(*errorqueue.Config){
			"delivery limit is 0":                 func(c *errorqueue.Config) { c.Name = "none" },
			"delivery limit is 1":                 func(c *errorqueue.Config) { c.Name = "once" },
			"NOT_FOUND":                           func(c *errorqueue.Config) { c.Name = "absent" },
			"1 consumers, so it is no error":      func(c *errorqueue.Config) { c.Name = "consumed" },
			"dead-letters into another queue":     func(c *errorqueue.Config) { c.Name = "listener" },
			"has no address":                      func(c *errorqueue.Config) { c.Connect.URLs = nil },
			"cannot be negative":                  func(c *errorqueue.Config) { c.Most = -1 },
			"amq.":                                func(c *errorqueue.Config) { c.Name = "amq.gen" },
			"not of the form":                     func(c *errorqueue.Config) { c.Connect.URLs = []string{"http://x"} },
			"username or password not allowed":    func(c *errorqueue.Config) { c.Connect.Username, c.Connect.Password = "ann", "wrong" },
			"3 messages are in it, more than the": func(c *errorqueue.Config) { c.Most = 2 },
		} {
			cfg := x.config()
			change(&cfg)
			q, err := errorqueue.Open(x.Context(), cfg)
			if err == nil {
				_, err = q.Look(x.Context(), errorqueue.Filter{})
				x.try(q.Close())
			}
			if err == nil || !strings.Contains(err.Error(), name) || !strings.HasPrefix(err.Error(), "errorqueue: ") {
				t.Errorf("%s: %v", name, err)
			}
		}
		x.expect("error", "1 2 3")
	})
}

// TestLock: a second operator is told, and let in when the first has ended.
func TestLock(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 1)
		x.with(func(*errorqueue.Queue) {
			if _, err := errorqueue.Open(x.Context(), x.config()); !errors.Is(err, errorqueue.ErrLocked) {
				t.Errorf("the second operator: %v", err)
			}
			x.with(func(q *errorqueue.Queue) { // who has no right to lock looks without
				if n := len(x.look(q, errorqueue.Filter{}).Messages); n != 1 {
					t.Errorf("found %d", n)
				}
			}, func(c *errorqueue.Config) { c.NoLock = true })
		})
		x.with(func(*errorqueue.Queue) {})
	})
}

// TestNoLockOfAQueueInUse: a queue that others consume from is not looked at, with a lock or without.
func TestNoLockOfAQueueInUse(t *testing.T) {
	bubble(t, func(x *bench) {
		_, err := x.ch.Consume("error", "", true, false, false, false, nil)
		x.try(err)
		cfg := x.config()
		cfg.NoLock = true
		if _, err := errorqueue.Open(x.Context(), cfg); err == nil || !strings.Contains(err.Error(), "1 consumers") {
			t.Errorf("opened: %v", err)
		}
	})
}

// TestWatch: what comes and goes is told, and other operators are not kept out.
func TestWatch(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		x.with(func(q *errorqueue.Queue) {
			var seen []int
			err := q.Watch(x.Context(), time.Second, errorqueue.Filter{}, func(found *errorqueue.Index) error {
				seen = append(seen, len(found.Messages))
				switch len(seen) {
				case 1:
					x.park(3, 1)
				case 2:
					x.with(func(other *errorqueue.Queue) {
						report, err := other.Retry(x.Context(), x.look(other, errorqueue.Filter{}).Messages, errorqueue.Options{})
						x.reports(report, err, "done 3, left 0, gone 0, remaining 0, twice 0")
					})
				case 3:
					return errors.New("enough")
				}
				return nil
			})
			if fmt.Sprint(seen) != "[2 3 0]" || err == nil || !strings.Contains(err.Error(), "enough") {
				t.Errorf("saw %v, %v", seen, err)
			}
			if err := q.Watch(x.Context(), 0, errorqueue.Filter{}, nil); err == nil {
				t.Error("an interval of 0 is possible")
			}
		})
	})
}
