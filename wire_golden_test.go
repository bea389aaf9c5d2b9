package harebus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// capture is a message of a PikaBus service, from testdata/golden: properties
// and headers as "type:value".
type capture struct {
	exchange, key string
	mandatory     bool
	properties    map[string]string
	headers       map[string]string
	body          []byte // nil where only the frame header was captured
}

// golden is one of the *.json files, which tell values but no types: those are
// the ones of typed_frames.txt, where a Python integer is as small as it can be
// in 2.x and an int32 in 1.x.
type golden struct {
	Routing struct {
		Exchange   string `json:"exchange"`
		RoutingKey string `json:"routing_key"`
	} `json:"routing"`
	Properties map[string]any `json:"properties"`
	Body       string         `json:"body"`
}

func readGolden(t *testing.T, name string) *golden {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	g := new(golden)
	if err := json.Unmarshal(raw, g); err != nil {
		t.Fatal(err)
	}
	return g
}

func goldenNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.json"))
	if err != nil || len(files) != 13 {
		t.Fatal(files, err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".json")
	}
	return files
}

func (g *golden) headers() map[string]any {
	h, _ := g.Properties["headers"].(map[string]any)
	return h
}

func (g *golden) text(property string) string {
	s, _ := g.Properties[property].(string)
	return s
}

func (g *golden) number(property string) int64 {
	f, _ := g.Properties[property].(float64)
	return int64(f)
}

func (g *golden) capture(legacy bool) capture {
	c := capture{
		exchange: g.Routing.Exchange, key: g.Routing.RoutingKey, mandatory: true,
		properties: map[string]string{}, headers: map[string]string{}, body: []byte(g.Body),
	}
	for name, v := range g.Properties {
		switch {
		case v == nil || name == "headers":
		case name == "delivery_mode" || name == "priority":
			c.properties[name] = fmt.Sprintf("octet:%v", v)
		case name == "timestamp":
			c.properties[name] = fmt.Sprintf("timestamp:%d", g.number(name))
		default:
			c.properties[name] = fmt.Sprintf("shortstr:%v", v)
		}
	}
	for name, v := range g.headers() {
		switch v := v.(type) {
		case string:
			c.headers[name] = "S:" + v
		case bool:
			c.headers[name] = fmt.Sprintf("t:%v", v)
		default:
			letter := "b"
			if legacy {
				letter = "I"
			}
			c.headers[name] = fmt.Sprintf("%s:%v", letter, v)
		}
	}
	return c
}

// publishing is the captured message for a client that acts the peer.
func (g *golden) publishing(legacy bool) amqp.Publishing {
	headers := amqp.Table{}
	for name, v := range g.headers() {
		if n, ok := v.(float64); ok {
			v = int8(n)
			if legacy {
				v = int32(n)
			}
		}
		headers[name] = v
	}
	return amqp.Publishing{
		Headers: headers, ContentType: g.text("content_type"), ContentEncoding: g.text("content_encoding"),
		DeliveryMode: uint8(g.number("delivery_mode")), Priority: uint8(g.number("priority")),
		CorrelationId: g.text("correlation_id"), ReplyTo: g.text("reply_to"), Expiration: g.text("expiration"),
		MessageId: g.text("message_id"), Timestamp: time.Unix(g.number("timestamp"), 0),
		Type: g.text("type"), AppId: g.text("app_id"), Body: []byte(g.Body),
	}
}

// typedFrame finds a frame header in typed_frames.txt.
func typedFrame(t *testing.T, title string) capture {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "golden", "typed_frames.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(raw), title+"\n basic.publish ")
	if !ok {
		t.Fatalf("no frame %q", title)
	}
	method, rest, _ := strings.Cut(rest, "\n header ")
	header, _, _ := strings.Cut(rest, "\n")
	var publish struct {
		Exchange   string `json:"exchange"`
		RoutingKey string `json:"routing_key"`
		Mandatory  bool   `json:"mandatory"`
	}
	var content struct {
		Properties map[string]any `json:"properties"`
	}
	if err := errors.Join(json.Unmarshal([]byte(method), &publish), json.Unmarshal([]byte(header), &content)); err != nil {
		t.Fatal(err)
	}
	c := capture{
		exchange: publish.Exchange, key: publish.RoutingKey, mandatory: publish.Mandatory,
		properties: map[string]string{}, headers: map[string]string{},
	}
	for name, v := range content.Properties {
		if name == "headers" {
			for name, v := range v.(map[string]any) {
				c.headers[name] = v.(string)
			}
			continue
		}
		c.properties[name] = v.(string)
	}
	return c
}

