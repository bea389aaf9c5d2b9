package harebus_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// checked is a message type that can tell good from bad.
type checked struct{ ID int }

func (checked) MessageType() string { return "Checked" }

func (c checked) Validate() error {
	if c.ID <= 0 {
		return fmt.Errorf("id %d", c.ID)
	}
	return nil
}

// class is what becomes of a bad message.
type class int

const (
	handled class = iota // the bad part is ignored
	parked               // in the error queue at once, never handled
	retried              // handled six times, then in the error queue
)

// badInput is one case: a message between two good ones.
type badInput struct {
	name    string
	message amqp.Publishing
	// table replaces the headers of message by an encoded table, for what the
	// client library does not write.
	table  []byte
	want   class
	reason string // of parked: the code; of retried: part of the details
	// configure changes the service.
	configure func(*harebus.Config)
	// see checks the message as the handler saw it, at last checks the copy in
	// the error queue.
	see    func(t *testing.T, m *harebus.Message)
	atLast func(t *testing.T, m brokertest.Message)
}

// typed is a JSON message of a type with one more header.
func typed(messageType, body string, headers amqp.Table) amqp.Publishing {
	return amqp.Publishing{Headers: headers, Type: messageType, ContentType: "application/json", Body: []byte(body)}
}

// order1 is a good order with one header.
func order1(header string, value any) amqp.Publishing {
	return typed("Order", `{"ID":7}`, amqp.Table{header: value})
}

// failing is a message whose handler fails for good, with one header.
func failing(header string, value any) amqp.Publishing {
	return typed("Hopeless", `{"ID":7}`, amqp.Table{header: value})
}

func prefixed(name string) string { return "PikaBus." + name }

var long = strings.Repeat("x", 10<<10)

func headerCases() []badInput {
	typeless := amqp.Publishing{ContentType: "application/json", Body: []byte(`{"ID":7}`)}
	cases := []badInput{
		{name: "01 no headers, type by property", message: plain(`{"ID":7}`), want: handled},
		{name: "01 no headers, no type", message: typeless, want: parked, reason: "no-type"},
		{name: "01 nothing but a body", message: amqp.Publishing{Body: []byte("?")}, want: parked, reason: "no-type"},
		{
			name: "02 no message id", message: plain(`{"ID":7}`), want: handled,
			see: func(t *testing.T, m *harebus.Message) {
				if m.ID == "" {
					t.Error("no id was made")
				}
			},
		},
		{
			name: "02 message id by property", want: handled,
			message: amqp.Publishing{MessageId: "mine", Type: "Order", Body: []byte(`{"ID":7}`)},
			see: func(t *testing.T, m *harebus.Message) {
				if m.ID != "mine" {
					t.Errorf("id %q", m.ID)
				}
			},
		},
		{
			name: "03 message id bytes", message: order1(prefixed("MessageId"), []byte("bytes")), want: handled,
			see: func(t *testing.T, m *harebus.Message) {
				if m.ID != "bytes" {
					t.Errorf("id %q", m.ID)
				}
			},
		},
		{name: "04 message id empty", message: order1(prefixed("MessageId"), ""), want: handled, see: func(t *testing.T, m *harebus.Message) {
			if m.ID == "" {
				t.Error("no id was made")
			}
		}},
		{name: "04 message id no uuid", message: order1(prefixed("MessageId"), "42/ü"), want: handled},
		{name: "04 message id 255 bytes", message: order1(prefixed("MessageId"), long[:255]), want: handled},
		{name: "04 message id 10 KB", message: order1(prefixed("MessageId"), long), want: parked, reason: "bad-header"},
		{name: "08 type missing", message: typed("", `{"ID":7}`, nil), want: parked, reason: "no-type"},
		{name: "08 type empty", message: order1(prefixed("MessageType"), ""), want: handled},
		{name: "09 type unknown", message: typed("Invoice", `{}`, nil), want: parked, reason: "unknown-type"},
		{name: "12 intent missing", message: plain(`{"ID":7}`), want: handled, see: intentIs(harebus.IntentCommand)},
		{name: "12 intent unknown", message: order1(prefixed("Intent"), "query"), want: handled, see: intentIs(harebus.IntentCommand)},
		{name: "12 intent int", message: order1(prefixed("Intent"), int32(3)), want: handled, see: intentIs(harebus.IntentCommand)},
		{name: "23 key empty", message: order1("", "x"), want: handled},
		{name: "23 key 255 bytes", message: order1(long[:255], "x"), want: handled},
		{name: "23 key not UTF-8", message: order1("\xff\xfe", "x"), want: handled},
		{name: "23 key empty, parked", message: failing("", "x"), want: parked, reason: "no use"},
		{name: "23 key not UTF-8, parked", message: failing("\xff\xfe", "x"), want: parked, reason: "no use"},
		{name: "23 duplicate keys", message: plain(`{"ID":7}`), table: duplicateKeys(), want: handled},
		{name: "23 duplicate keys, parked", message: typed("Hopeless", `{}`, nil), table: duplicateKeys(), want: parked, reason: "no use"},
	}
	for name, value := range map[string]any{
		"int64": int64(1), "bytes not UTF-8": []byte{0xff}, "text not UTF-8": "\xff", "nil": nil, "table": amqp.Table{"a": "b"},
	} {
		cases = append(cases,
			badInput{name: "03 message id " + name, message: order1(prefixed("MessageId"), value), want: parked, reason: "bad-header"},
			badInput{name: "08 type " + name, message: order1(prefixed("MessageType"), value), want: parked, reason: "bad-header"},
			badInput{name: "13 content type " + name, message: order1(prefixed("ContentType"), value), want: parked, reason: "bad-header"},
			badInput{name: "18 correlation id " + name, message: order1(prefixed("CorrelationId"), value), want: handled},
			badInput{name: "18 reply address " + name, message: order1(prefixed("ReplyToAddress"), value), want: handled},
			badInput{name: "07 time sent " + name, message: order1(prefixed("TimeSent"), value), want: handled},
		)
	}
	for _, evil := range []string{"os/exec.Cmd", "../../x", "System.Diagnostics.Process, System", "*", "order", "Order ", "a\nb"} {
		cases = append(cases, badInput{name: "10 type " + evil, message: typed(evil, `{}`, nil), want: parked, reason: "unknown-type"})
	}
	return cases
}

