package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// responder is a service that answers orders: an even ID is answered, an odd one fails.
func responder(r *rig, change func(*harebus.Config)) *harebus.Setup {
	r.t.Helper()
	cfg := r.config("orders")
	if change != nil {
		change(&cfg)
	}
	s := r.setup(cfg)
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		if o.ID == 13 {
			panic("unlucky")
		}
		if o.ID%2 != 0 {
			return harebus.NoRetry(fmt.Errorf("no order %d", o.ID))
		}
		return bus.Reply(ctx, answer(o))
	})
	r.start(s)
	return s
}

// replyQueues are the names of the reply queues on the broker.
func (r *rig) replyQueues() (names []string) {
	for _, q := range r.broker.Queues() {
		if strings.Contains(q.Name, ".replies.") {
			names = append(names, q.Name)
		}
	}
	return names
}

// empty waits until a queue has no message.
func (r *rig) empty(queue string) {
	r.t.Helper()
	if err := r.broker.WaitQueue(r.ctx, queue, func(q brokertest.Queue) bool { return q.Ready+q.Unacked == 0 }); err != nil {
		r.t.Error(err)
	}
}

// TestRequest: a setup that only sends gets the reply that belongs to its request, with a
// thousand requests in flight, and leaves no queue behind.
func TestRequest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		s := r.setup(r.config(""))
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				got, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", order{2 * i})
				if err != nil || got.ID != 2*i {
					t.Errorf("%d: %v, %v", i, got, err)
				}
			})
		}
		all.Wait()
		if stats := s.Stats(); stats.Republished != 0 || stats.LateReplies != 0 {
			t.Errorf("%d attempts were repeated, %d replies came late", stats.Republished, stats.LateReplies)
		}
		if names := r.replyQueues(); len(names) != 1 {
			t.Errorf("reply queues: %q", names)
		}
		if n := s.Waiting(); n != 0 {
			t.Errorf("%d requests are still known", n)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if names := r.replyQueues(); len(names) != 0 {
			t.Errorf("reply queues that are left: %q", names)
		}
		r.quiet()
	})
}

// TestRequestFault: whoever waits learns that the request was given up, for whatever
// reason, and the request is in the error queue.
func TestRequestFault(t *testing.T) {
	type unknown struct{ ID int }
	for name, c := range map[string]struct {
		change          func(*harebus.Config)
		message         any
		opts            []harebus.SendOption
		reason, details string
		parked          int
	}{
		"handler":   {nil, order{1}, nil, "failed", "no order 1", 1},
		"undecoded": {nil, "no JSON", []harebus.SendOption{harebus.WithType("Order"), harebus.WithContentType("application/json")}, "bad-payload", "", 1},
		"no type":   {func(c *harebus.Config) { c.Handling.Unhandled = harebus.UnhandledPark }, "x", []harebus.SendOption{harebus.WithType("")}, "no-type", "no type", 1},
		"unknown, retried as long as somebody waits": {nil, unknown{1}, []harebus.SendOption{harebus.WithType("Else")}, "unknown-type", "Else", 1},
		"ignored": {func(c *harebus.Config) { c.Handling.Unhandled = harebus.UnhandledIgnore }, unknown{1}, []harebus.SendOption{harebus.WithType("Else")}, "unknown-type", "Else", 0},
		"discarded": {func(c *harebus.Config) {
			c.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.Discard() }
		}, order{1}, nil, "failed", "no order 1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				responder(r, c.change)
				s := r.setup(r.config(""))
				_, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", c.message, c.opts...)
				var fault *harebus.FaultError
				if !errors.As(err, &fault) {
					t.Fatalf("got %v", err)
				}
				if fault.Reason != c.reason {
					t.Errorf("reason %q", fault.Reason)
				}
				contains(t, fault.Details, c.details)
				contains(t, err.Error(), `to queue "orders": the service has given the request up: `+c.reason+": ", c.details)
				if n := strings.Count(err.Error(), c.reason); n != 1 || strings.Contains(fault.Details, "goroutine") {
					t.Errorf("%q names the reason %d times, or has a stack", err, n)
				}
				r.quiet("error")
				if n := len(r.broker.Messages("error")); n != c.parked {
					t.Errorf("%d messages are parked", n)
				}
			})
		})
	}
}

