package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/redrive"
)

// object is how one message is printed.
type object struct {
	*parked `json:",omitempty"`

	Queue       string          `json:"queue,omitempty"`
	Exchange    string          `json:"exchange"`
	RoutingKey  string          `json:"routing_key"`
	Redelivered bool            `json:"redelivered"`
	Attempt     int             `json:"attempt,omitempty"`
	Properties  properties      `json:"properties"`
	Headers     map[string]any  `json:"headers"`
	Body        json.RawMessage `json:"body"`
	// BodyBase64 says that Body is a string that holds the bytes in base64.
	BodyBase64 bool `json:"body_base64,omitempty"`
	// Peer is what a message of another bus says of itself.
	Peer *foreign `json:"peer,omitempty"`
}

// parked is what redrive says about a message besides. Source is the queue it failed
// in, Failure why it was parked, and Reason why it stays there. Position counts from 1.
type parked struct {
	Action     string `json:"action"`
	Position   int    `json:"position"`
	To         string `json:"to,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Source     string `json:"source,omitempty"`
	Failure    string `json:"failure,omitempty"`
	Resealed   bool   `json:"resealed,omitempty"`
	Unreadable bool   `json:"unreadable,omitempty"`
}

// properties leaves out those that the message does not have.
type properties struct {
	ContentType     string `json:"content_type,omitempty"`
	ContentEncoding string `json:"content_encoding,omitempty"`
	DeliveryMode    uint8  `json:"delivery_mode,omitempty"`
	Priority        uint8  `json:"priority,omitempty"`
	CorrelationID   string `json:"correlation_id,omitempty"`
	ReplyTo         string `json:"reply_to,omitempty"`
	Expiration      string `json:"expiration,omitempty"`
	MessageID       string `json:"message_id,omitempty"`
	Timestamp       string `json:"timestamp,omitempty"`
	Type            string `json:"type,omitempty"`
	UserID          string `json:"user_id,omitempty"`
	AppID           string `json:"app_id,omitempty"`
}

// ownPrefix starts the names of harebus' headers, unless a service says otherwise.
const ownPrefix = "PikaBus."

// newObject makes the printed form of a message.
func newObject(m *harebus.Message) object {
	p := m.Properties
	o := object{
		Queue: m.Queue, Exchange: m.Exchange, RoutingKey: m.RoutingKey,
		Redelivered: m.Redelivered, Attempt: m.Attempt,
		Properties: properties{
			ContentType: p.ContentType, ContentEncoding: p.ContentEncoding,
			DeliveryMode: p.DeliveryMode, Priority: p.Priority,
			CorrelationID: p.CorrelationID, ReplyTo: p.ReplyTo,
			Expiration: p.Expiration, MessageID: p.MessageID,
			Type: p.Type, UserID: p.UserID, AppID: p.AppID,
		},
		Headers: jsonTable(m.Headers),
		Body:    m.Body,
		Peer:    foreignOf(m, ownPrefix),
	}
	if !p.Timestamp.IsZero() {
		o.Properties.Timestamp = jsonTime(p.Timestamp)
	}
	if !isJSON(m.Body) {
		o.Body, o.BodyBase64 = quotedBase64(m.Body), true
	}
	return o
}

// parkedObject makes the printed form of a message in an error queue.
func parkedObject(item redrive.Item) object {
	d := item.Delivery
	o := newObject(&harebus.Message{
		Exchange: d.Exchange, RoutingKey: d.RoutingKey, Redelivered: d.Redelivered, Headers: d.Headers, Body: d.Body,
		Properties: harebus.Properties{
			ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
			CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageID: d.MessageId,
			Timestamp: d.Timestamp, Type: d.Type, UserID: d.UserId, AppID: d.AppId,
		},
	})
	o.parked = &parked{string(item.Action), item.Position, item.To, item.Reason, item.Source, item.Failure, item.Resealed, item.Unreadable}
	return o
}

// line is the object as one line of JSON.
func (o object) line() ([]byte, error) {
	var buf bytes.Buffer
	err := queue.WriteJSON(&buf, o)
	return buf.Bytes(), err
}

// jsonLine is JSON without the line breaks that may be in it.
func jsonLine(body []byte) []byte {
	var buf bytes.Buffer
	if err := json.Compact(&buf, body); err != nil {
		return body
	}
	return buf.Bytes()
}

// isJSON says whether body is one JSON value in UTF-8.
func isJSON(body []byte) bool { return utf8.Valid(body) && json.Valid(body) }

// jsonTable converts a headers table. What JSON has no form for becomes an
// object with one key that starts with $: {"$bytes": base64}, {"$timestamp":
// time}, {"$decimal": text}, {"$float": "NaN"}, and {"$text": base64} for text
// that is not UTF-8.
func jsonTable(t map[string]any) map[string]any {
	out := make(map[string]any, len(t))
	for key, value := range t {
		out[jsonKey(key)] = jsonValue(value)
	}
	return out
}

// jsonKey keeps different keys different, also those that are not UTF-8.
func jsonKey(key string) string {
	if utf8.ValidString(key) {
		return key
	}
	quoted := strconv.Quote(key)
	return quoted[1 : len(quoted)-1]
}

func jsonValue(value any) any {
	switch v := value.(type) {
	case string:
		if !utf8.ValidString(v) {
			return map[string]any{"$text": base64.StdEncoding.EncodeToString([]byte(v))}
		}
		return v
	case []byte:
		return map[string]any{"$bytes": base64.StdEncoding.EncodeToString(v)}
	case time.Time:
		return map[string]any{"$timestamp": jsonTime(v)}
	case amqp.Decimal:
		return map[string]any{"$decimal": decimal(v)}
	case float32:
		return jsonFloat(float64(v), 32)
	case float64:
		return jsonFloat(v, 64)
	case amqp.Table:
		return jsonTable(v)
	case map[string]any:
		return jsonTable(v)
	case []any:
		list := make([]any, len(v))
		for i, element := range v {
			list[i] = jsonValue(element)
		}
		return list
	default: // nil, bool and the integers
		return v
	}
}

func jsonFloat(v float64, bits int) any {
	text := strconv.FormatFloat(v, 'g', -1, bits)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return map[string]any{"$float": text}
	}
	return json.Number(text)
}

// decimal writes the value with its point where the scale says.
func decimal(d amqp.Decimal) string {
	digits := strconv.FormatInt(int64(d.Value), 10)
	sign := ""
	if d.Value < 0 {
		sign, digits = "-", digits[1:]
	}
	scale := int(d.Scale)
	for len(digits) <= scale {
		digits = "0" + digits
	}
	if scale == 0 {
		return sign + digits
	}
	return sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
}

// jsonTime is RFC 3339 in UTC; unlike time.Time's own JSON it has no last year.
func jsonTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func quotedBase64(body []byte) json.RawMessage {
	return json.RawMessage(`"` + base64.StdEncoding.EncodeToString(body) + `"`)
}
