package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// A generation is one of PikaBus.
type generation string

const (
	pika1 generation = "v1"
	pika2 generation = "v2"
)

var generations = []generation{pika1, pika2}

const legacyTime = "01/02/2006 15:04:05"

// time writes a time as the generation does.
func (g generation) time(t time.Time) string {
	t = t.UTC()
	if g == pika1 {
		return t.Format(legacyTime)
	}
	if t.Nanosecond() < 1000 {
		return t.Format("2006-01-02T15:04:05+00:00")
	}
	return t.Format("2006-01-02T15:04:05.000000+00:00")
}

var timePattern = map[generation]*regexp.Regexp{
	pika1: regexp.MustCompile(`^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`),
	pika2: regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00$`),
}

// read reads a time as strictly as a generation that knows no other format than its own.
func (g generation) read(p *place, value any) time.Time {
	p.Helper()
	text, ok := value.(string)
	if !ok || !timePattern[g].MatchString(text) {
		p.Errorf("a %s peer cannot read the time %#v", g, value)
		return time.Time{}
	}
	layout := time.RFC3339Nano
	if g == pika1 {
		layout = legacyTime
	}
	t, err := time.Parse(layout, text)
	p.try(err)
	return t
}

// count writes a number as the generation does: 2.x the smallest integer, 1.x 32 bits.
func (g generation) count(n int) any {
	if g == pika1 {
		return int32(n)
	}
	return int8(n)
}

// queueArguments are those the generation declares its queues with.
func (g generation) queueArguments() amqp.Table {
	if g == pika1 {
		return amqp.Table{"ha-mode": "all"}
	}
	return nil
}

// A golden is a message that was captured from a PikaBus service.
type golden struct {
	Routing struct {
		Exchange   string
		RoutingKey string `json:"routing_key"`
	}
	Properties struct {
		ContentType     string  `json:"content_type"`
		ContentEncoding string  `json:"content_encoding"`
		DeliveryMode    uint8   `json:"delivery_mode"`
		Priority        *uint8  `json:"priority"`
		CorrelationID   *string `json:"correlation_id"`
		ReplyTo         *string `json:"reply_to"`
		Expiration      *string `json:"expiration"`
		MessageID       *string `json:"message_id"`
		Type            *string `json:"type"`
		UserID          *string `json:"user_id"`
		AppID           *string `json:"app_id"`
		Headers         map[string]any
	}
	Body string
}

func (p *place) golden(name string) golden {
	p.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	p.try(err)
	var g golden
	p.try(json.Unmarshal(text, &g))
	return g
}

// table turns the headers of a capture into what was on the wire.
func (g generation) table(headers map[string]any) amqp.Table {
	table := amqp.Table{}
	for key, value := range headers {
		if n, ok := value.(float64); ok {
			value = g.count(int(n))
		}
		table[key] = value
	}
	return table
}

// A peer is a PikaBus service, acted from captures with a client that knows nothing of the library.
type peer struct {
	*place
	generation generation
	queue      string
	broker     *broker
}

// peer makes one. With a queue it declares it as the generation does, and the exchanges.
func (p *place) peer(g generation, queue string) *peer {
	p.Helper()
	peer := &peer{p, g, queue, p.broker()}
	b := peer.broker
	b.must(func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare("PikaBusDirect", "direct", true, false, false, false, amqp.Table{}); err != nil {
			return err
		}
		return ch.ExchangeDeclare("PikaBusTopic", "topic", true, false, false, false, amqp.Table{})
	})
	if queue == "" {
		return peer
	}
	b.declareQueue(queue, g.queueArguments())
	if g == pika2 { // 1.x leaves it to whoever sends to the queue
		b.bind(queue, queue, "PikaBusDirect")
	}
	return peer
}

// message is a new message of a captured kind: ids, times and addresses are the peer's own, all else is as captured.
// With a body that is not nil it carries this.
func (p *peer) message(kind string, body any) amqp.Publishing {
	p.Helper()
	g := p.golden(string(p.generation) + "_" + kind)
	id, correlation, now := newV1(), newV1(), time.Now()
	headers := p.generation.table(g.Properties.Headers)
	replace := amqp.Table{
		"PikaBus.MessageId": id, "PikaBus.CorrelationId": correlation, "PikaBus.TimeSent": p.generation.time(now),
		"PikaBus.ReplyToAddress": p.queue, "PikaBus.OriginatingAddress": p.queue,
	}
	for key, value := range replace {
		if _, ok := headers[key]; ok {
			headers[key] = value
		}
	}
	msg := amqp.Publishing{
		Headers: headers, ContentType: g.Properties.ContentType, ContentEncoding: g.Properties.ContentEncoding,
		DeliveryMode: g.Properties.DeliveryMode, MessageId: id, CorrelationId: correlation, Timestamp: now, Body: []byte(g.Body),
	}
	if g.Properties.ReplyTo != nil {
		msg.ReplyTo = p.queue
	}
	if g.Properties.Type != nil {
		msg.Type = *g.Properties.Type
	}
	if body != nil {
		encoded, err := json.Marshal(body)
		p.try(err)
		msg.Body = encoded
	}
	return msg
}

// typed gives a message another type, in the header and the property, as PikaBus does.
func typed(msg amqp.Publishing, name string) amqp.Publishing {
	msg.Headers["PikaBus.MessageType"], msg.Type = name, name
	return msg
}

// send sends a command as the generation does: both bind the destination first.
func (p *peer) send(to string, msg amqp.Publishing) {
	p.Helper()
	p.broker.bind(to, to, "PikaBusDirect")
	p.broker.publish("PikaBusDirect", to, msg)
}

// reply answers a message: to the address in its header, with its correlation id.
func (p *peer) reply(d amqp.Delivery, body any) {
	p.Helper()
	to, ok := d.Headers["PikaBus.ReplyToAddress"].(string)
	if !ok {
		p.Fatalf("a peer finds no reply address in %v", d.Headers)
	}
	msg := p.message("reply", body)
	msg.CorrelationId, _ = d.Headers["PikaBus.CorrelationId"].(string)
	msg.Headers["PikaBus.CorrelationId"] = msg.CorrelationId
	p.send(to, msg)
}

// resend publishes a copy with changed headers, as PikaBus does when it bounces a deferred message, retries or parks.
func (p *peer) resend(to string, d amqp.Delivery, change amqp.Table) {
	p.Helper()
	headers := maps.Clone(d.Headers)
	maps.Copy(headers, change)
	text := func(key string) string { s, _ := headers["PikaBus."+key].(string); return s }
	if p.generation == pika1 { // which binds with every message it sends
		p.broker.bind(to, to, "PikaBusDirect")
	}
	p.broker.publish("PikaBusDirect", to, amqp.Publishing{ // from headers only: properties are not read
		Headers: headers, ContentType: text("ContentType"), ContentEncoding: text("ContentEncoding"), DeliveryMode: amqp.Persistent,
		CorrelationId: text("CorrelationId"), ReplyTo: text("ReplyToAddress"), MessageId: text("MessageId"), Type: text("MessageType"),
		Timestamp: p.generation.read(p.place, headers["PikaBus.TimeSent"]), Body: d.Body,
	})
}

// fail does with a message whose handler failed what the generation's error handler does: a retry in its own queue, or
// the error queue, which it declares itself.
func (p *peer) fail(d amqp.Delivery, maxRetries int, delay time.Duration) (parked bool) {
	p.Helper()
	retries := 0
	if value, ok := d.Headers["PikaBus.ErrorRetries"]; ok {
		if _, err := fmt.Sscan(fmt.Sprint(value), &retries); err != nil {
			p.Fatalf("a peer cannot read the count %#v", value)
		}
	}
	retries++
	change := amqp.Table{
		"PikaBus.ErrorRetries": p.generation.count(retries),
		"PikaBus.ErrorDetails": "Traceback (most recent call last):\n  ...\nValueError: boom\n",
	}
	if d.Headers["PikaBus.SourceQueue"] == nil {
		change["PikaBus.SourceQueue"] = p.queue
	}
	if retries > maxRetries {
		p.broker.must(func(ch *amqp.Channel) error { // a 406 here would make it spin for ever
			_, err := ch.QueueDeclare("error", true, false, false, false, p.generation.queueArguments())
			return err
		})
		p.broker.bind("error", "error", "PikaBusDirect")
		p.resend("error", d, change)
		return true
	}
	change["PikaBus.DeferredTime"] = p.generation.time(time.Now().Add(delay))
	p.resend(p.queue, d, change)
	return false
}

// next waits for a message, and bounces what is not due as PikaBus does; bounced says how often it had to.
func (p *peer) next() (d amqp.Delivery, bounced int) {
	p.Helper()
	for {
		d = p.broker.take(p.queue, 1)[0]
		value, ok := d.Headers["PikaBus.DeferredTime"]
		if !ok || !time.Now().Before(p.generation.read(p.place, value)) {
			return d, bounced
		}
		bounced++
		p.resend(p.queue, d, nil)
	}
}

// nextOfType waits for a message of a type; others that come before it are given back in the end.
func (p *peer) nextOfType(name string) amqp.Delivery {
	p.Helper()
	var others []amqp.Delivery
	for {
		d, _ := p.next()
		if d.Headers["PikaBus.MessageType"] == name {
			for _, o := range others {
				p.resend(p.queue, o, nil)
			}
			return d
		}
		others = append(others, d)
	}
}

// newV1 is an id as PikaBus makes them.
func newV1() string { return uuid.Must(uuid.NewUUID()).String() }

// looksLike fails the test unless a delivery equals a capture in every header and property, with the same types on the
// wire, apart from ids and times, which must be consistent, and the differences that are named.
func (p *peer) looksLike(d amqp.Delivery, kind string, replace amqp.Table, extra ...string) {
	p.Helper()
	g := p.golden(string(p.generation) + "_" + kind)
	want := p.generation.table(g.Properties.Headers)
	maps.Copy(want, replace)
	for _, key := range extra {
		if d.Headers[key] == nil {
			p.Errorf("%s: no header %s", kind, key)
		}
		want[key] = d.Headers[key]
	}
	for key, value := range want {
		got, ok := d.Headers[key]
		switch {
		case !ok:
			p.Errorf("%s: no header %s", kind, key)
		case fmt.Sprintf("%T", got) != fmt.Sprintf("%T", value):
			p.Errorf("%s: header %s is a %T; want a %T", kind, key, got, value)
		case strings.HasSuffix(key, "Time") || strings.HasSuffix(key, "TimeSent"):
			p.generation.read(p.place, got)
		case strings.HasSuffix(key, "MessageId") || strings.HasSuffix(key, "CorrelationId") || strings.HasSuffix(key, "ErrorDetails"):
			if got == "" {
				p.Errorf("%s: header %s is empty", kind, key)
			}
		case got != value:
			p.Errorf("%s: header %s is %v; want %v", kind, key, got, value)
		}
	}
	for key, value := range d.Headers {
		if _, ok := want[key]; !ok {
			p.Errorf("%s: header %s: %v is in no capture", kind, key, value)
		}
	}
	header := func(key string) string { s, _ := d.Headers["PikaBus."+key].(string); return s }
	sent := p.generation.read(p.place, d.Headers["PikaBus.TimeSent"])
	for name, pair := range map[string][2]any{
		"content type":     {d.ContentType, g.Properties.ContentType},
		"content encoding": {d.ContentEncoding, g.Properties.ContentEncoding},
		"delivery mode":    {d.DeliveryMode, g.Properties.DeliveryMode},
		"correlation id":   {d.CorrelationId, header("CorrelationId")},
		"reply to":         {d.ReplyTo, header("ReplyToAddress")},
		"message id":       {d.MessageId, header("MessageId")},
		"type":             {d.Type, header("MessageType")},
		"timestamp":        {d.Timestamp.Unix(), sent.Unix()},
		"user id":          {d.UserId, ""},
	} {
		if pair[0] != pair[1] {
			p.Errorf("%s: property %s is %v; want %v", kind, name, pair[0], pair[1])
		}
	}
	if g.Properties.Expiration == nil && d.Expiration != "" || g.Properties.AppID == nil && d.AppId != "" {
		p.Errorf("%s: expiration %q, app id %q", kind, d.Expiration, d.AppId)
	}
}