// TestRequestFaultIsSafe: the answer has the text that the parked message has, and nothing
// of the body.
func TestRequestFaultIsSafe(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		ch := r.channel()
		r.bound(ch, "answers")
		question := plain(`{"ID":1}`)
		question.Headers = amqp.Table{"PikaBus.ReplyBy": time.Now().Add(time.Hour).Format(time.RFC3339)}
		question.ReplyTo, question.CorrelationId = "answers", "question"
		r.publish(ch, "orders", question)
		fault, parked := r.await("answers", 1)[0], r.await("error", 1)[0]
		if details := fault.Headers["PikaBus.ErrorDetails"]; details == "" || details != parked.Headers["PikaBus.ErrorDetails"] {
			t.Errorf("the answer says %q, the parked message %q", details, parked.Headers["PikaBus.ErrorDetails"])
		}
		if string(fault.Body) != "{}" || fault.CorrelationId != "question" || fault.Headers["PikaBus.Fault"] != "failed" {
			t.Errorf("got %s, %q, %v", fault.Body, fault.CorrelationId, fault.Headers)
		}
		// The service does not answer messages that nobody waits for.
		question.Headers = nil
		r.publish(ch, "orders", question)
		r.await("error", 2)
		r.await("answers", 1)
	})
}

// TestRequestRetried: retries go on while somebody waits, and only so long.
func TestRequestRetried(t *testing.T) {
	for name, c := range map[string]struct {
		timeout  time.Duration
		attempts int
	}{"in time": {5 * time.Minute, 3}, "too late": {4 * time.Second, 2}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup(r.config("orders"))
				attempts := 0
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
					if attempts++; attempts < 3 {
						return errors.New("busy")
					}
					return bus.Reply(ctx, answer(o))
				})
				r.start(s)
				ctx, cancel := context.WithTimeout(r.ctx, c.timeout)
				defer cancel()
				got, err := harebus.Request[answer](ctx, s.Bus(), "orders", order{4})
				if in := c.attempts == 3; in != (err == nil && got.ID == 4) || in == errors.As(err, new(*harebus.FaultError)) {
					t.Errorf("got %v, %v", got, err)
				}
				r.quiet("error")
				if attempts != c.attempts {
					t.Errorf("%d attempts", attempts)
				}
			})
		})
	}
}

// TestRequestUnroutable: a queue that does not exist is an error at once.
func TestRequestUnroutable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		s := r.setup(r.config(""))
		_, err := harebus.Request[answer](r.ctx, s.Bus(), "nowhere", order{1})
		var failed *harebus.PublishError
		if !errors.As(err, &failed) || !errors.Is(err, harebus.ErrUnroutable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if s.Waiting() != 0 {
			t.Error("the request is still known")
		}
	})
}

// TestRequestRefused: what could have no reply is refused before anything is sent.
func TestRequestRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "orders")
		s := r.setup(r.config(""))
		ended, cancel := context.WithCancel(r.ctx)
		cancel()
		checkOnly := r.config("")
		checkOnly.Declare.Mode = harebus.CheckOnly
		stopped := r.setup(r.config(""))
		if err := stopped.Close(); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			ctx   context.Context
			setup *harebus.Setup
			opt   harebus.SendOption
			want  error
		}{
			"ended context": {ended, s, nil, harebus.ErrNotSent},
			"canceled":      {ended, s, nil, context.Canceled},
			"stopped":       {r.ctx, stopped, nil, harebus.ErrStopped},
			"check only":    {r.ctx, r.setup(checkOnly), nil, harebus.ErrRefused},
			"reply address": {r.ctx, s, harebus.WithReplyTo("x"), harebus.ErrRefused},
			"expiration":    {r.ctx, s, harebus.WithExpiration(time.Second), harebus.ErrRefused},
			"optional":      {r.ctx, s, harebus.NonMandatory(), harebus.ErrRefused},
		} {
			if _, err := harebus.Request[answer](c.ctx, c.setup.Bus(), "orders", order{1}, c.opt); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		type unnamed struct{}
		if _, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", unnamed{}); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("no wire name: got %v", err)
		}
		r.await("orders", 0)
	})
}