func intentIs(want harebus.Intent) func(*testing.T, *harebus.Message) {
	return func(t *testing.T, m *harebus.Message) {
		if m.Intent != want {
			t.Errorf("intent %q, want %q", m.Intent, want)
		}
	}
}

func counterCases() []badInput {
	attempt := func(n int) func(*testing.T, *harebus.Message) {
		return func(t *testing.T, m *harebus.Message) {
			if m.Attempt != n {
				t.Errorf("attempt %d, want %d", m.Attempt, n)
			}
		}
	}
	var cases []badInput
	for name, value := range map[string]any{
		"text": "3", "text with spaces": " 3 ", "bytes": []byte("3"), "int8": int8(3), "uint8": uint8(3), "int16": int16(3),
		"uint16": uint16(3), "int32": int32(3), "uint32": uint32(3), "int64": int64(3),
	} {
		cases = append(cases, badInput{name: "05 counter " + name, message: order1(prefixed("ErrorRetries"), value), want: handled, see: attempt(4)})
	}
	for name, value := range map[string]any{
		"abc": "abc", "empty": "", "-1": int32(-1), "text -1": "-1", "1e9": int32(1e9), "text 1e9": "1e9", "float": 3.0, "nil": nil,
		"table": amqp.Table{}, "array": []any{int32(1)}, "bool": true, "time": time.Unix(3, 0), "largest": int64(math.MaxInt64),
		"smallest": int64(math.MinInt64), "text of 30 digits": strings.Repeat("9", 30), "one too many": int32(6), "uint32 max": uint32(math.MaxUint32),
	} {
		cases = append(cases, badInput{name: "05 counter " + name, message: order1(prefixed("ErrorRetries"), value), want: parked, reason: "bad-retry-count"})
	}
	return append(cases, badInput{
		name: "05 counter of a replay", want: handled, see: attempt(1),
		message: typed("Order", `{"ID":7}`, amqp.Table{prefixed("ErrorRetries"): int8(6), prefixed("SourceQueue"): "orders"}),
	}, badInput{
		name: "05 counter absurd of a replay", want: parked, reason: "bad-retry-count",
		message: typed("Order", `{"ID":7}`, amqp.Table{prefixed("ErrorRetries"): int32(1e9), prefixed("SourceQueue"): "orders"}),
	})
}

