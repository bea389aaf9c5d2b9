package harebus_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// everyKind buffers one message of each kind. The queue "out" takes all of them.
func everyKind(ctx context.Context, tx harebus.Sender) error {
	return errors.Join(
		tx.Send(ctx, "out", order{1}, harebus.WithHeader("tenant", "a"), harebus.WithPriority(3), harebus.WithReplyTo("back")),
		tx.Publish(ctx, "topic", order{2}),
		tx.Publish(ctx, "nobody", order{3}, harebus.NonMandatory()),
		tx.Defer(ctx, "out", time.Minute, order{4}),
		tx.Send(ctx, "out", order{5}, harebus.WithExchange("amq.direct"), harebus.WithExpiration(time.Hour)),
	)
}

// stored takes an envelope apart and puts it together again.
func stored(t *testing.T, e harebus.Envelope) harebus.Envelope {
	t.Helper()
	head, err := e.Head()
	if err != nil {
		t.Fatal(err)
	}
	again, err := harebus.OpenEnvelope(e.Exchange(), e.RoutingKey(), head, e.Body())
	if err != nil {
		t.Fatal(err)
	}
	if again.MessageID() != e.MessageID() || again.Type() != e.Type() || !again.Due().Equal(e.Due()) {
		t.Errorf("stored %q %q %v, opened %q %q %v", e.MessageID(), e.Type(), e.Due(), again.MessageID(), again.Type(), again.Due())
	}
	return again
}

// TestDetachForward: envelopes that were stored and forwarded put on the wire what a
// commit would have, in the same order.
func TestDetachForward(t *testing.T) {
	emitted := map[string][]string{}
	for _, way := range []string{"commit", "forward"} {
		t.Run(way, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				ch := r.channel()
				r.bound(ch, "out")
				r.bind(ch, "PikaBusTopic", "topic", "topic", "out")
				r.bind(ch, "amq.direct", "direct", "out", "out")
				bus := r.setup(r.config("")).Bus()
				tx := bus.Begin()
				if err := everyKind(r.ctx, tx); err != nil {
					t.Fatal(err)
				}
				if way == "commit" {
					if err := tx.Commit(r.ctx); err != nil {
						t.Fatal(err)
					}
				} else {
					envelopes, err := tx.Detach()
					if err != nil {
						t.Fatal(err)
					}
					for i, e := range envelopes {
						envelopes[i] = stored(t, e)
					}
					if err := errors.Join(bus.Forward(r.ctx, envelopes)...); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(2 * time.Minute) // the deferred one has arrived
				emitted[way] = described(r.await("out", 4))
			})
		})
	}
	if got, want := strings.Join(emitted["forward"], "\n"), strings.Join(emitted["commit"], "\n"); got != want || want == "" {
		t.Errorf("forwarded\n%s\ncommitted\n%s", got, want)
	}
}

// ownKeys are the routing keys that follow from the id of a deferred message.
var ownKeys = regexp.MustCompile(`gate\.[0-9]+|id:[0-9a-f-]+`)

// described is everything of messages that two runs have in common: the ids are new ones.
func described(messages []brokertest.Message) []string {
	texts := make([]string, len(messages))
	for i, m := range messages {
		p := m.Publishing
		headers := maps.Clone(p.Headers)
		for _, id := range []string{"PikaBus.MessageId", "PikaBus.CorrelationId"} {
			headers[id] = headers[id] != ""
		}
		p.Headers, p.MessageId, p.CorrelationId, p.Body = headers, "", "", nil
		texts[i] = ownKeys.ReplaceAllString(fmt.Sprintf("%s %s %s %+v", m.Exchange, m.RoutingKey, m.Body, p), "")
	}
	return texts
}

// TestDetachEnds: a transaction that was detached has ended, and one that has ended
// cannot be detached.
func TestDetachEnds(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		tx := r.setup(r.config("")).Bus().Begin()
		if envelopes, err := tx.Detach(); err != nil || len(envelopes) != 0 {
			t.Errorf("%v, %v", envelopes, err)
		}
		if _, err := tx.Detach(); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("second Detach: %v", err)
		}
		if err := tx.Commit(r.ctx); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("Commit after Detach: %v", err)
		}
		if err := tx.Send(r.ctx, "out", order{1}); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("Send after Detach: %v", err)
		}
	})
}