// TestRequestTwiceTheSameID: two requests cannot wait for one correlation id.
func TestRequestTwiceTheSameID(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "orders")
		s := r.setup(r.config(""))
		errs := make(chan error, 2)
		ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
		defer cancel()
		for range 2 {
			go func() {
				_, err := harebus.Request[answer](ctx, s.Bus(), "orders", order{1}, harebus.WithCorrelationID("one"))
				errs <- err
			}()
		}
		if err := receive(r, errs); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("first ended %v", err)
		}
		if err := receive(r, errs); !errors.Is(err, harebus.ErrNoReply) {
			t.Errorf("then %v", err)
		}
		r.empty("orders") // it has expired
	})
}

// TestRequestInHandler: it is refused, because it would wait for itself; with Immediately it
// is sent at once, also from a transaction's context.
func TestRequestInHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		s := r.setup(r.config("asking"))
		got := make(chan answer, 1)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			for _, b := range []*harebus.Bus{bus, s.Bus()} {
				if _, err := harebus.Request[answer](ctx, b, "orders", o); !errors.Is(err, harebus.ErrRequestInHandler) || !errors.Is(err, harebus.ErrRefused) {
					t.Errorf("got %v", err)
				}
			}
			reply, err := harebus.Request[answer](ctx, bus, "orders", o, harebus.Immediately())
			got <- reply
			return err
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "asking", order{8}); err != nil {
			t.Fatal(err)
		}
		if reply := receive(r, got); reply.ID != 8 {
			t.Errorf("got %v", reply)
		}
		i, err := s.Invoke(r.ctx, order{8})
		if err != nil || !errors.Is(i.Err, harebus.ErrRefused) {
			t.Errorf("invoked: %v, %v", err, i.Err)
		}
		receive(r, got)
		// A transaction of its own has no part in a request.
		err = s.Bus().Transaction(r.ctx, func(ctx context.Context, _ *harebus.Tx) error {
			_, err := harebus.Request[answer](ctx, s.Bus(), "orders", order{10})
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestRequestOfAHandlerThatRunsAgain: each run asks anew, with another id, because a service
// that remembers ids would not reply to the second request.
func TestRequestOfAHandlerThatRunsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var ids []string
		plainServer(r, "rpc", func(d amqp.Delivery) []amqp.Publishing {
			ids = append(ids, d.MessageId)
			return []amqp.Publishing{{Body: []byte(`{}`)}}
		})
		s := r.setup(r.config("asking"))
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if _, err := harebus.Request[answer](ctx, bus, "rpc", o, harebus.Immediately()); err != nil {
				return err
			}
			if len(ids) == 1 {
				return errors.New("again")
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "asking", order{8}); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		if len(ids) != 2 || ids[0] == ids[1] {
			t.Errorf("the ids are %q", ids)
		}
	})
}

// TestRequestWithoutAnAnswer: nobody replies, and the request ends with its context, or after
// 30 seconds; so does the message.
func TestRequestWithoutAnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config(""))
		ch := r.channel()
		for name, c := range map[string]struct {
			timeout time.Duration
			want    error
		}{
			"default":  {0, context.DeadlineExceeded},
			"deadline": {10 * time.Second, context.DeadlineExceeded},
			"canceled": {-1, context.Canceled},
		} {
			ctx, cancel := context.WithCancel(r.ctx)
			ctx = context.WithoutCancel(ctx) // no deadline
			wait := 30 * time.Second
			switch {
			case c.timeout > 0:
				ctx, cancel = context.WithTimeout(ctx, c.timeout)
				wait = c.timeout
			case c.timeout < 0:
				ctx, cancel = context.WithCancel(ctx)
				wait = time.Second
				time.AfterFunc(wait, cancel)
			}
			r.bound(ch, name)
			began := time.Now()
			_, err := harebus.Request[answer](ctx, s.Bus(), name, order{1})
			cancel()
			var failed *harebus.RequestError
			if !errors.As(err, &failed) || failed.Queue != name || failed.MessageID == "" || !errors.Is(err, harebus.ErrNoReply) || !errors.Is(err, c.want) {
				t.Errorf("%s: got %v", name, err)
			}
			if took := time.Since(began); took < wait || took > wait+time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
			r.empty(name)
			if s.Waiting() != 0 {
				t.Errorf("%s: the request is still known", name)
			}
		}
	})
}