// variable are the fields that differ from message to message: ids, times, and
// the text of a failure.
var variable = map[string]*regexp.Regexp{
	"message_id":              regexp.MustCompile(`^shortstr:[0-9a-f-]{36}$`),
	"correlation_id":          regexp.MustCompile(`^shortstr:[0-9a-f-]{36}$`),
	"timestamp":               regexp.MustCompile(`^timestamp:\d+$`),
	"PikaBus.MessageId":       regexp.MustCompile(`^S:[0-9a-f-]{36}$`),
	"PikaBus.CorrelationId":   regexp.MustCompile(`^S:[0-9a-f-]{36}$`),
	"PikaBus.ErrorDetails":    regexp.MustCompile(`(?s)^S:.+$`),
	"PikaBus.TimeSent":        timeShape[harebus.TimeISO],
	"PikaBus.DeferredTime":    timeShape[harebus.TimeISO],
	"v1 PikaBus.TimeSent":     timeShape[harebus.TimeLegacy],
	"v1 PikaBus.DeferredTime": timeShape[harebus.TimeLegacy],
}

var timeShape = map[harebus.TimeFormat]*regexp.Regexp{
	harebus.TimeISO:    regexp.MustCompile(`^S:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00$`),
	harebus.TimeLegacy: regexp.MustCompile(`^S:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`),
}

// differences lists the fields in which got is not what want is, each with both
// values.
func (want *capture) differences(got *published, legacy bool) map[string]string {
	diff := map[string]string{}
	note := func(field string, a, b any) { diff[field] = fmt.Sprintf("peer %v, we %v", a, b) }
	if want.exchange != got.exchange {
		note("exchange", want.exchange, got.exchange)
	}
	if want.key != got.key {
		note("routing_key", want.key, got.key)
	}
	if want.mandatory != got.mandatory {
		note("mandatory", want.mandatory, got.mandatory)
	}
	compare := func(want, got map[string]string) {
		for name := range maps.Keys(merged(want, got)) {
			shape := variable[name]
			if s := variable["v1 "+name]; s != nil && legacy {
				shape = s
			}
			a, inWant := want[name]
			b, inGot := got[name]
			switch {
			case inWant != inGot:
				note(name, orAbsent(a, inWant), orAbsent(b, inGot))
			case shape == nil && a != b, shape != nil && (!shape.MatchString(a) || !shape.MatchString(b)):
				note(name, a, b)
			}
		}
	}
	compare(want.properties, got.properties)
	compare(want.headers, got.headers)
	if want.body != nil && !bytes.Equal(want.body, got.body) {
		note("body", string(want.body), string(got.body))
	}
	return diff
}