func timeCases() []badInput {
	var cases []badInput
	for _, bad := range []any{
		"garbage", "", "9999-12-31T23:59:59+00:00", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00", "0000-00-00T00:00:00", "1999-13-01T00:00:00",
		"1999-02-30T00:00:00", "1700000000", "13/32/1999 00:00:00", "Sat, 01 Jan 2000 00:00:00 GMT", long, "2013-01-01T00:00:00+00:00",
		int64(1), nil, true, amqp.Table{}, "\xff", "2000-01-01T00:00:00 +0000 UTC m=+1",
	} {
		cases = append(cases, badInput{
			name: fmt.Sprintf("06 deferred time %.40v", bad), message: order1(prefixed("DeferredTime"), bad), want: parked, reason: "bad-time",
		})
	}
	for _, past := range []any{
		"1999-12-31T23:59:59+00:00", "1999-12-31T23:59:59.123456+00:00", "1999-12-31T23:59:59Z", "1999-12-31T23:59:59", "12/31/1999 23:59:59",
		"1999-12-31", "19991231T235959", "1999-12-31 23:59:59.5", "2000-01-01T01:00:00+02:00", time.Unix(10, 0), time.Unix(-10, 0), []byte("1999-12-31"),
	} {
		cases = append(cases, badInput{
			name: fmt.Sprintf("06 deferred time past %v", past), message: order1(prefixed("DeferredTime"), past), want: handled,
		})
	}
	for _, sent := range []any{"garbage", "9999-12-31T23:59:59+00:00", "", int64(5), time.Unix(1<<40, 0)} {
		cases = append(cases, badInput{name: fmt.Sprintf("07 time sent %v", sent), message: order1(prefixed("TimeSent"), sent), want: handled})
	}
	negative := plain(`{"ID":7}`)
	negative.Timestamp = time.Unix(-5, 0)
	failed := typed("Hopeless", `{}`, nil)
	failed.Timestamp = time.Unix(-5, 0)
	huge := plain(`{"ID":7}`)
	huge.Timestamp = time.Unix(math.MaxInt64, 0)
	return append(cases,
		badInput{name: "28 timestamp negative", message: negative, want: handled},
		badInput{name: "28 timestamp negative, parked", message: failed, want: parked, reason: "no use"},
		badInput{name: "28 timestamp huge", message: huge, want: handled})
}

func contentCases() []badInput {
	content := func(contentType, encoding, body string) amqp.Publishing {
		return amqp.Publishing{Type: "Order", ContentType: contentType, ContentEncoding: encoding, Body: []byte(body)}
	}
	const good = `{"ID":7}`
	packed := gzipped(good)
	return []badInput{
		{name: "13 content type missing", message: content("", "", good), want: handled},
		{name: "13 content type with parameter", message: content("application/json; charset=utf-8", "", good), want: handled},
		{name: "13 content type in capitals", message: content("Application/JSON", "", good), want: handled},
		{name: "13 content type by header", message: order1(prefixed("ContentType"), "application/json"), want: handled},
		{name: "13 text latin1", message: content("text/plain; charset=latin1", "", good), want: parked, reason: "unsupported-content"},
		{name: "13 json utf-16", message: content("application/json; charset=utf-16", "", good), want: parked, reason: "unsupported-content"},
		{name: "13 java", message: content("application/x-java-serialized-object", "", good), want: parked, reason: "unsupported-content"},
		{name: "13 any", message: content("*/*", "", good), want: parked, reason: "unsupported-content"},
		{name: "13 not a media type", message: content("a b;;", "", good), want: parked, reason: "unsupported-content"},
		{name: "13 bytes for a struct", message: content("application/octet-stream", "", good), want: parked, reason: "bad-payload"},
		{name: "14 gzip but plain", message: content("", "gzip", good), want: parked, reason: "unsupported-content"},
		{name: "14 plain but gzip", message: content("", "", packed), want: parked, reason: "bad-payload"},
		{name: "14 gzip", message: content("", "GZIP", packed), want: parked, reason: "unsupported-content"},
		{name: "14 br", message: content("", "br", good), want: parked, reason: "unsupported-content"},
		{name: "14 twice", message: content("", "gzip,gzip", packed), want: parked, reason: "unsupported-content"},
		{name: "14 utf-8", message: content("", "UTF-8", good), want: handled},
	}
}

func gzipped(s string) string {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write([]byte(s)) // a buffer takes everything
	_ = w.Close()
	return buf.String()
}