// plainServer answers each message of a queue with what reply makes of it.
func plainServer(r *rig, queue string, reply func(amqp.Delivery) []amqp.Publishing) {
	r.t.Helper()
	ch := r.channel()
	r.declare(ch, queue)
	requests, err := ch.ConsumeWithContext(r.ctx, queue, "", true, false, false, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		for d := range requests {
			for _, p := range reply(d) {
				p.CorrelationId = d.CorrelationId
				_ = ch.PublishWithContext(r.ctx, "", d.ReplyTo, false, false, p)
			}
		}
	}()
}

// TestRequestOfAPlainServer: a server that knows reply_to and correlation_id only is enough,
// and what it answers is decoded, or an error that has the reply.
func TestRequestOfAPlainServer(t *testing.T) {
	big := plain(strings.Repeat(" ", 200) + "{}")
	deep := amqp.Table{"x": 1}
	for range 40 {
		deep = amqp.Table{"x": deep}
	}
	for name, c := range map[string]struct {
		reply []amqp.Publishing
		ok    bool
		want  error
		check func(error) bool
	}{
		"typed":     {[]amqp.Publishing{{Type: "Answer", ContentType: "application/json", Body: []byte(`{"ID":7}`)}}, true, nil, nil},
		"untyped":   {[]amqp.Publishing{{Body: []byte(`{"ID":7}`)}}, true, nil, nil},
		"two":       {[]amqp.Publishing{{Body: []byte(`{"ID":7}`)}, {Body: []byte(`{"ID":8}`)}}, true, nil, nil},
		"else":      {[]amqp.Publishing{{Type: "Other", Body: []byte(`{}`)}}, false, harebus.ErrUnexpectedReply, nil},
		"no JSON":   {[]amqp.Publishing{{Body: []byte(`{`)}}, false, nil, rejected("bad-payload")},
		"content":   {[]amqp.Publishing{{ContentType: "image/png", Body: []byte(`{`)}}, false, nil, rejected("unsupported-content")},
		"too large": {[]amqp.Publishing{big}, false, nil, rejected("too-large")},
		"header":    {[]amqp.Publishing{{Headers: amqp.Table{"PikaBus.MessageType": int32(1)}, Body: []byte(`{}`)}}, false, nil, rejected("bad-header")},
		"headers":   {[]amqp.Publishing{{Headers: deep, Body: []byte(`{}`)}}, false, nil, rejected("bad-header")},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				plainServer(r, "rpc", func(amqp.Delivery) []amqp.Publishing { return c.reply })
				cfg := r.config("")
				cfg.Payload.MaxBody = 100
				s := r.setup(cfg)
				got, err := harebus.Request[answer](r.ctx, s.Bus(), "rpc", order{7})
				var failed *harebus.RequestError
				switch {
				case c.ok:
					if err != nil || got.ID != 7 {
						t.Errorf("got %v, %v", got, err)
					}
				case !errors.As(err, &failed) || failed.Reply == nil:
					t.Errorf("got %v", err)
				case c.want != nil && !errors.Is(err, c.want), c.check != nil && !c.check(err):
					t.Errorf("got %v", err)
				}
				r.quiet()
				if late := s.Stats().LateReplies; late != uint64(len(c.reply)-1) {
					t.Errorf("%d replies came late", late)
				}
			})
		})
	}
}

func rejected(reason string) func(error) bool {
	return func(err error) bool {
		var r *harebus.RejectError
		return errors.As(err, &r) && r.Reason == reason
	}
}

