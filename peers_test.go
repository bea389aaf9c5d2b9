package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/wolverine"
)

// peerDialect is Wolverine's, for the types of the tests.
func peerDialect() *wolverine.Dialect {
	return wolverine.New(wolverine.Config{Types: dialect.Types{"Order": "Acme.Order", "Answer": "Acme.Answer"}})
}

const guid = "08df4d3e-f5b2-6611-0200-000000000000"

// fromPeer is an order as Wolverine sends it; headers come on top.
func fromPeer(headers amqp.Table) amqp.Publishing {
	all := amqp.Table{"wolverine-protocol-version": "1.0", "conversation-id": guid, "sent-at": "2026-11-28 10:52:49:361793 Z", "tenant-id": "acme"}
	maps.Copy(all, headers)
	return amqp.Publishing{MessageId: guid, Type: "Acme.Order", ContentType: "application/json", Headers: all, Body: []byte(`{"ID":7}`)}
}

// copycat is a dialect that takes messages with a header. It is called by another name.
type copycat struct {
	dialect.Dialect
	name, mark string
}

func (c copycat) Name() string { return c.name }
func (c copycat) Read(w *dialect.Wire) (*dialect.Envelope, bool, error) {
	switch mark := w.Headers[c.mark]; mark {
	case nil:
		return nil, false, nil
	case "panic":
		panic("mark")
	case "forged":
		return &dialect.Envelope{
			Type: "Answer", Headers: map[string]any{"PikaBus.Parking": true, "PikaBus.ErrorRetries": 99, "x-death": "x", "tenant": "forged", "baggage": "b"}, Body: []byte("{}"),
		}, true, nil
	case "long":
		return &dialect.Envelope{Type: strings.Repeat("x", 300)}, true, nil
	}
	return &dialect.Envelope{ID: "copied", Type: "Answer", Body: []byte(`{"ID":8}`)}, true, nil
}

// TestDialectsInOrder: harebus' own messages are recognised first, then the dialects are asked in order. Start says that two
// take the same messages.
func TestDialectsInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		core, logs := observer.New(zap.WarnLevel)
		cfg.Logger = zap.New(core)
		second := copycat{name: "second", mark: "wolverine-protocol-version"}
		third := copycat{name: "third", mark: "third"}
		cfg.Payload.Dialects = []dialect.Dialect{peerDialect(), second, third}
		s := r.setup(cfg)
		got := make(chan *harebus.Message, 10)
		take := func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error { got <- m; return nil }
		s.HandleMessage("Order", take)
		s.HandleMessage("Answer", take)
		r.start(s)
		if n := logs.FilterMessageSnippet("their order decides").Len(); n != 1 {
			t.Errorf("%d warnings: %v", n, logs.All())
		}
		ch := r.channel()
		r.publish(ch, "orders", fromPeer(nil))
		if m := receive(r, got); m.Type != "Order" || m.ID != guid || string(m.Body) != `{"ID":7}` || m.CorrelationID != guid || m.Headers["tenant-id"] != "acme" {
			t.Errorf("got %+v", m)
		}
		r.publish(ch, "orders", amqp.Publishing{Headers: amqp.Table{"third": "x"}})
		if m := receive(r, got); m.Type != "Answer" || m.ID != "copied" || string(m.Body) != `{"ID":8}` {
			t.Errorf("got %+v", m)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{9}, harebus.WithHeader("third", "x")); err != nil {
			t.Fatal(err)
		}
		if m := receive(r, got); m.Type != "Order" || string(m.Body) != `{"ID":9}` {
			t.Errorf("got %+v", m)
		}
	})
}

// TestUnknownDialect: a copy whose dialect this instance does not have is retried, because another instance of the service may have it, whatever else is
// configured; then it is parked. It is neither dropped nor handled as if it were harebus' own.
func TestUnknownDialect(t *testing.T) {
	for name, dialects := range map[string][]dialect.Dialect{"none": nil, "another": {copycat{name: "copycat", mark: "mark"}}} {
		for _, mode := range []harebus.UnhandledMode{harebus.UnhandledRetry, harebus.UnhandledPark, harebus.UnhandledIgnore} {
			for _, value := range []any{"elvish", int32(7)} {
				t.Run(fmt.Sprint(name, " ", mode, " ", value), func(t *testing.T) {
					bubble(t, func(t *testing.T, r *rig) {
						cfg := r.config("orders")
						cfg.Payload.Dialects, cfg.Handling.Unhandled = dialects, mode
						cfg.Retry = harebus.RetryConfig{MaxRetries: 2, BackOff: steady}
						s := r.setup(cfg)
						s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error {
							t.Error("handled")
							return nil
						})
						r.start(s)
						p := fromPeer(amqp.Table{"PikaBus.Dialect": value, "PikaBus.MessageId": guid})
						r.publish(r.channel(), "orders", p)
						parked := r.await("error", 1)[0]
						contains(t, fmt.Sprintf("%q", parked.Headers["PikaBus.ErrorDetails"]), "unknown-dialect", "which Config.Payload.Dialects does not have")
						if string(parked.Body) != string(p.Body) || parked.Headers["PikaBus.Dialect"] != value || fmt.Sprint(parked.Headers["PikaBus.ErrorRetries"]) != "3" {
							t.Errorf("parked is %s, %v", parked.Body, parked.Headers)
						}
					})
				})
			}
		}
	}
}