func bodyCases() []badInput {
	var cases []badInput
	for name, body := range map[string]string{
		"29 empty": "", "30 no json": "hello", "30 trailing value": `{"ID":7} {"ID":8}`, "30 trailing brace": `{"ID":7}}`,
		"30 trailing bracket": `{"ID":7}]`, "30 cut": `{"ID":`, "30 bom": "\xef\xbb\xbf" + `{"ID":7}`, "30 nul": "\x00", "31 null": "null",
		"31 null in space": " null\n", "31 array": "[]", "31 text": `"x"`, "31 number": "42", "31 true": "true",
		"32 not utf-8": "{\"ID\":7,\"Name\":\"\xff\"}", "33 1e999": `{"ID":1e999}`, "33 2^70": `{"ID":1180591620717411303424}`,
		"33 fraction": `{"ID":1.5}`, "33 NaN": `{"ID":NaN}`, "30 deep": strings.Repeat("[", 20000),
	} {
		cases = append(cases,
			badInput{name: name, message: plain(body), want: parked, reason: "bad-payload"},
			badInput{name: name + " strict", message: plain(body), want: parked, reason: "bad-payload", configure: strict})
	}
	small := func(c *harebus.Config) { c.MaxBody = 64 }
	return append(cases,
		badInput{name: "29 empty raw", message: amqp.Publishing{Type: "Raw"}, want: handled},
		badInput{name: "29 empty bytes", message: amqp.Publishing{Type: "Bytes", ContentType: "application/octet-stream"}, want: handled},
		badInput{name: "33 minus zero is zero", message: plain(`{"ID":-0}`), want: handled},
		badInput{name: "11 other shape", message: plain(`{"Name":"x"}`), want: parked, reason: "bad-payload", configure: strict},
		badInput{name: "11 other shape, lenient", message: plain(`{"Name":"x"}`), want: handled},
		badInput{name: "11 not valid", message: typed("Checked", `{"ID":-4}`, nil), want: parked, reason: "bad-payload"},
		badInput{name: "34 too large", message: plain(`{"ID":7}` + strings.Repeat(" ", 60)), want: parked, reason: "too-large", configure: small},
		badInput{name: "34 just fits", message: plain(`{"ID":7}` + strings.Repeat(" ", 56)), want: handled, configure: small})
}

func strict(c *harebus.Config) { c.Codecs = append(c.Codecs, harebus.JSON{Strict: true}) }

// brokerHeaders are forged: only the broker may write them.
func brokerHeaders() amqp.Table {
	var deaths []any
	for range 2000 {
		deaths = append(deaths, amqp.Table{"queue": "q", "count": int64(1e9)})
	}
	return amqp.Table{
		"CC": []any{"victim"}, "BCC": []any{"victim"}, "x-death": deaths, "x-first-death-queue": "q", "x-first-death-reason": "expired",
		"x-first-death-exchange": "", "x-last-death-queue": "q", "x-last-death-reason": "expired", "x-last-death-exchange": "",
		"x-delivery-count": int64(1e9), "x-delay": int32(5), "x-match": "all", "x-request-id": "keep", "x-tenant": "keep",
	}
}