// TestForwardReports: each envelope has an error of its own, and what no queue takes is
// tried once.
func TestForwardReports(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.setup(r.config(""))
		tx := s.Bus().Begin()
		if err := errors.Join(tx.Send(r.ctx, "out", order{1}), tx.Send(r.ctx, "nobody", order{2}), tx.Send(r.ctx, "out", order{3})); err != nil {
			t.Fatal(err)
		}
		envelopes, err := tx.Detach()
		if err != nil {
			t.Fatal(err)
		}
		envelopes = append(envelopes, harebus.Envelope{})
		began := time.Now()
		errs := s.Bus().Forward(r.ctx, envelopes)
		if errs[0] != nil || errs[2] != nil {
			t.Errorf("those that a queue takes: %v, %v", errs[0], errs[2])
		}
		var failed *harebus.PublishError
		if !errors.As(errs[1], &failed) || failed.Outcome != harebus.Returned || failed.MessageID != envelopes[1].MessageID() {
			t.Errorf("the one that no queue takes: %v", errs[1])
		}
		if !errors.Is(errs[3], harebus.ErrRefused) {
			t.Errorf("the empty one: %v", errs[3])
		}
		if n := s.Stats().Republished; n != 0 || time.Since(began) > 0 {
			t.Errorf("%d attempts were repeated, in %v", n, time.Since(began))
		}
		r.await("out", 2)

		r.bound(r.channel(), "nobody")
		if errs := s.Bus().Forward(r.ctx, envelopes[1:2]); errs[0] != nil {
			t.Errorf("forwarded again, to a queue that exists by now: %v", errs[0])
		}
		r.await("nobody", 1)
	})
}

// TestForwardInAHandler: envelopes join the handler's transaction.
func TestForwardInAHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		other := r.setup(r.config("")).Bus().Begin()
		if err := other.Send(r.ctx, "out", order{7}); err != nil {
			t.Fatal(err)
		}
		envelopes, err := other.Detach()
		if err != nil {
			t.Fatal(err)
		}
		cfg := r.config("orders")
		cfg.Retry = harebus.RetryConfig{MaxRetries: -1}
		s := r.handling(cfg, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if err := errors.Join(bus.Forward(ctx, envelopes)...); err != nil {
				return err
			}
			if o.ID == 1 {
				return errNo
			}
			return nil
		})
		r.await("error", 1)
		r.await("out", 0)
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
	})
}

// TestParkedMessageIsForwarded: a message of the error queue goes back to its queue exactly
// as it was parked, whatever the handler does to what it was given.
func TestParkedMessageIsForwarded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.bound(ch, "there")
		parked := amqp.Publishing{
			Headers: amqp.Table{
				"PikaBus.MessageId": "m1", "PikaBus.ErrorRetries": int32(6), "PikaBus.ErrorDetails": "no", "PikaBus.SourceQueue": "orders",
				"deep": amqp.Table{"list": []any{int64(1), "x", nil, true, float64(2.5)}}, "bytes": []byte{0, 255}, "": "no name",
				"decimal": amqp.Decimal{Scale: 2, Value: 314}, "CC": []any{"elsewhere"}, "x-death": []any{amqp.Table{"queue": "orders"}},
			},
			ContentType: "application/x-thing", ContentEncoding: "br", DeliveryMode: amqp.Persistent, Priority: 5, CorrelationId: "c", ReplyTo: "back",
			MessageId: "m1", Timestamp: time.Unix(1_700_000_000, 0), Type: "Thing", AppId: "app", Body: []byte{1, 2, 3},
		}
		r.declare(ch, "failures")
		r.publish(ch, "failures", parked)
		want := r.await("failures", 1)[0].Publishing

		cfg := r.config("failures")
		cfg.QueueOptions.Type, cfg.ErrorQueue.Name = "classic", "unused"
		s := r.setup(cfg)
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			clear(m.Headers)
			m.ID, m.Body, m.Properties = "other", nil, harebus.Properties{}
			e, err := m.Envelope("", "there")
			if err != nil {
				return err
			}
			return errors.Join(bus.Forward(ctx, []harebus.Envelope{stored(t, e)})...)
		})
		r.start(s)
		got := r.await("there", 1)[0].Publishing
		delete(want.Headers, "CC") // it routes to further queues
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("arrived\n%+v\nwas parked\n%+v", got, want)
		}
		if len(r.broker.Messages("unused")) != 0 {
			t.Error("it was parked again")
		}
	})
}

// TestEnvelopeOfNoDelivery: a message that no broker has delivered has no envelope.
func TestEnvelopeOfNoDelivery(t *testing.T) {
	t.Parallel()
	m := &harebus.Message{ID: "made up"}
	if _, err := m.Envelope("", "queue"); !errors.Is(err, harebus.ErrRefused) {
		t.Errorf("%v", err)
	}
}