func merged(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func orAbsent(v string, there bool) string {
	if there {
		return v
	}
	return "absent"
}

// Why what we write is not byte for byte what PikaBus writes.
const (
	whyPriority = "the client library writes no priority property when it is 0; absent means 0 to the broker and to the peers"
	whyBody     = "Go's JSON has no space after , and : and does not escape beyond ASCII; the value is the same"
	whyOption   = "priority, expiration and app_id are options here, not headers with a double meaning; the property is the same"
	whyInt      = "a Go int is 64 bits wide on the wire: the peers read every width, and nothing is cut off"
	whyCause    = "our own id of the message that a handler was handling; the peers ignore headers they do not know"
	whyHops     = "our own count of replies that answer replies, against loops; the peers ignore headers they do not know"
	whyDelay    = "it waits in the broker's delay queues instead of circling through the receiver"
	whyOurs     = "our own time of the first failure, for a limit in time; the peers ignore headers they do not know"
	whyWidth    = "the count is as narrow as 2.x writes it; 1.x reads every width"
)

// sentCase is a message we send and what a peer sends in its place.
type sentCase struct {
	name    string
	want    func(t *testing.T) capture
	queue   string // listener queue of the sender
	emit    func(r *rig, bus *harebus.Bus) error
	differs map[string]string // field: reason
}

// payloads with the fields of the captures.
type (
	hello struct {
		Hello string `json:"hello"`
		N     int    `json:"n"`
	}
	helloX struct {
		Hello  string `json:"hello"`
		Nested struct {
			A []any `json:"a"`
		} `json:"nested"`
	}
	helloY struct {
		Hello string `json:"hello"`
	}
)

func fromFile(name string, legacy bool) func(*testing.T) capture {
	return func(t *testing.T) capture { return readGolden(t, name).capture(legacy) }
}

func with(base map[string]string, more ...string) map[string]string {
	out := maps.Clone(base)
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

func sentCases() map[harebus.TimeFormat][]sentCase {
	cases := map[harebus.TimeFormat][]sentCase{}
	for format, v := range map[harebus.TimeFormat]struct {
		name, queue, frame string
		common             map[string]string
	}{
		harebus.TimeISO:    {"v2", "goldenSender", "[2.0.1/aio-pika 9.6.0]", map[string]string{"priority": whyPriority}},
		harebus.TimeLegacy: {"v1", "goldenClient", "[1.3.7/pika 1.2.0]", map[string]string{}},
	} {
		legacy := format == harebus.TimeLegacy
		cases[format] = []sentCase{
			{v.name + "_send", fromFile(v.name+"_send", legacy), v.queue, func(r *rig, bus *harebus.Bus) error {
				return bus.Send(r.ctx, "goldenDest", hello{"send", 1}, harebus.WithType("Golden.Send"))
			}, with(v.common, "body", whyBody)},
			{v.name + "_publish", fromFile(v.name+"_publish", legacy), v.queue, func(r *rig, bus *harebus.Bus) error {
				return bus.Publish(r.ctx, "golden.topic", hello{"publish", 2}, harebus.WithType("Golden.Event"))
			}, with(v.common, "body", whyBody)},
			{v.name + "_defer", fromFile(v.name+"_defer", legacy), v.queue, func(r *rig, bus *harebus.Bus) error {
				return bus.Defer(r.ctx, "goldenDest", 5*time.Second, hello{"defer", 3}, harebus.WithType(harebus.NoType))
			}, with(v.common, "body", whyBody, "exchange", whyDelay, "routing_key", whyDelay)},
			{v.name + "_typed_send", func(t *testing.T) capture { return typedFrame(t, v.frame+" SEND") }, "goldenClient", func(r *rig, bus *harebus.Bus) error {
				return bus.Send(r.ctx, "goldenServer", map[string]string{"call": "R1"})
			}, v.common},
		}
	}
	cases[harebus.TimeISO] = append(cases[harebus.TimeISO], sentCase{
		"v2_send_no_listener_queue", fromFile("v2_send_no_listener_queue", false), "", func(r *rig, bus *harebus.Bus) error {
			return bus.Send(r.ctx, "goldenDest", helloY{"send-noListener"}, harebus.WithType(harebus.NoType))
		}, map[string]string{"priority": whyPriority, "body": whyBody},
	})
	return cases
}

// TestGoldenSent compares what calls on a bus put on the wire with what PikaBus
// put there, in every property and header, field types included.
func TestGoldenSent(t *testing.T) {
	t.Parallel()
	for format, cases := range sentCases() {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					want := c.want(t)
					got := r.emitted(c.queue, format, c.emit)
					checkDifferences(t, want, got, c.differs, format == harebus.TimeLegacy)
					checkMirrors(t, got)
				})
			})
		}
	}
}

// emitted makes one call and returns what it put on the wire.
func (r *rig) emitted(queue string, format harebus.TimeFormat, emit func(*rig, *harebus.Bus) error) *published {
	r.t.Helper()
	r.setClock(time.Now().Add(10*time.Millisecond + 123*time.Microsecond)) // it begins at a whole second
	r.destinations()
	cfg := r.config(queue)
	cfg.Payload.TimeFormat = format
	if err := emit(r, r.setup(cfg).Bus()); err != nil {
		r.t.Fatal(err)
	}
	return r.only()
}

