package harebus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// xor is a guard for tests. It keeps the identities that it has seen.
type xor struct {
	name       string
	trouble    error // of Admit
	mu         sync.Mutex
	sent, came []harebus.Identity
}

func (x *xor) flip(body []byte) []byte {
	flipped := bytes.Clone(body)
	for i := range flipped {
		flipped[i] ^= 0x55
	}
	return flipped
}

func (x *xor) Protect(_ context.Context, id *harebus.Identity, p *harebus.Payload) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent = append(x.sent, *id)
	p.Signature += x.name + " " + p.ContentType + " " + p.ContentEncoding + ";"
	p.Body, p.ContentType, p.ContentEncoding = x.flip(p.Body), "application/x-"+x.name, ""
	return nil
}

func (x *xor) Admit(_ context.Context, id *harebus.Identity, p *harebus.Payload) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.came = append(x.came, *id)
	p.Confidential = true
	if x.trouble != nil {
		return x.trouble
	}
	if p.ContentType != "application/x-"+x.name {
		return &harebus.RejectError{Reason: "in-the-clear", Err: fmt.Errorf("a %s: %s", p.ContentType, p.Body)}
	}
	for note := range strings.SplitSeq(p.Signature, ";") {
		if f := strings.Split(note, " "); f[0] == x.name {
			p.Body, p.ContentType, p.ContentEncoding = x.flip(p.Body), f[1], f[2]
		}
	}
	return nil
}

// TestGuards: guards protect compressed bodies in their order and open them in reverse
// order, and see the same identity at both ends, also after a delay and a retry.
func TestGuards(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := &xor{name: "a"}, &xor{name: "b"}
		cfg := r.config("notes")
		cfg.Payload.Guards = []harebus.Guard{a, b}
		cfg.Payload.Compress.With = harebus.Gzip{}
		s := r.setup(cfg)
		got := make(chan *harebus.Message, 2)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, n note) error {
			got <- harebus.Incoming(ctx)
			if n != longNote {
				t.Errorf("the handler got %.60q", n.Text)
			}
			if harebus.Incoming(ctx).Attempt == 1 {
				return errors.New("once more")
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Defer(r.ctx, "notes", time.Minute, longNote, harebus.WithHeader("tenant", "x"), harebus.WithReplyTo("answers")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			m := receive(r, got)
			if m.Properties.ContentType != "application/x-b" || m.ContentType != "application/json" || m.ContentEncoding != "" {
				t.Errorf("on the wire %q, for the handler %q, %q", m.Properties.ContentType, m.ContentType, m.ContentEncoding)
			}
		}
		sent := a.sent[0]
		if sent.RoutingKey != "notes" || sent.NotBefore.IsZero() || sent.ID == "" || sent.Type != "Note" || sent.ReplyTo != "answers" || sent.Headers["tenant"] != "x" {
			t.Errorf("sent %+v", sent)
		}
		for _, came := range append(a.came, b.came...) {
			if came.Queue != "notes" || came.Headers["tenant"] != "x" {
				t.Errorf("came %+v", came)
			}
			came.Queue, came.Headers = "", nil
			want := sent
			want.Exchange, want.RoutingKey, want.Queue, want.NotBefore, want.Headers = "", "", "", time.Time{}, nil
			if fmt.Sprint(came) != fmt.Sprint(want) {
				t.Errorf("came %+v\nsent %+v", came, want)
			}
		}
	})
}

// TestConfidential: of a message that a guard calls confidential, no error text reaches the
// error queue, the log or an observer.
func TestConfidential(t *testing.T) {
	const secret = "canary-4711"
	fails := map[string]func() error{
		"handler": func() error { return errors.New("bad " + secret) },
		"panic":   func() error { panic("bad " + secret) },
		"reject":  func() error { return &harebus.RejectError{Reason: "bad-payload", Err: errors.New(secret)} },
		"asks":    func() error { return harebus.NoRetry(errors.New(secret)) },
	}
	for name, fail := range fails {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("notes")
				logger, logs := observed()
				cfg.Logger = logger
				cfg.Payload.Guards = []harebus.Guard{&xor{name: "a"}}
				cfg.Retry.MaxRetries = 1
				told := &texts{}
				cfg.Observers = []harebus.Observer{told}
				s := r.setup(cfg)
				var asked error
				harebus.Handle(s, func(context.Context, *harebus.Bus, note) error { return fail() },
					harebus.WithGivenUp(func(_ context.Context, _ *harebus.Bus, _ *harebus.Message, err error) error {
						asked = err
						return errors.New(secret)
					}))
				r.start(s)
				if err := s.Bus().Send(r.ctx, "notes", note{secret}); err != nil {
					t.Fatal(err)
				}
				parked := r.await("error", 1)[0]
				for key, value := range parked.Headers {
					if strings.Contains(fmt.Sprint(value), secret) {
						t.Errorf("header %s: %v", key, value)
					}
				}
				if bytes.Contains(parked.Body, []byte(secret)) {
					t.Error("the body is in the clear")
				}
				for _, entry := range logs.All() {
					if strings.Contains(fmt.Sprint(entry.Message, entry.ContextMap()), secret) {
						t.Errorf("log: %v %v", entry.Message, entry.ContextMap())
					}
				}
				if text := told.all(); strings.Contains(text, secret) {
					t.Errorf("observers are told: %s", text)
				}
				if asked == nil || !strings.Contains(asked.Error(), secret) {
					t.Errorf("the function of WithGivenUp, which is code of this process, got %v", asked)
				}
			})
		})
	}
}