func forgedCases() []badInput {
	stripped := func(t *testing.T, m brokertest.Message) {
		for name, value := range m.Headers {
			if strings.HasPrefix(name, "PikaBus.") {
				continue
			}
			if value != "keep" {
				t.Errorf("header %s was copied", name)
			}
		}
		if m.Headers["x-request-id"] != "keep" || m.Headers["x-tenant"] != "keep" {
			t.Errorf("headers of others were not kept: %v", m.Headers)
		}
	}
	properties := func(t *testing.T, m brokertest.Message) {
		if m.DeliveryMode != amqp.Persistent || m.Priority != 255 || m.AppId != "app" {
			t.Errorf("delivery mode %d, priority %d, app id %q", m.DeliveryMode, m.Priority, m.AppId)
		}
		if m.Expiration != "" || m.UserId != "" {
			t.Errorf("expiration %q and user id %q were copied", m.Expiration, m.UserId)
		}
	}
	odd := amqp.Publishing{
		Type: "Hopeless", DeliveryMode: amqp.Transient, Priority: 255, Expiration: "6000000", UserId: "guest", AppId: "app", Body: []byte(`{}`),
	}
	oddRetried := odd
	oddRetried.Type = "Failing"
	return []badInput{
		{name: "20 forged", message: typed("Order", `{"ID":7}`, brokerHeaders()), want: handled, see: func(t *testing.T, m *harebus.Message) {
			if m.Attempt != 1 || len(m.CustomHeaders()) != 2 {
				t.Errorf("attempt %d, custom headers %v", m.Attempt, m.CustomHeaders())
			}
		}},
		{name: "19 forged, parked", message: typed("Hopeless", `{}`, brokerHeaders()), want: parked, reason: "no use", atLast: stripped},
		{name: "19 forged, retried", message: typed("Failing", `{}`, brokerHeaders()), want: retried, reason: "not today", atLast: stripped},
		{name: "20 x-death of strings", message: order1("x-death", []any{"a", "b"}), want: handled},
		{name: "20 x-death text", message: failing("x-death", "a"), want: parked, reason: "no use"},
		{name: "21 x-delivery-count", message: order1("x-delivery-count", int64(1e9)), want: handled},
		{name: "21 x-delivery-count, classic", message: order1("x-delivery-count", int64(1e9)), want: handled, configure: func(c *harebus.Config) { c.QueueType = "classic" }},
		{name: "24 odd properties", message: amqp.Publishing{Type: "Order", DeliveryMode: 1, Priority: 255, Body: []byte(`{"ID":7}`)}, want: handled},
		{name: "25 odd properties, parked", message: odd, want: parked, reason: "no use", atLast: properties},
		{name: "25 odd properties, retried", message: oddRetried, want: retried, reason: "not today", atLast: properties},
	}
}

func handlerCases() []badInput {
	return []badInput{
		{name: "15 no reply address", message: typed("Replying", `{}`, nil), want: retried, reason: harebus.ErrNoReplyAddress.Error()},
		{name: "16 reply to the error queue", message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "error"}), want: retried, reason: "refused"},
		{name: "16 reply to the broker's own", message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "amq.gen-1"}), want: retried, reason: "refused"},
		{name: "16 reply to a stranger", message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "payments"}), want: retried, reason: "refused", configure: func(c *harebus.Config) {
			c.ReplyPolicy = harebus.RepliesTo("friend")
		}},
		{name: "16 reply to nobody", message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "nobody"}), want: retried, reason: harebus.ErrUnroutable.Error()},
		{name: "16 reply to a line break", message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "a\nb"}), want: retried, reason: "refused"},
		{name: "17 too many hops", message: order1(prefixed("Hops"), int32(33)), want: parked, reason: "loop"},
		{name: "17 hops garbage", message: order1(prefixed("Hops"), "garbage"), want: handled},
		{name: "28 handler fails", message: typed("Failing", `{}`, nil), want: retried, reason: "not today"},
		{name: "30 handler panics", message: typed("Panicking", `{}`, nil), want: retried, reason: "panic: oh"},
		{name: "36 long error", message: typed("Verbose", `{}`, nil), want: retried, reason: "(cut)"},
	}
}

// duplicateKeys is a table in which a key comes twice.
func duplicateKeys() []byte {
	entry := func(key, value string) []byte {
		e := append([]byte{byte(len(key))}, key...)
		e = append(e, 'S', 0, 0, 0, byte(len(value)))
		return append(e, value...)
	}
	return append(entry("twice", "a"), entry("twice", "b")...)
}

// TestBadInput puts each bad message between two good ones and checks what
// becomes of the three, how often they are delivered, and that the service and
// its connections are unharmed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for _, cases := range [][]badInput{
		headerCases(), counterCases(), timeCases(), contentCases(), bodyCases(), forgedCases(), handlerCases(),
	} {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) { c.run(t, r) })
			})
		}
	}
}

func (c *badInput) run(t *testing.T, r *rig) {
	s, seen := c.service(r)
	ch := r.channel()
	r.declare(ch, "victim", "payments")
	r.publish(ch, "orders", plain(`{"ID":1}`))
	if c.table != nil {
		r.publishTable("orders", c.message, c.table)
	} else {
		r.publish(ch, "orders", c.message)
	}
	r.publish(ch, "orders", plain(`{"ID":2}`))
	r.quiet("error", "victim")

	copies := r.broker.Messages("error")
	c.checkCounts(t, s.Stats(), len(copies))
	if c.want == handled {
		m := seen.last()
		if m == nil {
			t.Fatal("no handler saw it")
		}
		if c.see != nil {
			c.see(t, m)
		}
	}
	for _, m := range copies {
		c.checkCopy(t, m)
	}
	if n, _ := r.broker.Queue("victim"); n.Ready > 1 { // one by the publisher's own CC
		t.Errorf("%d messages for a queue that a header named", n.Ready)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}

// witness keeps what handlers saw of the bad message.
type witness struct {
	mu       sync.Mutex
	messages []*harebus.Message
}

func (w *witness) add(m *harebus.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages = append(w.messages, m)
}

func (w *witness) last() *harebus.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.messages) == 0 {
		return nil
	}
	return w.messages[len(w.messages)-1]
}