// TestRequestForAny: a caller that expects several types takes the message.
func TestRequestForAny(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		s := r.setup(r.config(""))
		m, err := harebus.Request[*harebus.Message](r.ctx, s.Bus(), "orders", order{6})
		if err != nil || m.Type != "Answer" {
			t.Fatalf("got %v, %v", m, err)
		}
		var got answer
		if err := m.Decode(&got); err != nil || got.ID != 6 {
			t.Errorf("got %v, %v", got, err)
		}
		raw, err := harebus.Request[map[string]any](r.ctx, s.Bus(), "orders", order{6})
		if err != nil || fmt.Sprint(raw) != "map[ID:6]" {
			t.Errorf("got %v, %v", raw, err)
		}
	})
}

// TestRequestPanics: foreign code in a reply type is guarded.
func TestRequestPanics(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		plainServer(r, "rpc", func(amqp.Delivery) []amqp.Publishing { return []amqp.Publishing{{Body: []byte(`{}`)}} })
		s := r.setup(r.config(""))
		_, err := harebus.Request[panicking](r.ctx, s.Bus(), "rpc", order{7})
		if !errors.As(err, new(*harebus.PanicError)) {
			t.Errorf("got %v", err)
		}
	})
}

type panicking struct{}

func (*panicking) Validate() error { panic("no") }

// TestRequestTooLate: a reply that comes too late is counted and thrown away.
func TestRequestTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		plainServer(r, "rpc", func(amqp.Delivery) []amqp.Publishing {
			time.Sleep(20 * time.Second) // virtual: the server takes that long
			return []amqp.Publishing{{Body: []byte(`{}`)}}
		})
		s := r.setup(r.config(""))
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		if _, err := harebus.Request[answer](ctx, s.Bus(), "rpc", order{7}); !errors.Is(err, harebus.ErrNoReply) {
			t.Errorf("got %v", err)
		}
		time.Sleep(15 * time.Second)
		r.quiet()
		if late := s.Stats().LateReplies; late != 1 {
			t.Errorf("%d replies came late", late)
		}
	})
}

// TestRepliesToReplyQueues: a policy that allows a service's queue allows its reply queues.
func TestRepliesToReplyQueues(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, func(c *harebus.Config) { c.Reply.Policy = harebus.RepliesTo("shop") })
		if got, err := harebus.Request[answer](r.ctx, r.setup(r.config("shop")).Bus(), "orders", order{2}); err != nil || got.ID != 2 {
			t.Errorf("got %v, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		if _, err := harebus.Request[answer](ctx, r.setup(r.config("other")).Bus(), "orders", order{2}); !errors.Is(err, harebus.ErrNoReply) {
			t.Errorf("got %v", err)
		}
		r.await("error", 1)
	})
}

// TestReplyToNobody: a reply whose requester has gone does not make the handler fail.
func TestReplyToNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		begun, gone, attempts := make(chan struct{}), make(chan struct{}), 0
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			attempts++
			close(begun)
			<-gone
			return bus.Reply(ctx, answer(o))
		})
		r.start(s)
		asking := r.setup(r.config(""))
		ended := make(chan error, 1)
		go func() {
			_, err := harebus.Request[answer](r.ctx, asking.Bus(), "orders", order{2})
			ended <- err
		}()
		receive(r, begun)
		if err := asking.Close(); err != nil {
			t.Error(err)
		}
		if err := receive(r, ended); !errors.Is(err, harebus.ErrStopped) {
			t.Errorf("the request ended with %v", err)
		}
		close(gone)
		r.quiet()
		if attempts != 1 || s.Stats().Handled != 1 {
			t.Errorf("%d attempts, %d handled", attempts, s.Stats().Handled)
		}
	})
}

// TestRequestOutlivesTheConnection: the reply that comes while there is no connection waits
// in the reply queue.
func TestRequestOutlivesTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		begun := make(chan struct{}, 1)
		plainServer(r, "rpc", func(amqp.Delivery) []amqp.Publishing {
			begun <- struct{}{}
			<-release
			return []amqp.Publishing{{Body: []byte(`{"ID":7}`)}}
		})
		cfg := r.config("")
		cfg.Connect.Name = "asking"
		s := r.setup(cfg)
		type result struct {
			got answer
			err error
		}
		results := make(chan result, 1)
		go func() {
			got, err := harebus.Request[answer](r.ctx, s.Bus(), "rpc", order{7})
			results <- result{got, err}
		}()
		receive(r, begun)
		r.broker.Refuse(time.Second)
		r.broker.CutConnections("asking consume", "asking publish")
		close(release) // the reply comes at once, the new connection later
		if got := receive(r, results); got.err != nil || got.got.ID != 7 {
			t.Errorf("got %v, %v", got.got, got.err)
		}
		if n := len(r.replyQueues()); n != 1 {
			t.Errorf("%d reply queues", n)
		}
	})
}