// texts is an observer that keeps the texts of errors.
type texts struct {
	mu   sync.Mutex
	list []string
}

func (o *texts) ObserveStart(ctx context.Context, seen harebus.Observation) context.Context {
	o.add(seen.Err)
	return ctx
}
func (o *texts) ObserveEnd(_ context.Context, _ harebus.Observation, err error) { o.add(err) }

func (o *texts) add(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, fmt.Sprintf("%v %+v", err, err))
}

func (o *texts) all() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.list, "\n")
}

// TestGuardRefuses: a guard that does not admit a message parks it; one that cannot decide
// has it postponed without a failure.
func TestGuardRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		guard := &xor{name: "a"}
		cfg := r.config("notes")
		cfg.Logger = zap.NewNop()
		cfg.Payload.Guards = []harebus.Guard{guard}
		s := r.setup(cfg)
		got := make(chan note, 1)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, n note) error { got <- n; return nil })
		r.start(s)
		r.publish(r.channel(), "notes", amqp.Publishing{Type: "Note", Body: []byte(`{"Text":"canary"}`)})
		details := fmt.Sprint(r.await("error", 1)[0].Headers[prefixed("ErrorDetails")])
		contains(t, details, "in-the-clear")
		if strings.Contains(details, "canary") {
			t.Errorf("the details quote the message: %s", details)
		}
		guard.mu.Lock()
		guard.trouble = harebus.Postpone(30*time.Second, errors.New("the key service is away"))
		guard.mu.Unlock()
		if err := s.Bus().Send(r.ctx, "notes", note{"later"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if stats := s.Stats(); stats.Parked != 1 || stats.Retried != 0 || stats.Postponed < 8 {
			t.Errorf("parked %d, retried %d, postponed %d", stats.Parked, stats.Retried, stats.Postponed)
		}
		guard.mu.Lock()
		guard.trouble = nil
		guard.mu.Unlock()
		if n := receive(r, got); n.Text != "later" {
			t.Errorf("got %q", n.Text)
		}
	})
}

// bound is a guard that binds a due time to the message.
type bound struct{ due time.Time }

func (bound) Protect(context.Context, *harebus.Identity, *harebus.Payload) error { return nil }

func (b *bound) Admit(_ context.Context, id *harebus.Identity, p *harebus.Payload) error {
	if id.Headers["first"] != nil && id.Headers[prefixed("DeferredTime")] == nil {
		return harebus.Postpone(30*time.Second, errors.New("the key service is away"))
	}
	p.DueAt = b.due
	return nil
}

// TestBoundDueTime: a due time that a guard reports holds, also when the header is gone and
// when the message has been in the delay queues for another reason; and waiting for it is no
// failure.
func TestBoundDueTime(t *testing.T) {
	for name, headers := range map[string]amqp.Table{"header removed": nil, "postponed before": {"first": true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				due := time.Now().Add(5 * time.Minute)
				cfg := r.config("notes")
				cfg.Payload.Guards = []harebus.Guard{&bound{due}}
				s := r.setup(cfg)
				got := make(chan *harebus.Message, 1)
				harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ note) error {
					got <- harebus.Incoming(ctx)
					return nil
				})
				r.start(s)
				r.publish(r.channel(), "notes", amqp.Publishing{Type: "Note", Headers: headers, Body: []byte(`{}`)})
				m := receive(r, got)
				if early := time.Until(due); early > 0 {
					t.Errorf("handled %v early", early)
				}
				if headers == nil && (!m.FirstFailed.IsZero() || s.Stats().Failed != 0) {
					t.Errorf("first failed %v, %d failed", m.FirstFailed, s.Stats().Failed)
				}
			})
		})
	}
}

// TestForgedFault: a fault in the headers of a reply that a guard has to admit first.
func TestForgedFault(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		cfg.Payload.Guards = []harebus.Guard{&xor{name: "a"}}
		s := r.setup(cfg)
		r.start(func() *harebus.Setup {
			harebus.Handle(s, func(context.Context, *harebus.Bus, note) error { return nil })
			return s
		}())
		ch := r.channel()
		r.declare(ch, "requests")
		answer := make(chan error, 1)
		go func() {
			_, err := harebus.Request[note](r.ctx, s.Bus(), "requests", note{"a"})
			answer <- err
		}()
		request := r.await("requests", 1)[0]
		r.publish(ch, request.ReplyTo, amqp.Publishing{
			Type: "harebus.Fault", CorrelationId: request.CorrelationId, Body: []byte("{}"),
			Headers: amqp.Table{prefixed("Fault"): "failed", prefixed("ErrorDetails"): "forged"},
		})
		err := receive(r, answer)
		var fault *harebus.FaultError
		var reject *harebus.RejectError
		if errors.As(err, &fault) || !errors.As(err, &reject) {
			t.Errorf("the error is %v", err)
		}
	})
}

// TestForwardTwice: envelopes that are due do not change while two calls forward them.
func TestForwardTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("notes"))
		harebus.Handle(s, func(context.Context, *harebus.Bus, note) error { return nil })
		r.start(s)
		tx := s.Bus().Begin()
		if err := tx.Defer(r.ctx, "notes", time.Second, note{"a"}); err != nil {
			t.Fatal(err)
		}
		envelopes, err := tx.Detach()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := errors.Join(s.Bus().Forward(r.ctx, envelopes)...); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if head, err := envelopes[0].Head(); err != nil || !bytes.Contains(head, []byte(prefixed("DeferredTime"))) {
			t.Errorf("the envelope has changed: %q, %v", head, err)
		}
	})
}
