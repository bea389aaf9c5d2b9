package badinput

import (
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// brokerHeaders are forged: only the broker may write them.
func brokerHeaders() amqp.Table {
	var deaths []any
	for range 2000 {
		deaths = append(deaths, amqp.Table{"queue": "q", "count": int64(1e9)})
	}
	return amqp.Table{
		"CC": []any{"victim"}, "BCC": []any{"victim"}, "x-death": deaths, "x-first-death-queue": "q", "x-first-death-reason": "expired",
		"x-first-death-exchange": "", "x-last-death-queue": "q", "x-last-death-reason": "expired", "x-last-death-exchange": "",
		"x-delivery-count": int64(1e9), "x-delay": int32(5), "x-match": "all", "x-acquired-count": int64(7),
		"x-received-from": []any{amqp.Table{"uri": "amqp://elsewhere"}}, "x-shovelled": []any{amqp.Table{"src-queue": "q"}},
		"x-shovelled-timestamp": int64(1e9), "x-stream-offset": int64(1e9), "x-routed-by": "rabbit@elsewhere",
		"x-opt-rabbitmq-received-time": int64(1e9), "x-request-id": "keep", "x-tenant": "keep",
	}
}

// Nested is a table in a table in a table. The client's reader takes 32.
func Nested(depth int) amqp.Table {
	table := amqp.Table{"at the": "bottom"}
	for range depth {
		table = amqp.Table{"deeper": table}
	}
	return table
}

func forgedCases() []Case {
	stripped := func(m amqp.Publishing) error {
		for name, value := range m.Headers {
			if strings.HasPrefix(name, "PikaBus.") {
				continue
			}
			if value != "keep" {
				return fmt.Errorf("header %s was copied", name)
			}
		}
		if m.Headers["x-request-id"] != "keep" || m.Headers["x-tenant"] != "keep" {
			return fmt.Errorf("headers of others were not kept: %v", m.Headers)
		}
		return nil
	}
	properties := func(m amqp.Publishing) error {
		if m.DeliveryMode != amqp.Persistent || m.Priority != 255 || m.AppId != "app" {
			return fmt.Errorf("delivery mode %d, priority %d, app id %q", m.DeliveryMode, m.Priority, m.AppId)
		}
		if m.Expiration != "" || m.UserId != "" {
			return fmt.Errorf("expiration %q and user id %q were copied", m.Expiration, m.UserId)
		}
		return nil
	}
	odd := amqp.Publishing{
		Type: "Hopeless", DeliveryMode: amqp.Transient, Priority: 255, Expiration: "6000000", UserId: "guest", AppId: "app", Body: []byte(`{}`),
	}
	oddRetried := odd
	oddRetried.Type = "Failing"
	return []Case{
		{Name: "20 forged", Message: typed("Order", `{"ID":7}`, brokerHeaders()), Want: Handled, See: func(m *harebus.Message) error {
			if m.Attempt != 1 || len(m.CustomHeaders()) != 2 {
				return fmt.Errorf("attempt %d, custom headers %v", m.Attempt, m.CustomHeaders())
			}
			return nil
		}},
		{Name: "19 forged, parked", Message: typed("Hopeless", `{}`, brokerHeaders()), Want: Parked, Reason: "no use", Copy: stripped},
		{Name: "19 forged, retried", Message: typed("Failing", `{}`, brokerHeaders()), Want: Retried, Reason: "not today", Copy: stripped},
		{Name: "20 x-death of strings", Message: order1("x-death", []any{"a", "b"}), Want: Handled},
		{Name: "20 x-death text", Message: failing("x-death", "a"), Want: Parked, Reason: "no use"},
		{Name: "20 x-death of 5000 nothings", Message: failing("x-death", make([]any, 5000)), Want: Parked, Reason: "no use"},
		{Name: "22 headers nested 30 deep", Message: order1("deep", Nested(30)), Want: Handled},
		{Name: "22 headers nested 30 deep, parked", Message: failing("deep", Nested(30)), Want: Parked, Reason: "no use"},
		{Name: "21 x-delivery-count", Message: order1("x-delivery-count", int64(1e9)), Want: Handled},
		{Name: "21 x-delivery-count, classic", Message: order1("x-delivery-count", int64(1e9)), Want: Handled, Tight: true},
		{Name: "24 odd properties", Message: amqp.Publishing{Type: "Order", DeliveryMode: 1, Priority: 255, Body: []byte(`{"ID":7}`)}, Want: Handled},
		{Name: "25 odd properties, parked", Message: odd, Want: Parked, Reason: "no use", Copy: properties},
		{Name: "25 odd properties, retried", Message: oddRetried, Want: Retried, Reason: "not today", Copy: properties},
	}
}

func handlerCases() []Case {
	return []Case{
		{Name: "15 no reply address", Message: typed("Replying", `{}`, nil), Want: Parked, Reason: "harebus: reply to message"},
		{Name: "16 reply to the error queue", Message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "error"}), Want: Parked, Reason: "harebus: reply: refused"},
		{Name: "16 reply to the broker's own", Message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "amq.gen-1"}), Want: Parked, Reason: "harebus: reply: refused"},
		{Name: "16 reply to a stranger", Message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "payments"}), Want: Parked, Reason: "harebus: reply: refused", Tight: true},
		{Name: "16 reply to nobody", Message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "nobody"}), Want: Retried, Reason: harebus.ErrUnroutable.Error()},
		{Name: "16 reply to a line break", Message: typed("Replying", `{}`, amqp.Table{prefixed("ReplyToAddress"): "a\nb"}), Want: Parked, Reason: "harebus: reply: refused"},
		{Name: "17 too many hops", Message: order1(prefixed("Hops"), int32(33)), Want: Parked, Reason: "loop"},
		{Name: "17 hops garbage", Message: order1(prefixed("Hops"), "garbage"), Want: Handled},
		{Name: "§3 28 handler fails", Message: typed("Failing", `{}`, nil), Want: Retried, Reason: "not today"},
		{Name: "§3 30 handler panics", Message: typed("Panicking", `{}`, nil), Want: Retried, Reason: "panic: oh"},
		{Name: "§3 36 long error", Message: typed("Verbose", `{}`, nil), Want: Retried, Reason: "(cut)"},
	}
}

// topicCases are events with keys that no service of ours would publish.
func topicCases() []Case {
	var cases []Case
	for _, topic := range []string{"#", "*.#", "a..b", ".", " ", "a b", long[:255], "line\nbreak", "\u202ereversed", "nul\x00"} {
		cases = append(cases, Case{
			Name: "40 topic " + topic, Message: plain(`{"ID":7}`), Topic: topic, Want: Handled, See: intentIs(harebus.IntentEvent),
		})
	}
	return append(cases, Case{
		Name: "40 topic of what is parked", Message: plain("?"), Topic: "#.\x1b[31m", Want: Parked, Reason: "bad-payload",
	})
}
