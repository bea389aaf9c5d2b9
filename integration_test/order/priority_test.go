package order_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
)

// TestPriorities: what a quorum queue makes of priorities depends on the version of RabbitMQ, as WithPriority and docs/messages.md say; and it cannot be
// declared with x-max-priority. That is why a message with a key has none.
func TestPriorities(t *testing.T) {
	node := rabbit.Shared(t)
	want := map[string]string{"3.": "low none high", "4.0": "high low none", "4.1": "high low none", "4.2": "high low none"}
	expected := "high none low" // since 4.3
	for version, order := range want {
		if strings.HasPrefix(node.Version(), version) {
			expected = order
		}
	}
	conn, err := amqp.Dial(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	open := func() *amqp.Channel {
		t.Helper()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	name := fmt.Sprint("priorities-", time.Now().UnixNano())
	quorum := amqp.Table{"x-queue-type": "quorum"}
	if _, err := open().QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-max-priority": 5}); err == nil {
		t.Error("a quorum queue takes x-max-priority")
	}
	ch := open()
	if _, err := ch.QueueDeclare(name, true, false, false, false, quorum); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := open().QueueDelete(name, false, false, false); err != nil {
			t.Error(err)
		}
	}()
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		body     string
		priority uint8
	}{{"low", 1}, {"none", 0}, {"high", 9}} { // 0 is not written
		sent, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), "", name, true, false, amqp.Publishing{Body: []byte(m.body), Priority: m.priority})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if ok, err := sent.WaitContext(ctx); err != nil || !ok {
			t.Fatal(ok, err)
		}
		cancel()
	}
	var came []string
	for range 3 {
		d, ok, err := ch.Get(name, true)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		came = append(came, string(d.Body))
	}
	if got := strings.Join(came, " "); got != expected {
		t.Errorf("RabbitMQ %s: %s, want %s", node.Version(), got, expected)
	}
}