// TestDialectOfACopy: what has the marks of a dialect and cannot be read is parked, as it came.
func TestDialectOfACopy(t *testing.T) {
	for name, c := range map[string]struct {
		headers amqp.Table
		want    string
	}{
		"panic": {amqp.Table{"mark": "panic"}, "a message of copycat: panic: mark"},
		"long":  {amqp.Table{"mark": "long"}, "longer than 255 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Payload.Dialects = []dialect.Dialect{copycat{name: "copycat", mark: "mark"}}
				s := r.setup(cfg)
				s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error {
					t.Error("handled")
					return nil
				})
				r.start(s)
				p := plain(`{"ID":1}`)
				p.Headers = c.headers
				r.publish(r.channel(), "orders", p)
				parked := r.await("error", 1)
				contains(t, fmt.Sprintf("%q", parked[0].Headers["PikaBus.ErrorDetails"]), "bad-envelope", c.want)
				if string(parked[0].Body) != `{"ID":1}` {
					t.Errorf("the body is %s", parked[0].Body)
				}
			})
		})
	}
}

// TestReplyInTheDialect: a reply is written as the message that it answers, to an address that the policy allows.
func TestReplyInTheDialect(t *testing.T) {
	for name, c := range map[string]struct {
		uri, want string
		policy    harebus.ReplyPolicy
	}{
		"queue":             {"rabbitmq://queue/answers", "", nil},
		"exchange":          {"rabbitmq://exchange/answers", "does not begin with rabbitmq://queue/", nil},
		"policy":            {"rabbitmq://queue/answers", "not one of the allowed", harebus.RepliesTo("others")},
		"error queue":       {"rabbitmq://queue/error", "is the error queue", nil},
		"queue of a broker": {"rabbitmq://queue/amq.gen-x", "Config.Reply.Reserved", nil},
		"path":              {"rabbitmq://queue/../answers", "is a path", nil},
		"none":              {"", "no reply address", nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Payload.Dialects = []dialect.Dialect{peerDialect()}
				cfg.Reply.Policy = c.policy
				s := r.setup(cfg)
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Reply(ctx, answer{o.ID + 1}) })
				r.start(s)
				ch := r.channel()
				r.declare(ch, "answers")
				headers := amqp.Table{"reply-requested": "Acme.Answer"}
				if c.uri != "" {
					headers["reply-uri"] = c.uri
				}
				r.publish(ch, "orders", fromPeer(headers))
				if c.want != "" {
					contains(t, fmt.Sprint(r.await("error", 1)[0].Headers["PikaBus.ErrorDetails"]), c.want)
					if n := len(r.broker.Messages("answers")); n != 0 && c.policy != nil {
						t.Errorf("%d answers", n)
					}
					return
				}
				m := r.await("answers", 1)[0]
				if m.Type != "Acme.Answer" || string(m.Body) != `{"ID":8}` || m.Headers["conversation-id"] != guid || m.Headers["is-response"] != "true" {
					t.Errorf("got %+v", m)
				}
				for key := range m.Headers {
					if strings.HasPrefix(key, "PikaBus.") {
						t.Errorf("the header %s is ours", key)
					}
				}
			})
		})
	}
}

