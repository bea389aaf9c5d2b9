package nservicebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/internal/dialecttest"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// handled sends a message to a service, and returns what its handler gets, or what is in the error queue.
func handled(t *testing.T, d *nservicebus.Dialect, w dialect.Wire, changes ...func(*harebus.Config)) (got *harebus.Message, parked map[string]any) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		defer broker.Close()
		cfg := harebus.Config{Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{d}}}
		for _, change := range changes {
			change(&cfg)
		}
		s, err := harebus.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o struct{ ID int }) error {
			got = harebus.Incoming(ctx)
			if o.ID != 7 {
				return harebus.NoRetry(errors.New("no order"))
			}
			return nil
		}, harebus.WithType("PlaceOrder"))
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		dialecttest.Put(t, broker, "orders", &w)
		if err := broker.WaitQuiet(t.Context(), "error"); err != nil {
			t.Fatal(err)
		}
		for _, m := range broker.Messages("error") {
			parked = m.Headers
		}
	})
	return got, parked
}

// TestVersions: what the versions of NServiceBus, and who imitates them, write differently does not matter to a handler.
func TestVersions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *dialect.Wire){
		"7": func(w *dialect.Wire) {
			w.Headers["NServiceBus.NonDurableMessage"], w.Properties.DeliveryMode = "True", 1
		},
		"8, own content type": func(w *dialect.Wire) { w.Properties.ContentType = "application/json; systemjson" },
		"Newtonsoft": func(w *dialect.Wire) {
			w.Properties.ContentType, w.Headers["NServiceBus.ContentType"] = "text/json", "text/json"
		},
		"white space":       func(w *dialect.Wire) { w.Properties.ContentType = " Application/JSON ;charset=UTF-8" },
		"header alone":      func(w *dialect.Wire) { w.Properties.ContentType = "" },
		"a byte order mark": func(w *dialect.Wire) { w.Body = append([]byte("\uFEFF"), w.Body...) },
		"delayed": func(w *dialect.Wire) {
			w.Headers["NServiceBus.Transport.RabbitMQ.DelayInSeconds"], w.Headers["NServiceBus.DeliverAt"] = int32(5), "2026-11-21 08:44:46:901107 Z"
		},
		"from ServiceControl": func(w *dialect.Wire) {
			w.Headers["ServiceControl.Retry.UniqueMessageId"], w.Headers["NServiceBus.DelayedRetries"] = "1", "3"
		},
		"time to be received": func(w *dialect.Wire) {
			w.Headers["NServiceBus.TimeToBeReceived"], w.Properties.Expiration = "00:01:00", "60000"
		},
		"without EnclosedType": func(w *dialect.Wire) { delete(w.Headers, "NServiceBus.EnclosedMessageTypes") },
		"types as bytes": func(w *dialect.Wire) {
			w.Headers["NServiceBus.EnclosedMessageTypes"] = []byte("Acme.Orders.PlaceOrder, Acme.Orders")
		},
		"numbers": func(w *dialect.Wire) {
			w.Headers["NServiceBus.DelayedRetries"], w.Headers["NServiceBus.ControlMessage"] = int32(2), false
		},
		"audited": func(w *dialect.Wire) {
			w.Headers["NServiceBus.ProcessingStarted"], w.Headers["NServiceBus.ProcessingEnded"] = "2026-11-21 08:44:41:901107 Z", "2026-11-21 08:44:42:901107 Z"
		},
		"through delay queues": func(w *dialect.Wire) {
			w.Headers["x-first-death-reason"], w.Headers["x-first-death-queue"] = "expired", "nsb.v2.delay-level-02"
			w.Headers["x-death"] = []any{amqp.Table{"reason": "expired", "queue": "nsb.v2.delay-level-02", "count": int64(1), "exchange": "nsb.v2.delay-level-02", "routing-keys": []any{"0.0.1.0.orders"}}}
		},
		"headers alone": func(w *dialect.Wire) {
			w.Properties.MessageID, w.Properties.CorrelationID, w.Properties.Type = "", "", ""
		},
		"minimal": func(w *dialect.Wire) { w.Headers = nil },
	} {
		w := dialecttest.Load(t, "nservicebus-send")
		change(&w)
		if m, parked := handled(t, peer(), w); m == nil || parked != nil || m.ID != "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c001" || m.ReplyTo != "shop" || m.CorrelationID != "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c002" {
			t.Errorf("%s: handled is %+v, parked %v", name, m, parked)
		}
	}
}

// TestCallback: a caller of version 5 and before names the queue for the answer in a header, and that of its endpoint in the property.
func TestCallback(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "nservicebus-send")
	w.Headers["NServiceBus.RabbitMQ.CallbackQueue"] = "shop.MACHINE"
	if f, _, faults := dialecttest.Read(peer(), &w); len(faults) > 0 || f.ReplyTo != "shop.MACHINE" {
		t.Errorf("it would be answered to %q, %v", f.ReplyTo, faults)
	}
	w.Headers["NServiceBus.RabbitMQ.CallbackQueue"] = "../error"
	if f, _, faults := dialecttest.Read(peer(), &w); len(faults) > 0 || f.ReplyTo != "" || f.NoReply == nil {
		t.Errorf("it would be answered to %q, %v", f.ReplyTo, faults)
	}
}