// TestRequestWithoutItsQueue: when the reply queue is deleted, every request that waits
// fails at once, and the next one has another queue.
func TestRequestWithoutItsQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		ch := r.channel()
		r.bound(ch, "silent")
		s := r.setup(r.config(""))
		began := time.Now()
		const n = 10
		errs := make(chan error, n)
		for range n {
			go func() {
				_, err := harebus.Request[answer](r.ctx, s.Bus(), "silent", order{2})
				errs <- err
			}()
		}
		r.await("silent", n)
		name := r.replyQueues()[0]
		if _, err := ch.QueueDelete(name, false, false, false); err != nil {
			t.Fatal(err)
		}
		for range n {
			if err := receive(r, errs); !errors.Is(err, harebus.ErrReplyLost) || !errors.As(err, new(*harebus.RequestError)) {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if got, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", order{4}); err != nil || got.ID != 4 {
			t.Errorf("after it: %v, %v", got, err)
		}
		if now := r.replyQueues(); len(now) != 1 || now[0] == name {
			t.Errorf("reply queues: %q", now)
		}
	})
}

// TestRequestBetweenTwoQueues: a request that is made after the reply queue has gone, and before
// there is another, waits for that.
func TestRequestBetweenTwoQueues(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		ch := r.channel()
		s := r.setup(r.config(""))
		request := func() error {
			_, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", order{2})
			return err
		}
		if err := request(); err != nil {
			t.Fatal(err)
		}
		gone := r.replyQueues()[0]
		held := r.broker.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Hold, Match: func(f brokertest.Frame) bool {
			return strings.Contains(f.Queue, ".replies.") && f.Queue != gone
		}})
		if _, err := ch.QueueDelete(gone, false, false, false); err != nil {
			t.Fatal(err)
		}
		if err := held.WaitFired(r.ctx, 1); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 1)
		go func() { errs <- request() }()
		time.Sleep(time.Second) // virtual
		held.Release()
		if err := receive(r, errs); err != nil {
			t.Error(err)
		}
	})
}

// TestRequestAfterALongOutage: a broker that is away for longer than the reply queue lives
// makes requests fail when it is back, and not before.
func TestRequestAfterALongOutage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "silent")
		s := r.setup(r.config(""))
		errs := make(chan error, 1)
		ctx, cancel := context.WithTimeout(r.ctx, 9*time.Minute)
		defer cancel()
		go func() {
			_, err := harebus.Request[answer](ctx, s.Bus(), "silent", order{2})
			errs <- err
		}()
		r.await("silent", 1)
		r.broker.Refuse(6 * time.Minute)
		r.broker.CutConnections()
		time.Sleep(6*time.Minute - time.Second)
		select {
		case err := <-errs:
			t.Fatalf("too early: %v", err)
		default:
		}
		if names := r.replyQueues(); len(names) != 0 {
			t.Errorf("reply queues: %q", names)
		}
		if err := receive(r, errs); !errors.Is(err, harebus.ErrReplyLost) {
			t.Errorf("got %v", err)
		}
	})
}

// TestRequestWhoseQueueIsRefused: a user who may not declare the reply queue learns that at
// once, and a later request tries again.
func TestRequestWhoseQueueIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		responder(r, nil)
		s := r.setup(r.config(""))
		r.broker.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Raise, Code: 403, Text: "no"})
		began := time.Now()
		_, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", order{2})
		var broker *amqp.Error
		if !errors.Is(err, harebus.ErrNotSent) || !errors.As(err, &broker) || broker.Code != 403 || time.Since(began) > time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if got, err := harebus.Request[answer](r.ctx, s.Bus(), "orders", order{2}); err != nil || got.ID != 2 {
			t.Errorf("then %v, %v", got, err)
		}
	})
}
