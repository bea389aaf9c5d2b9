package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// What a service must not handle is parked at once, untouched, with a reason; what is only odd is handled.
func TestBadInput(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Handling.Unhandled = harebus.UnhandledPark
	cfg.Payload.MaxBody = 1 << 16
	s := p.setup(cfg)
	in := newInbox()
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, n note) error {
		in.add(harebus.Incoming(ctx))
		return nil
	})
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, raw []byte) error {
		in.add(harebus.Incoming(ctx))
		return nil
	}, harebus.WithType("Raw"))
	p.start(s)
	b := p.broker()

	header := func(key string, value any) func(*amqp.Publishing) {
		return func(m *amqp.Publishing) { m.Headers["PikaBus."+key] = value }
	}
	body := func(text string) func(*amqp.Publishing) { return func(m *amqp.Publishing) { m.Body = []byte(text) } }
	plain := func(key string, value any) func(*amqp.Publishing) {
		return func(m *amqp.Publishing) { m.Headers[key] = value }
	}
	const handled = "" // instead of a reason
	cases := []struct {
		name   string
		change func(*amqp.Publishing)
		reason string
	}{
		{"nothing odd", func(*amqp.Publishing) {}, handled},
		{"no headers", func(m *amqp.Publishing) { m.Headers = nil }, handled},
		{"id is a number", header("MessageId", int64(7)), "bad-header"},
		{"id is a table", header("MessageId", amqp.Table{"a": "b"}), "bad-header"},
		{"id is nil", header("MessageId", nil), "bad-header"},
		{"id is bytes", header("MessageId", []byte("id")), handled},
		{"id is empty", header("MessageId", ""), handled},
		{"id is long", header("MessageId", strings.Repeat("x", 10<<10)), "bad-header"},
		{"id is no text", header("MessageId", []byte{0xff, 0xfe}), "bad-header"},
		{"count as text", header("ErrorRetries", "3"), handled},
		{"count is no number", header("ErrorRetries", "abc"), "bad-retry-count"},
		{"count is negative", header("ErrorRetries", int32(-1)), "bad-retry-count"},
		{"count is huge", header("ErrorRetries", int64(1e9)), "bad-retry-count"},
		{"count is the largest", header("ErrorRetries", int64(1<<63-1)), "bad-retry-count"},
		{"count is a float", header("ErrorRetries", 1.5), "bad-retry-count"},
		{"count is nil", header("ErrorRetries", nil), "bad-retry-count"},
		{"count is a table", header("ErrorRetries", amqp.Table{}), "bad-retry-count"},
		{"due is nonsense", header("DeferredTime", "tomorrow"), "bad-time"},
		{"due is a number", header("DeferredTime", int64(1795250681)), "bad-time"},
		{"due in the year 9999", header("DeferredTime", "9999-01-01T00:00:00+00:00"), "bad-time"},
		{"due long ago", header("DeferredTime", "1999-01-01T00:00:00+00:00"), handled},
		{"due long ago, legacy", header("DeferredTime", "01/02/1999 03:04:05"), handled},
		{"due as a timestamp", header("DeferredTime", time.Unix(1000, 0)), handled},
		{"sent at nonsense", header("TimeSent", "yesterday"), handled},
		{"sent in the future", header("TimeSent", "2999-01-01T00:00:00+00:00"), handled},
		{"no type", func(m *amqp.Publishing) { m.Type = ""; delete(m.Headers, "PikaBus.MessageType") }, "no-type"},
		{"unknown type", header("MessageType", "os/exec.Cmd"), "unknown-type"},
		{"type that looks like a path", header("MessageType", "../../x"), "unknown-type"},
		{"type is a number", header("MessageType", int32(1)), "bad-header"},
		{"unknown intent", header("Intent", "query"), handled},
		{"no content type", func(m *amqp.Publishing) { m.ContentType = "" }, handled},
		{"content type with a charset", func(m *amqp.Publishing) { m.ContentType = "application/json; charset=utf-8" }, handled},
		{"content type of Java", func(m *amqp.Publishing) { m.ContentType = "application/x-java-serialized-object" }, "unsupported-content"},
		{"any content type", func(m *amqp.Publishing) { m.ContentType = "*/*" }, "unsupported-content"},
		{"not compressed", func(m *amqp.Publishing) { m.ContentEncoding = "gzip" }, "bad-payload"},
		{"correlation is long", header("CorrelationId", strings.Repeat("x", 10<<10)), handled},
		{"CC and BCC", func(m *amqp.Publishing) { plain("CC", []any{p.queue("cc")})(m); plain("BCC", []any{p.queue("cc")})(m) }, handled},
		{"forged x-death", plain("x-death", []any{"a", "b"}), handled},
		{"forged delivery count", plain("x-delivery-count", int64(1e9)), handled},
		{"headers nested 30 deep", plain("deep", nested(30)), handled},
		{"empty header name", plain("", "x"), handled},
		{"priority 255, transient", func(m *amqp.Publishing) { m.Priority, m.DeliveryMode = 255, amqp.Transient }, handled},
		{"empty body", body(""), "bad-payload"},
		{"empty body, raw", func(m *amqp.Publishing) { m.Body, m.Type, m.ContentType = nil, "Raw", "application/octet-stream" }, handled},
		{"not JSON", body("{"), "bad-payload"},
		{"trailing garbage", body(`{"n":1} x`), "bad-payload"},
		{"byte order mark", body("\ufeff{}"), handled},
		{"null", body("null"), "bad-payload"},
		{"a list", body("[]"), "bad-payload"},
		{"not UTF-8", body("{\"n\":1,\"s\":\"\xff\"}"), "bad-payload"},
		{"a number too large", body(`{"n":1e999}`), "bad-payload"},
		{"too large", body(`{"s":"` + strings.Repeat("x", 1<<16) + `"}`), "too-large"},
	}
	parked := b.consume(cfg.ErrorQueue.Name)
	for i, c := range cases {
		id := fmt.Sprint("bad-input-", i)
		msg := amqp.Publishing{
			Headers: amqp.Table{"case": c.name}, Body: []byte(`{"n": 1}`), ContentType: "application/json", Type: "Note", MessageId: id, AppId: c.name,
		}
		c.change(&msg)
		b.publish("", cfg.Queue, msg)
		if c.reason == handled {
			in.until(p, patience, "message of the case "+c.name, func(got []arrival) bool {
				return len(got) > 0 && got[len(got)-1].Properties.AppID == c.name
			})
			continue
		}
		select {
		case d := <-parked:
			details, _ := d.Headers["PikaBus.ErrorDetails"].(string)
			if d.AppId != c.name || string(d.Body) != string(msg.Body) || !strings.Contains(details, c.reason) {
				t.Errorf("%s: parked the message of %q with %d bytes, because %q", c.name, d.AppId, len(d.Body), details)
			}
			if d.Headers["PikaBus.SourceQueue"] != cfg.Queue || d.Headers["CC"] != nil {
				t.Errorf("%s: parked with headers %v", c.name, d.Headers)
			}
		case <-time.After(patience):
			t.Fatalf("%s: not parked", c.name)
		}
	}
	stats := s.Stats()
	if int(stats.Delivered) != len(cases) || stats.Redelivered != 0 || stats.Retried != 0 || stats.Connections != 2 {
		t.Errorf("%d cases cost %+v", len(cases), stats)
	}
	if b.exists(p.queue("cc")) {
		t.Error("there is a queue that nobody declared")
	}
}

