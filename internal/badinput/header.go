package badinput

import (
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

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

func headerCases() []Case {
	typeless := amqp.Publishing{ContentType: "application/json", Body: []byte(`{"ID":7}`)}
	cases := []Case{
		{Name: "01 no headers, type by property", Message: plain(`{"ID":7}`), Want: Handled},
		{Name: "01 no headers, no type", Message: typeless, Want: Parked, Reason: "no-type"},
		{Name: "01 nothing but a body", Message: amqp.Publishing{Body: []byte("?")}, Want: Parked, Reason: "no-type"},
		{
			Name: "02 no message id", Message: plain(`{"ID":7}`), Want: Handled,
			See: func(m *harebus.Message) error {
				if m.ID == "" {
					return errors.New("no id was made")
				}
				return nil
			},
		},
		{
			Name: "02 message id by property", Want: Handled,
			Message: amqp.Publishing{MessageId: "mine", Type: "Order", Body: []byte(`{"ID":7}`)},
			See: func(m *harebus.Message) error {
				if m.ID != "mine" {
					return fmt.Errorf("id %q", m.ID)
				}
				return nil
			},
		},
		{
			Name: "03 message id bytes", Message: order1(prefixed("MessageId"), []byte("bytes")), Want: Handled,
			See: func(m *harebus.Message) error {
				if m.ID != "bytes" {
					return fmt.Errorf("id %q", m.ID)
				}
				return nil
			},
		},
		{Name: "04 message id empty", Message: order1(prefixed("MessageId"), ""), Want: Handled, See: func(m *harebus.Message) error {
			if m.ID == "" {
				return errors.New("no id was made")
			}
			return nil
		}},
		{Name: "04 message id no uuid", Message: order1(prefixed("MessageId"), "42/ü"), Want: Handled},
		{Name: "04 message id 255 bytes", Message: order1(prefixed("MessageId"), long[:255]), Want: Handled},
		{Name: "04 message id 10 KB", Message: order1(prefixed("MessageId"), long), Want: Parked, Reason: "bad-header"},
		{Name: "02 neither id nor type by header", Message: amqp.Publishing{Headers: amqp.Table{"x": "y"}, Type: "Order", Body: []byte(`{"ID":7}`)}, Want: Handled},
		{Name: "08 type missing", Message: typed("", `{"ID":7}`, nil), Want: Parked, Reason: "no-type"},
		{Name: "08 type empty", Message: order1(prefixed("MessageType"), ""), Want: Handled},
		{Name: "09 type unknown", Message: typed("Invoice", `{}`, nil), Want: Parked, Reason: "unknown-type"},
		{Name: "12 intent missing", Message: plain(`{"ID":7}`), Want: Handled, See: intentIs(harebus.IntentCommand)},
		{Name: "12 intent unknown", Message: order1(prefixed("Intent"), "query"), Want: Handled, See: intentIs(harebus.IntentCommand)},
		{Name: "12 intent int", Message: order1(prefixed("Intent"), int32(3)), Want: Handled, See: intentIs(harebus.IntentCommand)},
		{Name: "23 key empty", Message: order1("", "x"), Want: Handled},
		{Name: "23 key 255 bytes", Message: order1(long[:255], "x"), Want: Handled},
		{Name: "23 key not UTF-8", Message: order1("\xff\xfe", "x"), Want: Handled},
		{Name: "23 key empty, parked", Message: failing("", "x"), Want: Parked, Reason: "no use"},
		{Name: "23 key not UTF-8, parked", Message: failing("\xff\xfe", "x"), Want: Parked, Reason: "no use"},
		{Name: "23 duplicate keys", Message: plain(`{"ID":7}`), Table: duplicateKeys(), Want: Handled},
		{Name: "23 duplicate keys, parked", Message: typed("Hopeless", `{}`, nil), Table: duplicateKeys(), Want: Parked, Reason: "no use"},
	}
	for name, value := range map[string]any{
		"int64": int64(1), "bytes not UTF-8": []byte{0xff}, "text not UTF-8": "\xff", "nil": nil, "table": amqp.Table{"a": "b"},
	} {
		cases = append(cases,
			Case{Name: "03 message id " + name, Message: order1(prefixed("MessageId"), value), Want: Parked, Reason: "bad-header"},
			Case{Name: "08 type " + name, Message: order1(prefixed("MessageType"), value), Want: Parked, Reason: "bad-header"},
			Case{Name: "13 content type " + name, Message: order1(prefixed("ContentType"), value), Want: Parked, Reason: "bad-header"},
			Case{Name: "18 correlation id " + name, Message: order1(prefixed("CorrelationId"), value), Want: Handled},
			Case{Name: "18 reply address " + name, Message: order1(prefixed("ReplyToAddress"), value), Want: Handled},
			Case{Name: "07 time sent " + name, Message: order1(prefixed("TimeSent"), value), Want: Handled},
		)
	}
	for _, evil := range []string{"os/exec.Cmd", "../../x", "System.Diagnostics.Process, System", "*", "order", "Order ", "a\nb"} {
		cases = append(cases, Case{Name: "10 type " + evil, Message: typed(evil, `{}`, nil), Want: Parked, Reason: "unknown-type"})
	}
	return cases
}

func intentIs(want harebus.Intent) func(*harebus.Message) error {
	return func(m *harebus.Message) error {
		if m.Intent != want {
			return fmt.Errorf("intent %q, want %q", m.Intent, want)
		}
		return nil
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

// plain is an order, as a foreign client sends it.
func plain(body string) amqp.Publishing {
	return amqp.Publishing{Type: "Order", ContentType: "application/json", Body: []byte(body)}
}
