package seal_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/parked"
	"github.com/harebus/harebus/seal"
)

// TestPikaBus: a PikaBus service reads what is signed as ever, and cannot take what is sealed for a message of its own. The copies that
// it makes for retries and for its error queue, from the headers alone, are still authentic. What it sends in the clear is refused
// where it must be protected.
func TestPikaBus(t *testing.T) {
	t.Parallel()
	policy := seal.Policy{Types: []string{"Payment"}, Headers: []string{"tenant"}}
	for kind, guard := range guards(ring(t, secret(t, "key", 1)), policy) {
		for name, format := range map[string]harebus.TimeFormat{"2.x": harebus.TimeISO, "1.x": harebus.TimeLegacy} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := brokertest.New()
					t.Cleanup(b.Close)
					pikaBus(t, b, kind == "signed", guard, func(cfg *harebus.Config) { cfg.Payload.TimeFormat = format })
				})
			})
		}
	}
}

func pikaBus(t *testing.T, b *brokertest.Broker, readable bool, guard harebus.Guard, change func(*harebus.Config)) {
	t.Helper()
	s := serve(t, b, "orders", guard, change, nothing)
	peer := serve(t, b, "peer", guard, change, nothing) // which makes the queue, and then does nothing
	if err := peer.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Bus().Send(t.Context(), "peer", payment{canary}, harebus.WithHeader("tenant", "blue")); err != nil {
		t.Fatal(err)
	}
	got := b.Messages("peer")[0]
	var read payment
	err := json.Unmarshal(got.Body, &read)
	if readable && (err != nil || read.Card != canary) {
		t.Errorf("the peer read %+v, %v in %q", read, err, got.Body)
	}
	if !readable && (err == nil || bytes.Contains(got.Body, []byte(canary))) {
		t.Errorf("the peer read %+v in %q", read, got.Body)
	}

	// Its copy has the headers that came and its own, and properties made of them.
	headers := maps.Clone(got.Headers)
	headers["PikaBus.ErrorRetries"], headers["PikaBus.SourceQueue"] = int8(1), "peer"
	headers["PikaBus.ErrorDetails"] = "Traceback (most recent call last): …"
	text := func(name string) string { return fmt.Sprint(headers["PikaBus."+name]) }
	copied := amqp.Delivery{
		Headers: headers, ContentType: text("ContentType"), MessageId: text("MessageId"), CorrelationId: text("CorrelationId"),
		ReplyTo: text("ReplyToAddress"), Type: text("MessageType"), Body: got.Body,
	}
	id, p := parked.Read("PikaBus.", &copied, "peer")
	if err := guard.Admit(t.Context(), id, p); err != nil || string(p.Body) != `{"Card":"`+canary+`"}` {
		t.Errorf("its copy opens to %q, %v", p.Body, err)
	}

	plain := got.Publishing
	put(t, b, brokertest.Message{Publishing: plain}, []byte(`{"Card":"1"}`), map[string]any{"PikaBus.ContentType": "application/json", "PikaBus.Intent": "command"})
	time.Sleep(time.Minute)
	refused := b.Messages("error")
	if len(refused) != 1 || !strings.HasPrefix(fmt.Sprint(refused[0].Headers["PikaBus.ErrorDetails"]), "in-the-clear") {
		t.Errorf("in the error queue: %+v", refused)
	}
}