func nested(depth int) amqp.Table {
	table := amqp.Table{"at the": "bottom"}
	for range depth {
		table = amqp.Table{"deeper": table}
	}
	return table
}

// A message whose headers the client cannot read is parked at once, and what was sent with it is handled.
func TestPoisonFrame(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.QueueOptions.Arguments = map[string]any{"x-delivery-limit": 2}
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, in.take)
	p.try(s.Init(p.within(patience)))
	b := p.broker()
	var msgs []amqp.Publishing
	for n := range 5 {
		msgs = append(msgs, amqp.Publishing{MessageId: fmt.Sprint("before-", n)})
	}
	msgs = append(msgs, amqp.Publishing{MessageId: "poison", Headers: amqp.Table{"deep": nested(50)}})
	for n := range 5 {
		msgs = append(msgs, amqp.Publishing{MessageId: fmt.Sprint("after-", n)})
	}
	b.publishAll(cfg.Queue, msgs)
	p.start(s)
	in.until(p, patience, "10 different messages", func([]arrival) bool { return len(in.copies()) == 10 })
	if in.copies()["poison"] != 0 {
		t.Error("the poison was handled")
	}
	p.eventually(patience, func() error {
		q, err := b.look(cfg.ErrorQueue.Name)
		if err == nil && q.Messages != 1 {
			err = fmt.Errorf("%d messages in the error queue", q.Messages)
		}
		return err
	})
	parked := b.take(cfg.ErrorQueue.Name, 1)[0]
	if raw, _ := parked.Headers["PikaBus.RawHeaders"].([]byte); len(raw) == 0 || parked.MessageId != "poison" {
		t.Errorf("parked %q with %d bytes of raw headers", parked.MessageId, len(raw))
	}
	if made := s.Stats().Connections; made > 3 { // with that of Init
		t.Errorf("it cost connections: %d were made", made)
	}
	p.ready(s, patience)
}

// Replies that answer replies end somewhere.
func TestReplyLoopEnds(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Reply.MaxHops = 5
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		in.add(m)
		return bus.Reply(ctx, note{1})
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1})) // it replies to itself
	d := p.broker().take(cfg.ErrorQueue.Name, 1)[0]
	if details, _ := d.Headers["PikaBus.ErrorDetails"].(string); !strings.Contains(details, "loop") {
		t.Errorf("parked because of %q", details)
	}
	if n := len(in.all()); n != 6 {
		t.Errorf("%d messages went round; want 6", n)
	}
}
