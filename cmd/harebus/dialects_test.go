package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestSendAs: a message is written as another bus does, under the name that the peer has for its type.
func TestSendAs(t *testing.T) {
	t.Parallel()
	for as, c := range map[string]struct{ name, body, header, is string }{
		"masstransit": {"Acme.Orders:PlaceOrder", `"message":{"id":7}`, "", "application/vnd.masstransit+json"},
		"wolverine":   {"Acme.Orders.PlaceOrder", `{"id":7}`, "wolverine-protocol-version", "1.0"},
		"celery":      {"orders.place", `[[], {"id": 7}, `, "task", "orders.place"},
		"nservicebus": {"Acme.Orders.PlaceOrder", `{"id":7}`, "NServiceBus.EnclosedMessageTypes", "Acme.Orders.PlaceOrder"},
		"spring":      {"com.acme.PlaceOrder", `{"id":7}`, "__TypeId__", "com.acme.PlaceOrder"},
		"cloudevents": {"com.acme.order.placed", `{"id":7}`, "cloudEvents_type", "com.acme.order.placed"},
	} {
		t.Run(as, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			ch := client(t, b)
			declare(t, ch, "orders", nil)
			r := execute(t, "", "send", "-url", url, "-as", as, "-type", c.name, "orders", `{"id":7}`)
			r.check(t, exitOK, "")
			m := b.Messages("orders")[0]
			got := fmt.Sprint(m.Headers[c.header])
			if c.header == "" {
				got = m.ContentType
			}
			if !strings.Contains(strings.ReplaceAll(string(m.Body), `": `, `":`), strings.ReplaceAll(c.body, `": `, `":`)) || got != c.is {
				t.Errorf("%s, %v: %s", m.ContentType, m.Headers, m.Body)
			}
			for key := range m.Headers {
				if strings.HasPrefix(key, ownPrefix) {
					t.Errorf("the header %s is harebus' own", key)
				}
			}
			r = execute(t, "", "listen", "-take", "-type", "classic", "-count", "1", "-url", url, "orders")
			r.check(t, exitOK, "")
			peer, _ := objects(t, r.out)[0]["peer"].(map[string]any)
			if peer["dialect"] != as || peer["message_type"] != c.name {
				t.Errorf("listen prints %s", r.out)
			}
		})
	}
	_, url := newBroker(t)
	execute(t, "", "send", "-url", url, "-as", "elvish", "-type", "X", "q", "{}").check(t, exitUsage, `-as "elvish" is none of `+dialectNames())
	execute(t, "", "send", "-url", url, "-as", "spring", "q", "{}").check(t, exitUsage, "-as spring needs -type")
}