// destinations makes the queues of the captures.
func (r *rig) destinations() {
	r.t.Helper()
	ch := r.channel()
	r.declare(ch, "goldenDest", "goldenServer", "goldenClient")
	err := errors.Join(
		ch.ExchangeDeclare("PikaBusDirect", "direct", true, false, false, false, nil),
		ch.ExchangeDeclare("PikaBusTopic", "topic", true, false, false, false, nil),
		ch.QueueBind("goldenDest", "goldenDest", "PikaBusDirect", false, nil),
		ch.QueueBind("goldenServer", "goldenServer", "PikaBusDirect", false, nil),
		ch.QueueBind("goldenDest", "golden.topic", "PikaBusTopic", false, nil),
	)
	if err != nil {
		r.t.Fatal(err)
	}
}

// only returns the one message that was published.
func (r *rig) only() *published {
	r.t.Helper()
	all, err := r.tap.publishes()
	if err != nil {
		r.t.Fatal(err)
	}
	if len(all) != 1 {
		r.t.Fatalf("%d messages were published, want 1: %v", len(all), all)
	}
	return &all[0]
}

// checkDifferences fails on a difference that has no reason, and on a reason
// that has no difference.
func checkDifferences(t *testing.T, want capture, got *published, reasons map[string]string, legacy bool) {
	t.Helper()
	got.headers = maps.Clone(got.headers)
	delete(got.headers, "CC") // of the delay queues; the broker removes none, readers skip it
	diff := want.differences(got, legacy)
	for field, values := range diff {
		if reasons[field] == "" {
			t.Errorf("%s differs: %s", field, values)
		}
	}
	for field := range reasons {
		if _, ok := diff[field]; !ok {
			t.Errorf("%s does not differ, although there is a reason for it", field)
		}
	}
	if _, ok := diff["body"]; ok {
		var a, b any
		if err := errors.Join(json.Unmarshal(want.body, &a), json.Unmarshal(got.body, &b)); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("bodies hold different values: %v and %v, %v", a, b, err)
		}
	}
}

// checkMirrors checks the fields whose values the comparison leaves open.
func checkMirrors(t *testing.T, got *published) {
	t.Helper()
	for property, header := range map[string]string{
		"message_id": "MessageId", "correlation_id": "CorrelationId", "reply_to": "ReplyToAddress",
		"type": "MessageType", "content_type": "ContentType", "content_encoding": "ContentEncoding",
	} {
		p := strings.TrimPrefix(got.properties[property], "shortstr:")
		if h := strings.TrimPrefix(got.headers["PikaBus."+header], "S:"); p != h {
			t.Errorf("property %s is %q, header %s is %q", property, p, header, h)
		}
	}
	sent, err := harebus.ParseTime(strings.TrimPrefix(got.headers["PikaBus.TimeSent"], "S:"))
	if err != nil {
		t.Fatal(err)
	}
	if stamp := fmt.Sprintf("timestamp:%d", sent.Unix()); got.properties["timestamp"] != stamp {
		t.Errorf("timestamp is %s, TimeSent says %s", got.properties["timestamp"], stamp)
	}
}

// TestGoldenCustomHeaders compares the capture whose sender had headers of its own.
func TestGoldenCustomHeaders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, queue string
		format      harebus.TimeFormat
	}{
		{"v2_send_custom_headers", "goldenSender", harebus.TimeISO},
		{"v1_send_custom_headers", "goldenClient", harebus.TimeLegacy},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				want := readGolden(t, c.name).capture(c.format == harebus.TimeLegacy)
				bare := map[string]string{}
				for _, name := range []string{"priority", "expiration", "app_id"} {
					bare[name] = want.headers[name]
					delete(want.headers, name)
				}
				if len(bare) != 3 || bare["app_id"] != "S:app-1" {
					t.Fatalf("the bare headers of the capture are %v; %s", bare, whyOption)
				}
				var body helloX
				body.Hello, body.Nested.A = "ünïcode", []any{1, 2.5, nil, true}
				got := r.emitted(c.queue, c.format, func(r *rig, bus *harebus.Bus) error {
					return bus.Send(r.ctx, "goldenDest", body, harebus.WithType(harebus.NoType),
						harebus.WithHeaders(map[string]any{"custom": "x", "MyInt": 7, "MyBool": true}),
						harebus.WithPriority(4), harebus.WithExpiration(time.Minute), harebus.WithAppID("app-1"))
				})
				if got.headers["MyInt"] != "l:7" {
					t.Errorf("MyInt is %s on the wire", got.headers["MyInt"])
				}
				checkDifferences(t, want, got, map[string]string{"body": whyBody, "MyInt": whyInt}, c.format == harebus.TimeLegacy)
				checkMirrors(t, got)
			})
		})
	}
}