// TestXML: a message of the XML serializer is parked, with the reason, and not handled without its content.
func TestXML(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "nservicebus-send")
	w.Properties.ContentType, w.Headers["NServiceBus.ContentType"], w.Body = "text/xml", "text/xml", []byte(`<?xml version="1.0"?><PlaceOrder xmlns="http://tempuri.net/Acme.Orders"><Id>7</Id></PlaceOrder>`)
	if m, parked := handled(t, peer(), w); m != nil || parked["PikaBus.ErrorKind"] != "unsupported-content" {
		t.Errorf("handled is %+v, parked %v", m, parked)
	}
}

// TestWrapped: an envelope of another bus with headers of NServiceBus, or with a type that it knows, is not read as a message without content.
func TestWrapped(t *testing.T) {
	t.Parallel()
	const envelope, event = `{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"Id":7}}`, `{"specversion":"1.0","id":"1","source":"/o","type":"T","data":{"Id":7}}`
	for contentType, body := range map[string]string{"application/vnd.masstransit+json": envelope, "application/cloudevents+json; charset=utf-8": event} {
		w := dialecttest.Load(t, "nservicebus-send")
		w.Properties.ContentType, w.Body = contentType, []byte(body)
		if f, _, faults := dialecttest.Read(peer(), &w); f != nil || len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "add that dialect") {
			t.Errorf("%s: %+v, %v", contentType, f, faults)
		}
		w.Headers, w.Properties.ContentType = nil, "application/json"
		if f, _, _ := dialecttest.Read(peer(), &w); f != nil {
			t.Errorf("%s is read as %s", body, f.Body)
		}
	}
}

// TestParked: a parked message has what ServiceControl needs, with the texts cut; one without much room has nothing of it; one of harebus neither.
func TestParked(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "nservicebus-error") // its notes of an earlier failure are replaced
	w.Body = []byte(`{"Id":8}`)
	_, parked := handled(t, peer(), w)
	for name, want := range map[string]any{
		"NServiceBus.FailedQ": "orders", "NServiceBus.ProcessingEndpoint": "orders", "NServiceBus.ExceptionInfo.ExceptionType": "error", "NServiceBus.ExceptionInfo.Message": "no order",
		"NServiceBus.ExceptionInfo.StackTrace": "no order", "NServiceBus.TimeOfFailure": "2000-01-01 00:00:00:000000 Z",
	} {
		if parked[name] != want {
			t.Errorf("%s is %v, want %v", name, parked[name], want)
		}
	}
	if id, _ := parked["$.diagnostics.hostid"].(string); len(id) != 32 {
		t.Errorf("the host is %q", id)
	}
	w = dialecttest.Load(t, "nservicebus-send")
	w.Body = []byte(`{"Id":8}`)
	w.Headers["large"] = strings.Repeat("x", 70<<10)
	if _, parked := handled(t, peer(), w); parked["NServiceBus.FailedQ"] != nil || parked["large"] == nil {
		t.Errorf("a header of the peer had to go for notes: %d headers", len(parked))
	}
	w = dialecttest.Load(t, "nservicebus-send")
	w.Body, w.Headers = []byte(`{"Id":8}`), map[string]any{"PikaBus.MessageId": "1", "PikaBus.MessageType": "PlaceOrder"}
	if _, parked := handled(t, peer(), w); parked["PikaBus.ErrorId"] == nil || parked["NServiceBus.FailedQ"] != nil {
		t.Errorf("one of harebus is parked with %v", parked)
	}
	w = dialecttest.Load(t, "nservicebus-send")
	w.Body = []byte(`{"Id":8}`)
	if _, parked := handled(t, peer(), w, func(cfg *harebus.Config) {
		cfg.Consume.Stream, cfg.Declare.Topology = &stream.Config{}, topology.EventLog("orders", "")
		cfg.Declare.Topology.Bindings = nil
	}); parked["PikaBus.StreamOffset"] == nil || parked["NServiceBus.FailedQ"] != nil {
		t.Errorf("one of a stream, to which no tool is to send it back, is parked with %v", parked)
	}
	long := peer().Parked(dialect.Failure{Text: strings.Repeat("ü", 1000), Stack: strings.Repeat("s", 9000), At: time.Unix(0, 0)})
	if text, stack := long["NServiceBus.ExceptionInfo.Message"].(string), long["NServiceBus.ExceptionInfo.StackTrace"].(string); len(text) > 1030 || len(stack) > 1030 || !strings.HasSuffix(text, "ü…") {
		t.Errorf("%d and %d bytes", len(text), len(stack))
	}
}

// TestServicePulse: a parked message that ServiceControl sends back, with all headers as text and without its notes, is handled again.
func TestServicePulse(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "nservicebus-send")
	good := w.Body
	w.Body = []byte(`{"Id":8}`)
	_, w.Headers = handled(t, peer(), w)
	for key, value := range w.Headers {
		if strings.Contains(key, "ExceptionInfo") || strings.HasSuffix(key, "FailedQ") || strings.HasSuffix(key, "TimeOfFailure") {
			delete(w.Headers, key)
			continue
		}
		w.Headers[key] = fmt.Sprint(value)
	}
	w.Headers["ServiceControl.Retry.UniqueMessageId"], w.Properties.Timestamp = "1", time.Time{}
	if m, parked := handled(t, peer(), w); m == nil || m.Attempt < 2 || parked["NServiceBus.FailedQ"] != "orders" {
		t.Errorf("it fails again: handled is %+v, parked %v", m, parked)
	}
	w.Body = good
	if m, parked := handled(t, peer(), w); m == nil || parked != nil || m.Type != "PlaceOrder" || m.ID != "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c001" || m.ReplyTo != "shop" {
		t.Errorf("handled is %+v, parked %v", m, parked)
	}
}