// TestWrittenForAPeer: by queue or exchange, or for one call; and a call can do without.
func TestWrittenForAPeer(t *testing.T) {
	for name, c := range map[string]struct {
		queue, exchange string
		opts            []harebus.SendOption
		foreign         bool
	}{
		"a queue of a peer":      {queue: "theirs", foreign: true},
		"another queue":          {queue: "ours"},
		"as":                     {queue: "ours", opts: []harebus.SendOption{harebus.As(peerDialect())}, foreign: true},
		"as harebus":             {queue: "theirs", opts: []harebus.SendOption{harebus.As(nil)}},
		"an exchange of a peer":  {queue: "ours", exchange: "amq.topic", foreign: true},
		"another exchange":       {queue: "ours", exchange: "amq.direct"},
		"deferred":               {queue: "theirs", opts: []harebus.SendOption{harebus.WithTicket(new(harebus.Ticket))}, foreign: true},
		"with the peer's expiry": {queue: "theirs", opts: []harebus.SendOption{harebus.WithExpiration(time.Minute), harebus.WithPriority(3), harebus.WithAppID("shop")}, foreign: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("")
				d := peerDialect()
				cfg.Publish.Peers = map[string]dialect.Dialect{"theirs": d, "amq.topic": d}
				cfg.Payload.Compress = harebus.CompressConfig{With: harebus.Gzip{}, From: 1}
				bus := r.setup(cfg).Bus()
				ch := r.channel()
				r.bound(ch, "theirs", "ours")
				r.bind(ch, "amq.topic", "topic", "ours", "ours")
				r.bind(ch, "amq.direct", "direct", "ours", "ours")
				if c.exchange != "" {
					c.opts = append(c.opts, harebus.WithExchange(c.exchange))
				}
				big := wide{ID: 7, Text: strings.Repeat("x", 100)}
				var err error
				if name == "deferred" {
					err = bus.Defer(r.ctx, c.queue, time.Minute, big, c.opts...)
				} else {
					err = bus.Send(r.ctx, c.queue, big, append(c.opts, harebus.WithHeader("tenant", "acme"))...)
				}
				if err != nil {
					t.Fatal(err)
				}
				r.quiet("theirs", "ours")
				m := r.await(c.queue, 1)[0]
				if _, own := m.Headers["PikaBus.MessageId"]; own == c.foreign || (m.Headers["wolverine-protocol-version"] != nil) != c.foreign {
					t.Errorf("the headers are %v", m.Headers)
				}
				if c.foreign && (m.Type != "Acme.Order" || !strings.HasPrefix(string(m.Body), `{"ID":7,`) || name != "deferred" && m.Headers["tenant"] != "acme") {
					t.Errorf("got %+v", m)
				}
				if strings.Contains(name, "expiry") && (m.Publishing.Expiration != "60000" || m.Priority != 3 || m.AppId != "shop") {
					t.Errorf("got %+v", m)
				}
			})
		})
	}
}

// wide is an order that gzip makes smaller.
type wide struct {
	ID   int
	Text string
}

func (wide) MessageType() string { return "Order" }

// TestForgedHeaders: what a dialect finds in an envelope does not pass for a header of harebus or of the broker, nor replaces one.
func TestForgedHeaders(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Payload.Dialects = []dialect.Dialect{copycat{name: "copycat", mark: "mark"}}
		s := r.setup(cfg)
		got := make(chan *harebus.Message, 1)
		s.HandleMessage("Answer", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error { got <- m; return nil })
		r.start(s)
		p := plain("{}")
		p.Headers = amqp.Table{"mark": "forged", "tenant": "true"}
		r.publish(r.channel(), "orders", p)
		if m := receive(r, got); m.Attempt != 1 || !reflect.DeepEqual(m.Headers, map[string]any{"mark": "forged", "tenant": "true", "baggage": "b"}) {
			t.Errorf("attempt %d with %v", m.Attempt, m.Headers)
		}
	})
}

// TestRefusedForAPeer: what the peer could not read is an error of the call.
func TestRefusedForAPeer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d := peerDialect()
		bus := r.setup(r.config("")).Bus()
		guarded := r.config("")
		guarded.Payload.Guards = []harebus.Guard{noGuard{}}
		for want, err := range map[string]error{
			"not a GUID":                          bus.Send(r.ctx, "q", order{1}, harebus.As(d), harebus.WithMessageID("order-7")),
			"not in the Types of the dialect":     bus.Send(r.ctx, "q", order{1}, harebus.As(d), harebus.WithType("Strange")),
			"add the dialect wolverine to Config": func() error { _, err := harebus.Request[answer](r.ctx, bus, "q", order{1}, harebus.As(d)); return err }(),
			"could not read the body":             bus.Send(r.ctx, "q", order{1}, harebus.As(d), harebus.WithCompression(harebus.Gzip{})),
			"Config.Payload.Guards":               r.setup(guarded).Bus().Send(r.ctx, "q", order{1}, harebus.As(d)),
			"the dialect panics":                  bus.Send(r.ctx, "q", order{1}, harebus.As(copycat{name: "x"})),
		} {
			if !errors.Is(err, harebus.ErrRefused) || want != "the dialect panics" && !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
		cfg := r.config("q")
		cfg.Payload.Dialects = []dialect.Dialect{d, nil, copycat{name: "Wolverine!"}, peerDialect(), wolverine.New(wolverine.Config{Types: dialect.Types{"A": ""}})}
		cfg.Publish.Peers = map[string]dialect.Dialect{"q": nil}
		_, err := harebus.New(cfg)
		contains(t, fmt.Sprint(err), "Payload.Dialects[1] is nil", `"Wolverine!" is no name`, "Payload.Dialects[3] is \"wolverine\"", "neither name may be empty", `Publish.Peers["q"] is nil`)
	})
}