// aHead is the head of a message with everything.
func aHead(t testing.TB) []byte {
	t.Helper()
	broker := brokertest.New()
	t.Cleanup(broker.Close)
	s, err := harebus.New(harebus.Config{URL: broker.URL(), Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	tx := s.Bus().Begin()
	if err := tx.Defer(t.Context(), "out", time.Minute, order{1}, harebus.WithHeader("list", []any{"a", int64(1)})); err != nil {
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
	return head
}

// TestOpenEnvelopeRefuses: what is no head, or no address, is refused.
func TestOpenEnvelopeRefuses(t *testing.T) {
	t.Parallel()
	head := aHead(t)
	changed := func(at int, to byte) []byte {
		h := bytes.Clone(head)
		h[at] = to
		return h
	}
	for name, c := range map[string]struct {
		exchange, key string
		head          []byte
	}{
		"nothing":            {"", "out", nil},
		"too short":          {"", "out", head[:11]},
		"cut off":            {"", "out", head[:len(head)-1]},
		"something behind":   {"", "out", append(bytes.Clone(head), 0)},
		"another version":    {"", "out", changed(0, 2)},
		"no version":         {"", "out", changed(0, 0)},
		"unknown operation":  {"", "out", changed(1, 200)},
		"unknown flag":       {"", "out", changed(2, 0x80)},
		"unknown property":   {"", "out", changed(13, head[13]|1)},
		"long exchange":      {strings.Repeat("x", 256), "out", head},
		"long key":           {"", strings.Repeat("x", 256), head},
		"no key":             {"", "", head},
		"key not UTF-8":      {"", "\xff", head},
		"exchange not UTF-8": {"\xff", "out", head},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e, err := harebus.OpenEnvelope(c.exchange, c.key, c.head, []byte("{}")); !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("opened: %v, %v", e.MessageID(), err)
			}
		})
	}
	if _, err := (harebus.Envelope{}).Head(); !errors.Is(err, harebus.ErrRefused) {
		t.Errorf("the head of an empty envelope: %v", err)
	}
}

// FuzzOpenEnvelope: no head makes OpenEnvelope panic, and what it opens has a head that
// opens as the same message.
func FuzzOpenEnvelope(f *testing.F) {
	f.Add(aHead(f))
	f.Add([]byte{1, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, head []byte) {
		e, err := harebus.OpenEnvelope("", "out", head, nil)
		if err != nil {
			if !errors.Is(err, harebus.ErrRefused) {
				t.Fatal(err)
			}
			return
		}
		again, err := e.Head()
		if err != nil {
			t.Fatalf("%x: %v", head, err)
		}
		if opened, err := harebus.OpenEnvelope("", "out", again, nil); err != nil || opened.MessageID() != e.MessageID() || !opened.Due().Equal(e.Due()) {
			t.Fatalf("%x and %x: %v", head, again, err)
		}
	})
}

// TestEnvelopeOfBefore: an envelope that an earlier version has stored is opened and forwarded as it
// was. The file must not change.
func TestEnvelopeOfBefore(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		text, err := os.ReadFile("testdata/envelope-v1.hex")
		if err != nil {
			t.Fatal(err)
		}
		head, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatal(err)
		}
		r.setClock(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)) // it was due in 2030
		r.bound(r.channel(), "out")
		e, err := harebus.OpenEnvelope("PikaBusDirect", "out", head, []byte(`{"ID":1}`))
		if err != nil {
			t.Fatal(err)
		}
		if due := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC); !e.Due().Equal(due) || e.Type() != "Order" {
			t.Errorf("due %v, type %q", e.Due(), e.Type())
		}
		if err := errors.Join(r.setup(r.config("")).Bus().Forward(r.ctx, []harebus.Envelope{e})...); err != nil {
			t.Fatal(err)
		}
		const id = "0192c0de-0000-7000-8000-000000000001"
		want := amqp.Publishing{
			Headers: amqp.Table{
				"PikaBus.MessageId": id, "PikaBus.MessageType": "Order", "tenant": "a", "list": []any{int64(-1), true, nil},
				"raw": []byte{0, 255}, "f": 2.5, "t": time.Unix(1_700_000_000, 0),
			},
			ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 5, CorrelationId: "corr", ReplyTo: "back",
			MessageId: id, Timestamp: time.Unix(1_700_000_000, 0), Type: "Order", AppId: "shop", Body: []byte(`{"ID":1}`),
		}
		if got := r.await("out", 1)[0].Publishing; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("arrived\n%+v\nwant\n%+v", got, want)
		}
	})
}
