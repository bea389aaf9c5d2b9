package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestRedrive parks with one command and moves back with another.
func TestRedrive(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	put(t, ch, "orders", amqp.Publishing{MessageId: "m\n1", Type: "Place", Body: []byte(`{"a" : 1}`)})
	execute(t, "", "listen", "-take", "-type", "classic", "-fail", "-1", "-retry-base", "5ms", "-count", "1", "-url", url, "orders").check(t, exitOK, "")
	put(t, ch, "error", amqp.Publishing{MessageId: "homeless"})
	for _, test := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"dry", []string{"-dry-run"}, exitFailed, "would move \"m\\n1\" of type \"Place\" to \"orders\" (9 bytes, failed with \"attempt 6 fails as asked by -fail\")\nleft \"homeless\" (0 bytes): it does not say where it came from\nwould move 1, left 1, not matched 0\n"},
		{"other", []string{"-match", "Other"}, exitOK, "moved 0, left 0, not matched 2\n"},
		{"match", []string{"-match", "Place"}, exitOK, "moved \"m\\n1\" of type \"Place\" to \"orders\" (9 bytes, failed with \"attempt 6 fails as asked by -fail\")\nmoved 1, left 0, not matched 1\n"},
		{"absent", []string{"-to", "nowhere"}, exitFailed, "left \"homeless\" to \"nowhere\" (0 bytes): there is no queue \"nowhere\"\nmoved 0, left 1, not matched 0\n"},
		{"to", []string{"-to", "orders"}, exitOK, "moved \"homeless\" to \"orders\" (0 bytes)\nmoved 1, left 0, not matched 0\n"},
	} {
		r := execute(t, "", append([]string{"redrive", "-url", url}, test.args...)...)
		r.check(t, test.code, "")
		if r.out != test.out {
			t.Errorf("%s printed\n%swanted\n%s", test.name, r.out, test.out)
		}
	}
	r := execute(t, "", "listen", "-take", "-type", "classic", "-count", "2", "-concurrency", "1", "-url", url, "orders")
	r.check(t, exitOK, "")
	got := objects(t, r.out)
	if len(got) != 2 || got[0]["attempt"] != float64(1) {
		t.Errorf("after redriving: %v", got)
	}
	execute(t, "", "redrive", "-url", url, "-error-queue", "none").check(t, exitFailed, "404")
}

// TestRedriveOfUnreadableHeaders: they do not stop redrive, which says where they are.
func TestRedriveOfUnreadableHeaders(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "orders", nil)
	declare(t, ch, "error", nil)
	headers := amqp.Table{"PikaBus.SourceQueue": "orders", "wide": make([]any, 8193)}
	put(t, ch, "error", amqp.Publishing{MessageId: "m1", Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}})
	put(t, ch, "error", amqp.Publishing{MessageId: "m2", Headers: headers, Body: []byte("{}")})
	r := execute(t, "", "redrive", "-url", url, "-dry-run", "-json")
	r.check(t, exitOK, "would move 2")
	got := objects(t, r.out)[1]
	if got["position"] != 2.0 || got["unreadable"] != true || got["to"] != "orders" || len(got["headers"].(map[string]any)) != 1 {
		t.Errorf("the second is %v", got)
	}
	r = execute(t, "", "redrive", "-url", url)
	r.check(t, exitOK, "")
	if want := "moved \"m2\" to \"orders\" (2 bytes, number 2 in the queue, with headers that the AMQP client cannot read)\n"; !strings.Contains(r.out, want) {
		t.Errorf("printed\n%swanted\n%s", r.out, want)
	}
	if moved := b.Messages("orders"); len(moved) != 2 || len(moved[1].Headers) != 1 || len(moved[1].Headers["wide"].([]any)) != 8193 {
		t.Errorf("%d messages were moved", len(moved))
	}
}

// TestRedriveShows: what an operator wants to know of each message, without moving it.
func TestRedriveShows(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "error", nil)
	sent := time.Now().Add(-90 * time.Minute)
	headers := amqp.Table{"PikaBus.SourceQueue": "orders", "PikaBus.ErrorDetails": "out of\nstock"}
	put(t, ch, "error", amqp.Publishing{MessageId: "m1", Type: "Place", Timestamp: sent, Headers: headers, Body: []byte("{\"a\" :\n 1}")})
	put(t, ch, "error", amqp.Publishing{MessageId: "m2", Body: []byte("\xffx")})
	r := execute(t, "", "redrive", "-url", url, "-dry-run", "-body")
	r.check(t, exitFailed, "")
	want := regexp.MustCompile(`^would move "m1" of type "Place" to "orders" \(10 bytes, sent 1h30m\d+s ago, failed with "out of\\nstock"\)
    {"a":1}
left "m2" \(2 bytes\): it does not say where it came from
    "\\xffx"
would move 1, left 1, not matched 0
$`)
	if !want.MatchString(r.out) {
		t.Errorf("printed\n%s", r.out)
	}
	r = execute(t, "", "redrive", "-url", url, "-dry-run", "-json")
	r.check(t, exitFailed, "would move 1, left 1")
	got := objects(t, r.out)
	if len(got) != 2 {
		t.Fatalf("printed\n%s", r.out)
	}
	for key, want := range map[string]any{"action": "would move", "to": "orders", "source": "orders", "failure": "out of\nstock"} {
		if got[0][key] != want {
			t.Errorf("%s is %v, want %v", key, got[0][key], want)
		}
	}
	if got[0]["body"].(map[string]any)["a"] != 1.0 || got[0]["properties"].(map[string]any)["message_id"] != "m1" {
		t.Errorf("the first is %v", got[0])
	}
	if got[1]["action"] != "left" || got[1]["body_base64"] != true || !strings.Contains(got[1]["reason"].(string), "where it came from") {
		t.Errorf("the second is %v", got[1])
	}
	if q, _ := b.Queue("error"); q.Ready+q.Unacked != 2 {
		t.Errorf("the error queue is %+v", q)
	}
}