// noGuard lets everything through.
type noGuard struct{}

func (noGuard) Protect(context.Context, *harebus.Identity, *harebus.Payload) error { return nil }
func (noGuard) Admit(context.Context, *harebus.Identity, *harebus.Payload) error   { return nil }

// TestRequestInADialect: both directions, and both ends of a request that is given up.
func TestRequestInADialect(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Payload.Dialects = []dialect.Dialect{peerDialect()}
		cfg.Retry.MaxRetries = -1
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if o.ID < 0 {
				return errors.New("no such order")
			}
			return bus.Reply(ctx, answer{o.ID + 1})
		})
		r.start(s)
		client := r.config("client")
		client.Publish.Peers = map[string]dialect.Dialect{"orders": peerDialect()}
		bus := r.setup(client).Bus()
		got, err := harebus.Request[answer](r.ctx, bus, "orders", order{7})
		if err != nil || got.ID != 8 {
			t.Errorf("got %+v, %v", got, err)
		}
		_, err = harebus.Request[answer](r.ctx, bus, "orders", order{-7})
		var fault *harebus.FaultError
		if !errors.As(err, &fault) || fault.Details != "no such order" {
			t.Errorf("got %v", err)
		}
		r.quiet("error")
	})
}

// TestForeignIdentity: a guard is told what the dialect has read, so that content which was protected as one type is not
// taken for another.
func TestForeignIdentity(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		seen := make(chan harebus.Identity, 1)
		cfg.Payload.Dialects, cfg.Payload.Guards = []dialect.Dialect{peerDialect()}, []harebus.Guard{watching{seen}}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		r.publish(r.channel(), "orders", fromPeer(amqp.Table{"PikaBus.MessageType": "Answer", "PikaBus.MessageId": "7", "PikaBus.Dialect": "wolverine"}))
		if id := receive(r, seen); id.Type != "Order" || id.ID != guid {
			t.Errorf("the guard was told of %+v", id)
		}
	})
}

type watching struct{ seen chan harebus.Identity }

func (watching) Protect(context.Context, *harebus.Identity, *harebus.Payload) error { return nil }
func (w watching) Admit(_ context.Context, id *harebus.Identity, _ *harebus.Payload) error {
	w.seen <- *id
	return nil
}

// TestDeclaredFanout: the exchange of a type is declared as the peer declares it, also from an outbox; one that is there is used as it is.
func TestDeclaredFanout(t *testing.T) {
	for _, there := range []string{"", "fanout", "topic"} {
		t.Run(there, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if there != "" {
					r.bind(r.channel(), "Acme.Order", there, "")
				}
				s := r.setup(r.config(""))
				tx := s.Bus().Begin()
				if err := tx.Publish(r.ctx, "ignored", order{1}, harebus.As(peerDialect())); err != nil {
					t.Fatal(err)
				}
				envelopes, err := tx.Detach()
				if err != nil {
					t.Fatal(err)
				}
				head, err := envelopes[0].Head()
				if err != nil {
					t.Fatal(err)
				}
				stored, err := harebus.OpenEnvelope(envelopes[0].Exchange(), envelopes[0].RoutingKey(), head, envelopes[0].Body())
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(s.Bus().Forward(r.ctx, []harebus.Envelope{stored})...); err != nil {
					t.Error(err)
				}
				kind := there
				if kind == "" {
					kind = "fanout"
				}
				var found []string
				for _, x := range r.broker.Exchanges() {
					if x.Name == "Acme.Order" {
						found = append(found, x.Type, fmt.Sprint(x.Durable))
					}
				}
				if !reflect.DeepEqual(found, []string{kind, "true"}) {
					t.Errorf("found %v", found)
				}
			})
		})
	}
}