// service has a handler for every kind of trouble. Good orders have the ids 1
// and 2.
func (c *badInput) service(r *rig) (*harebus.Setup, *witness) {
	cfg := r.config("orders")
	if c.configure != nil {
		c.configure(&cfg)
	}
	s := r.setup(cfg)
	w := &witness{}
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
		if o.ID != 1 && o.ID != 2 {
			w.add(harebus.Incoming(ctx))
		}
		return nil
	})
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ checked) error {
		w.add(harebus.Incoming(ctx))
		return nil
	})
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, body []byte) error {
		w.add(harebus.Incoming(ctx))
		return nil
	}, harebus.WithMessageType("Bytes"))
	for name, run := range map[string]func(ctx context.Context, bus *harebus.Bus) error{
		"Raw":       func(context.Context, *harebus.Bus) error { return nil },
		"Hopeless":  func(context.Context, *harebus.Bus) error { return harebus.NoRetry(errors.New("no use")) },
		"Failing":   func(context.Context, *harebus.Bus) error { return errors.New("not today") },
		"Panicking": func(context.Context, *harebus.Bus) error { panic("oh") },
		"Verbose":   func(context.Context, *harebus.Bus) error { return errors.New(strings.Repeat("\xffé", 1<<20)) },
		"Replying":  func(ctx context.Context, bus *harebus.Bus) error { return bus.Reply(ctx, answer{1}) },
	} {
		s.HandleMessage(name, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			w.add(m)
			return run(ctx, bus)
		})
	}
	r.start(s)
	return s, w
}

// checkCounts checks that nothing was lost, repeated or spun.
func (c *badInput) checkCounts(t *testing.T, got harebus.Stats, copies int) {
	t.Helper()
	want := harebus.Stats{Delivered: 3, Handled: 3, Connections: 1}
	if c.want != handled {
		want.Handled, want.Parked, want.Connections = 2, 1, 2
	}
	if c.want == retried {
		want.Delivered, want.Retried = 8, 5
	}
	if copies != int(want.Parked) {
		t.Errorf("%d messages in the error queue, want %d", copies, want.Parked)
	}
	got.Failed, got.Published, got.Unpublished, got.Republished = 0, 0, 0, 0
	if got != want {
		t.Errorf("counts\n got %+v\nwant %+v", got, want)
	}
}

// checkCopy checks what is in the error queue: all of the original, and why.
func (c *badInput) checkCopy(t *testing.T, m brokertest.Message) {
	t.Helper()
	if !bytes.Equal(m.Body, c.message.Body) {
		t.Errorf("the body has become %.80q", m.Body)
	}
	details, _ := m.Headers[prefixed("ErrorDetails")].(string)
	if strings.Contains(details, c.reason) == false || c.want == parked && !strings.HasPrefix(details, c.reason) {
		t.Errorf("the details are %.120q, want %q", details, c.reason)
	}
	count := int8(1)
	if c.want == retried {
		count = 6
	}
	if m.Headers[prefixed("ErrorRetries")] != count {
		t.Errorf("the failures are %v, want %d", m.Headers[prefixed("ErrorRetries")], count)
	}
	if m.Headers[prefixed("SourceQueue")] == nil {
		t.Error("no source queue")
	}
	if id, _ := m.Headers[prefixed("MessageId")]; id == nil && c.message.Headers[prefixed("MessageId")] != nil {
		t.Error("no message id")
	}
	added := []string{"ErrorDetails", "ErrorRetries", "SourceQueue", "MessageId", "DeferredTime"}
	rest := maps.Clone(c.message.Headers)
	for _, name := range added {
		delete(rest, prefixed(name))
	}
	for name, want := range rest {
		if _, forged := brokerHeaders()[name]; forged {
			continue
		}
		if got := m.Headers[name]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("header %q is %v, want %v", name, got, want)
		}
	}
	if c.atLast != nil {
		c.atLast(t, m)
	}
}