// TestGoldenReply compares the reply to a captured message.
func TestGoldenReply(t *testing.T) {
	t.Parallel()
	for format, frame := range map[harebus.TimeFormat]string{
		harebus.TimeISO: "[2.0.1/aio-pika 9.6.0]", harebus.TimeLegacy: "[1.3.7/pika 1.2.0]",
	} {
		t.Run(frame[1:2], func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				legacy := format == harebus.TimeLegacy
				request, want := typedFrame(t, frame+" SEND"), typedFrame(t, frame+" REPLY")
				r.serve(format, func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
					return bus.Reply(ctx, map[string]int{"answer": 42}, harebus.WithType("Golden.Reply"))
				}, request)
				got := r.only()
				reasons := map[string]string{"PikaBus.Hops": whyHops, "PikaBus.CausationId": whyCause}
				if !legacy {
					reasons["priority"] = whyPriority
				}
				checkDifferences(t, want, got, reasons, legacy)
				checkMirrors(t, got)
				if got.headers["PikaBus.CorrelationId"] != request.headers["PikaBus.CorrelationId"] {
					t.Error("the correlation id is not that of the request")
				}
				whole := readGolden(t, fmt.Sprintf("v%s_reply", frame[1:2]))
				var a, b any
				if err := errors.Join(json.Unmarshal([]byte(whole.Body), &a), json.Unmarshal(got.body, &b)); err != nil || !reflect.DeepEqual(a, b) {
					t.Errorf("the body is %s, want %s: %v", got.body, whole.Body, err)
				}
			})
		})
	}
}

// serve starts the service goldenServer with a handler, puts one captured
// message into its queue, and waits until it has dealt with it.
func (r *rig) serve(format harebus.TimeFormat, h harebus.HandlerFunc, request capture) {
	r.t.Helper()
	at := headerTime(r.t, request, "PikaBus.TimeSent")
	r.setClock(at.Add(time.Millisecond))
	ch := r.channel()
	r.declare(ch, "goldenClient")
	cfg := r.config("goldenServer")
	cfg.Payload.TimeFormat, cfg.ErrorQueue.Name, cfg.Retry.MaxRetries = format, "goldenError", 2
	s := r.setup(cfg)
	s.HandleMessage(harebus.AnyType, h)
	r.start(s)
	if err := ch.QueueBind("goldenClient", "goldenClient", "PikaBusDirect", false, nil); err != nil {
		r.t.Fatal(err)
	}
	body := request.body
	if body == nil {
		body = []byte("{}")
	}
	r.publishTo(ch, request.exchange, request.key, untyped(request, body))
	r.quiet("goldenClient", "goldenError")
}

// untyped turns a capture into what the client library publishes.
func untyped(c capture, body []byte) amqp.Publishing {
	headers := amqp.Table{}
	for name, v := range c.headers {
		kind, v, _ := strings.Cut(v, ":")
		switch kind {
		case "b":
			headers[name] = int8(v[0] - '0')
		case "I":
			headers[name] = int32(v[0] - '0')
		default:
			headers[name] = v
		}
	}
	short := func(name string) string { return strings.TrimPrefix(c.properties[name], "shortstr:") }
	return amqp.Publishing{
		Headers: headers, ContentType: short("content_type"), ContentEncoding: short("content_encoding"),
		DeliveryMode: 2, CorrelationId: short("correlation_id"), ReplyTo: short("reply_to"),
		MessageId: short("message_id"), Type: short("type"), Body: body,
		Timestamp: time.Unix(int64(mustCount(strings.TrimPrefix(c.properties["timestamp"], "timestamp:"))), 0),
	}
}

func mustCount(s string) (n uint64) {
	if _, err := fmt.Sscan(s, &n); err != nil {
		panic(err)
	}
	return n
}