// TestErrorQueuesOfOthers: what another bus has parked is shown with its error, and goes back to where it failed, without what
// that bus has noted about the failure.
func TestErrorQueuesOfOthers(t *testing.T) {
	t.Parallel()
	for golden, c := range map[string]struct {
		queue, source string
		shows         []string
		gone          []string
		dialect       string
	}{
		"masstransit-error":              {"failing_error", "failing", []string{"kind +System.TimeoutException", "error\n    bank", "type +Acme.Orders.PlaceOrder", "parked +2026-11-28T10:35:11Z", "payload\n    {"}, []string{"MT-Reason", "MT-Fault-Message", "MT-Host-ProcessId"}, "masstransit"},
		"masstransit-skipped":            {"picky_skipped", "picky", []string{"kind +dead-letter", "no consumer took it", "type +Acme.Orders:"}, []string{"MT-Reason"}, "masstransit"},
		"wolverine-dead-letter-buffered": {"wolverine-dead-letter-queue", "orders", []string{"kind +System.InvalidOperationException", "cannot place order 7"}, []string{"exception-type", "failed-at", "attempts", "failure-title"}, "wolverine"},
		"wolverine-dead-letter-native":   {"wolverine-dead-letter-queue", "orders", []string{"kind +rejected"}, []string{"x-death", "x-first-death-queue"}, "wolverine"},
		"nservicebus-parked":             {"errors", "orders", []string{"kind +System.InvalidOperationException", "error\n    no stock\n       at Acme", "type +Acme.Orders.PlaceOrder", "parked +2026-11-21T08:44:41Z"}, []string{"NServiceBus.FailedQ", "NServiceBus.ExceptionInfo.Message"}, "nservicebus"},
		"spring-parked":                  {"failed", "", []string{"kind +java.lang.IllegalStateException", "error\n    no stock", "type +com.acme.orders.PlaceOrder"}, []string{"x-exception-message", "x-original-exchange"}, "spring"},
	} {
		t.Run(golden, func(t *testing.T) {
			t.Parallel()
			b, url := newBroker(t)
			ch := client(t, b)
			declare(t, ch, c.queue, nil)
			declare(t, ch, "home", nil)
			if c.source != "" {
				declare(t, ch, c.source, nil)
			}
			w := dialecttest.Load(t, golden)
			put(t, ch, c.queue, amqp.Publishing{
				Headers: maps.Clone(w.Headers), ContentType: w.Properties.ContentType, MessageId: w.Properties.MessageID, CorrelationId: w.Properties.CorrelationID,
				Type: w.Properties.Type, Expiration: w.Properties.Expiration, DeliveryMode: w.Properties.DeliveryMode, Body: w.Body,
			})
			on := func(do string, args ...string) result {
				return execute(t, "", slices.Concat([]string{"errors", do, "-url", url, "-no-audit", "-error-queue", c.queue}, args)...)
			}
			list := on("list", "-json")
			list.check(t, exitOK, "")
			o := objects(t, list.out)[0]
			id, _ := o["id"].(string)
			peer, _ := o["peer"].(map[string]any)
			if name, _ := peer["dialect"].(string); name != c.dialect || fmt.Sprint(o["source"]) != c.source && c.source != "" {
				t.Errorf("list prints %s", list.out)
			}
			table := on("list")
			table.check(t, exitOK, "")
			if !strings.Contains(table.out, "  "+c.dialect+"  ") {
				t.Errorf("list prints %s", table.out)
			}
			shown := on("show", id)
			shown.check(t, exitOK, "")
			for _, want := range c.shows {
				name, text, ok := strings.Cut(want, " +")
				if ok && !strings.Contains(strings.Join(strings.Fields(shown.out), " "), name+" "+text) || !ok && !strings.Contains(shown.out, want) {
					t.Errorf("it is shown without %q: %s", want, shown.out)
				}
			}
			if c.source == "" {
				r := on("retry", "-yes", "1")
				r.check(t, exitFailed, "")
				if !strings.Contains(r.out, `by the exchange "orders.events" with the key "order.placed"`) {
					t.Errorf("retry prints %s", r.out)
				}
				on("redirect", "-to", "home", "-yes", "1").check(t, exitOK, "")
				c.source = "home"
			} else {
				on("retry", "-yes", "1").check(t, exitOK, "")
			}
			home(t, b, c.source, w.Headers, w.Body, c.gone)
		})
	}
}

// home fails the test if the message in a queue does not have the headers that its peer wrote, without those about the failure.
func home(t *testing.T, b *brokertest.Broker, queue string, headers map[string]any, body []byte, gone []string) {
	t.Helper()
	back := b.Messages(queue)
	if len(back) != 1 || string(back[0].Body) != string(body) || back[0].Expiration != "" {
		t.Fatalf("%d messages are back: %+v", len(back), back)
	}
	for _, key := range gone {
		if _, there := back[0].Headers[key]; there || headers[key] == nil {
			t.Errorf("the header %s is still there, or was never", key)
		}
	}
	for _, key := range []string{"tenant", "__TypeId__", "conversation-id", "NServiceBus.EnclosedMessageTypes", "wolverine-protocol-version"} {
		if headers[key] != back[0].Headers[key] {
			t.Errorf("the header %s is %v, was %v", key, back[0].Headers[key], headers[key])
		}
	}
}
