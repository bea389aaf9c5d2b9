// Package dialecttest tests the dialects of other buses with messages as those write them. A golden is a file in testdata: a
// message with its AMQP types, and how it was had ("confidence").
package dialecttest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
)

// Broker is where the peers of the goldens are.
var Broker = dialect.Broker{Hosts: []string{"localhost"}, VirtualHost: "shop"}

// Load reads testdata/name.json.
func Load(tb testing.TB, name string) dialect.Wire {
	tb.Helper()
	return load(tb, "testdata", name)
}

func load(tb testing.TB, folder, name string) dialect.Wire {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join(folder, name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	w, err := parse(raw)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return w
}

// typed is an AMQP value in a golden.
type typed struct {
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

// parse makes a message of a golden.
func parse(raw []byte) (w dialect.Wire, err error) {
	var g struct {
		Exchange   string           `json:"exchange"`
		RoutingKey string           `json:"routing_key"`
		Mandatory  bool             `json:"mandatory"`
		Properties map[string]any   `json:"properties"`
		Headers    map[string]typed `json:"headers"`
		Body       json.RawMessage  `json:"body"`
		Text       *string          `json:"body_text"`
		Base64     string           `json:"body_base64"`
	}
	if err = json.Unmarshal(raw, &g); err != nil {
		return w, err
	}
	w = dialect.Wire{Exchange: g.Exchange, RoutingKey: g.RoutingKey, Mandatory: g.Mandatory, Headers: map[string]any{}, Broker: &Broker}
	if w.Properties, err = properties(g.Properties); err != nil {
		return w, err
	}
	for name, value := range g.Headers {
		if w.Headers[name], err = value.value(); err != nil {
			return w, fmt.Errorf("header %s: %w", name, err)
		}
	}
	switch {
	case g.Text != nil:
		w.Body = []byte(*g.Text)
	case g.Base64 != "":
		w.Body, err = base64.StdEncoding.DecodeString(g.Base64)
	case len(g.Body) > 0 && g.Body[0] == '"':
		var text string
		err = json.Unmarshal(g.Body, &text)
		w.Body = []byte(text)
	default:
		w.Body = g.Body
	}
	return w, err
}

func properties(in map[string]any) (p dialect.Properties, err error) {
	in = maps.Clone(in)
	text := func(name string, to *string) {
		*to, _ = in[name].(string)
		delete(in, name)
	}
	text("content_type", &p.ContentType)
	text("content_encoding", &p.ContentEncoding)
	text("correlation_id", &p.CorrelationID)
	text("reply_to", &p.ReplyTo)
	text("expiration", &p.Expiration)
	text("message_id", &p.MessageID)
	text("type", &p.Type)
	text("user_id", &p.UserID)
	text("app_id", &p.AppID)
	for name, to := range map[string]*uint8{"delivery_mode": &p.DeliveryMode, "priority": &p.Priority} {
		n, _ := in[name].(float64)
		*to = uint8(n)
		delete(in, name)
	}
	if at, ok := in["timestamp"].(float64); ok {
		p.Timestamp = time.Unix(int64(at), 0)
		delete(in, "timestamp")
	}
	for name, value := range in {
		return p, fmt.Errorf("property %s is %v", name, value)
	}
	return p, nil
}

// value has the Go type that stands for the AMQP type.
func (v typed) value() (any, error) {
	whole := func() int64 { n, _ := strconv.ParseInt(string(v.Value), 10, 64); return n }
	number := func() float64 { n, _ := strconv.ParseFloat(string(v.Value), 64); return n }
	var text string
	_ = json.Unmarshal(v.Value, &text) // of what is text
	switch v.Type {
	case "S":
		return text, nil
	case "x":
		return base64.StdEncoding.DecodeString(text)
	case "t":
		return string(v.Value) == "true", nil
	case "b":
		return int8(whole()), nil
	case "B":
		return uint8(whole()), nil
	case "s":
		return int16(whole()), nil
	case "I":
		return int32(whole()), nil
	case "l":
		return whole(), nil
	case "f":
		return float32(number()), nil
	case "d":
		return number(), nil
	case "D":
		digits, fraction, _ := strings.Cut(text, ".")
		n, err := strconv.ParseInt(digits+fraction, 10, 32)
		return amqp.Decimal{Scale: uint8(len(fraction)), Value: int32(n)}, err
	case "T":
		return time.Unix(whole(), 0), nil
	case "V":
		return nil, nil //nolint:nilnil // a void
	case "A":
		var list []typed
		if err := json.Unmarshal(v.Value, &list); err != nil {
			return nil, err
		}
		values := make([]any, len(list))
		for i, one := range list {
			var err error
			if values[i], err = one.value(); err != nil {
				return nil, err
			}
		}
		return values, nil
	case "F":
		var fields map[string]typed
		if err := json.Unmarshal(v.Value, &fields); err != nil {
			return nil, err
		}
		table := amqp.Table{}
		for name, one := range fields {
			var err error
			if table[name], err = one.value(); err != nil {
				return nil, err
			}
		}
		return table, nil
	}
	return nil, fmt.Errorf("the type %q is not known", v.Type)
}

// publishing is the message as a plain client sends it.
func publishing(w *dialect.Wire) amqp.Publishing {
	p := &w.Properties
	return amqp.Publishing{
		Headers: w.Headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode, Priority: p.Priority,
		CorrelationId: p.CorrelationID, ReplyTo: p.ReplyTo, Expiration: p.Expiration, MessageId: p.MessageID, Timestamp: p.Timestamp,
		Type: p.Type, AppId: p.AppID, Body: w.Body,
	}
}

// delivery is the message as a plain client receives it.
func delivery(w *dialect.Wire) *amqp.Delivery {
	p := &w.Properties
	return &amqp.Delivery{
		Exchange: w.Exchange, RoutingKey: w.RoutingKey,
		Headers: w.Headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode, Priority: p.Priority,
		CorrelationId: p.CorrelationID, ReplyTo: p.ReplyTo, Expiration: p.Expiration, MessageId: p.MessageID, Timestamp: p.Timestamp,
		Type: p.Type, UserId: p.UserID, AppId: p.AppID, Body: w.Body,
	}
}