func headerTime(t *testing.T, c capture, name string) time.Time {
	t.Helper()
	at, err := harebus.ParseTime(strings.TrimPrefix(c.headers[name], "S:"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestGoldenFailure compares the copies of a message that fails: its first
// retry and, after two retries, the one in the error queue.
func TestGoldenFailure(t *testing.T) {
	t.Parallel()
	for format, frame := range map[harebus.TimeFormat]string{
		harebus.TimeISO: "[2.0.1/aio-pika 9.6.0]", harebus.TimeLegacy: "[1.3.7/pika 1.2.0]",
	} {
		t.Run(frame[1:2], func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				legacy := format == harebus.TimeLegacy
				retry, parked := typedFrame(t, frame+" FIRST RETRY COPY"), typedFrame(t, frame+" ERROR QUEUE COPY")
				original := retry
				original.headers = maps.Clone(retry.headers)
				for _, name := range []string{"DeferredTime", "ErrorDetails", "ErrorRetries", "SourceQueue"} {
					delete(original.headers, "PikaBus."+name)
				}
				original.body = []byte(readGolden(t, fmt.Sprintf("v%s_error", frame[1:2])).Body)
				r.serve(format, func(context.Context, *harebus.Bus, *harebus.Message) error {
					return errors.New("boom for F1")
				}, original)
				all, err := r.tap.publishes()
				if err != nil || len(all) != 3 {
					t.Fatalf("%d copies, want 2 retries and 1 parked: %v", len(all), err)
				}
				reasons := map[string]string{"PikaBus.FirstFailed": whyOurs, "PikaBus.Attempts": whyOurs}
				if !legacy {
					reasons["priority"] = whyPriority
				} else {
					reasons["PikaBus.ErrorRetries"] = whyWidth
				}
				checkDifferences(t, retry, &all[0], with(reasons, "exchange", whyDelay, "routing_key", whyDelay), legacy)
				checkDifferences(t, parked, &all[2], with(reasons, "PikaBus.ErrorId", whyOurs, "PikaBus.ErrorKind", whyOurs,
					"PikaBus.ErrorGroup", whyOurs, "PikaBus.Host", whyOurs), legacy)
				for _, copy := range all {
					checkMirrors(t, &copy)
					if !bytes.Equal(copy.body, original.body) {
						t.Errorf("the body has become %s", copy.body)
					}
					for _, name := range []string{"PikaBus.MessageId", "PikaBus.CorrelationId", "PikaBus.TimeSent"} {
						if copy.headers[name] != original.headers[name] {
							t.Errorf("%s has become %s", name, copy.headers[name])
						}
					}
				}
				contains(t, all[2].headers["PikaBus.ErrorDetails"], "boom for F1")
			})
		})
	}
}

// TestGoldenRead has every captured message handled and compares what the
// handler sees with the capture.
func TestGoldenRead(t *testing.T) {
	t.Parallel()
	for _, name := range goldenNames(t) {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				g, legacy := readGolden(t, name), strings.HasPrefix(name, "v1")
				m, at := r.handled(g, legacy)
				checkRead(t, g, m)
				due, err := harebus.ParseTime(g.headers()["PikaBus.DeferredTime"])
				if err != nil {
					due = at // there is none
				}
				if at.Before(due) || at.Sub(due) > 10*time.Millisecond {
					t.Errorf("handled at %v, due at %v", at, due)
				}
			})
		})
	}
}

// handled publishes a captured message at its own time, as its sender did, and
// returns what a handler saw and when.
func (r *rig) handled(g *golden, legacy bool) (*harebus.Message, time.Time) {
	r.t.Helper()
	sent, err := harebus.ParseTime(g.headers()["PikaBus.TimeSent"])
	if err != nil {
		r.t.Fatal(err)
	}
	r.setClock(sent)
	cfg := r.config("listener")
	s := r.setup(cfg)
	type seen struct {
		m  *harebus.Message
		at time.Time
	}
	got := make(chan seen, 1)
	s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		got <- seen{m, time.Now()}
		return nil
	})
	r.start(s)
	ch := r.channel()
	for _, exchange := range []string{"PikaBusDirect", "PikaBusTopic"} {
		if err := ch.QueueBind("listener", g.Routing.RoutingKey, exchange, false, nil); err != nil {
			r.t.Fatal(err)
		}
	}
	r.publishTo(ch, g.Routing.Exchange, g.Routing.RoutingKey, g.publishing(legacy))
	v := receive(r, got)
	r.quiet()
	return v.m, v.at
}

func checkRead(t *testing.T, g *golden, m *harebus.Message) {
	t.Helper()
	header := func(name string) string {
		s, _ := g.headers()["PikaBus."+name].(string)
		return s
	}
	for _, c := range []struct{ what, got, want string }{
		{"ID", m.ID, header("MessageId")}, {"CorrelationID", m.CorrelationID, header("CorrelationId")},
		{"Type", m.Type, header("MessageType")}, {"Intent", string(m.Intent), header("Intent")},
		{"ReplyTo", m.ReplyTo, header("ReplyToAddress")},
		{"OriginatingAddress", m.OriginatingAddress, header("OriginatingAddress")},
		{"ContentType", m.ContentType, header("ContentType")}, {"ContentEncoding", m.ContentEncoding, header("ContentEncoding")},
		{"SourceQueue", m.SourceQueue, header("SourceQueue")}, {"ErrorDetails", m.ErrorDetails, header("ErrorDetails")},
		{"Queue", m.Queue, "listener"}, {"Body", string(m.Body), g.Body},
		{"Properties.ContentType", m.Properties.ContentType, g.text("content_type")},
		{"Properties.ContentEncoding", m.Properties.ContentEncoding, g.text("content_encoding")},
		{"Properties.CorrelationID", m.Properties.CorrelationID, g.text("correlation_id")},
		{"Properties.ReplyTo", m.Properties.ReplyTo, g.text("reply_to")},
		{"Properties.MessageID", m.Properties.MessageID, g.text("message_id")},
		{"Properties.Type", m.Properties.Type, g.text("type")},
		{"Properties.AppID", m.Properties.AppID, g.text("app_id")},
		{"Properties.Expiration", m.Properties.Expiration, g.text("expiration")},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", c.what, c.got, c.want)
		}
	}
	retries, _ := g.headers()["PikaBus.ErrorRetries"].(float64)
	if m.Attempt != int(retries)+1 {
		t.Errorf("attempt %d after %v failures", m.Attempt, retries)
	}
	if m.Properties.DeliveryMode != 2 || m.Properties.Priority != uint8(g.number("priority")) || m.Properties.Timestamp.Unix() != g.number("timestamp") {
		t.Errorf("delivery mode, priority or timestamp differ: %+v", m.Properties)
	}
	for name, got := range map[string]time.Time{"TimeSent": m.TimeSent, "DeferredTime": m.DeferredUntil} {
		want, err := harebus.ParseTime(header(name))
		if err != nil && header(name) != "" {
			t.Error(err)
		}
		if !got.Equal(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	var custom []string
	for name := range g.headers() {
		if !strings.HasPrefix(name, "PikaBus.") {
			custom = append(custom, name)
		}
	}
	slices.Sort(custom)
	if got := slices.Sorted(maps.Keys(m.CustomHeaders())); !slices.Equal(got, custom) {
		t.Errorf("custom headers %v, want %v", got, custom)
	}
}

// TestGoldenDeferredArrives checks what a peer gets of a deferred message: all
// of the capture, on time, with nothing that would make it wait again.
func TestGoldenDeferredArrives(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.destinations()
		start := time.Now()
		err := r.setup(r.config("goldenSender")).Bus().Defer(r.ctx, "goldenDest", 5*time.Second, hello{"defer", 3}, harebus.WithType(harebus.NoType))
		if err != nil {
			t.Fatal(err)
		}
		m := r.await("goldenDest", 1)[0]
		late := time.Since(start) - 5*time.Second
		if late < 0 || late > 15*time.Millisecond {
			t.Errorf("late by %v", late)
		}
		due, err := harebus.ParseTime(m.Headers["PikaBus.DeferredTime"])
		if err != nil || due.After(time.Now()) {
			t.Errorf("due at %v, now is %v: %v", due, time.Now(), err)
		}
		checkArrived(t, m, readGolden(t, "v2_defer"))
	})
}

func checkArrived(t *testing.T, m brokertest.Message, g *golden) {
	t.Helper()
	for name := range g.headers() {
		if _, ok := m.Headers[name].(string); !ok {
			t.Errorf("header %s is %v", name, m.Headers[name])
		}
	}
	if m.Expiration != "" || m.DeliveryMode != amqp.Persistent {
		t.Errorf("expiration %q, delivery mode %d", m.Expiration, m.DeliveryMode)
	}
	if m.Headers["CC"] != nil {
		t.Errorf("the receiver sees CC: %v", m.Headers["CC"])
	}
}
