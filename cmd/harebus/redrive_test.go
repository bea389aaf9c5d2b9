package main

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestRedrive parks with one command and moves back with another.
func TestRedrive(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := listenerQueue(t, b)
	put(t, ch, "orders", amqp.Publishing{MessageId: "m\n1", Type: "Place", Body: []byte(`{"a" : 1}`)})
	execute(t, "", "listen", "-type", "classic", "-fail", "-1", "-retry-base", "5ms", "-count", "1", "-url", url, "orders").check(t, exitOK, "")
	put(t, ch, "error", amqp.Publishing{MessageId: "homeless"})
	for _, test := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"dry", []string{"-dry-run"}, exitFailed, "would move \"m\\n1\" of type \"Place\" to \"orders\"\nleft \"homeless\": it does not say where it came from\nwould move 1, left 1, not matched 0\n"},
		{"other", []string{"-match", "Other"}, exitOK, "moved 0, left 0, not matched 2\n"},
		{"match", []string{"-match", "Place"}, exitOK, "moved \"m\\n1\" of type \"Place\" to \"orders\"\nmoved 1, left 0, not matched 1\n"},
		{"absent", []string{"-to", "nowhere"}, exitFailed, "left \"homeless\" to \"nowhere\": there is no queue \"nowhere\"\nmoved 0, left 1, not matched 0\n"},
		{"to", []string{"-to", "orders"}, exitOK, "moved \"homeless\" to \"orders\"\nmoved 1, left 0, not matched 0\n"},
	} {
		r := execute(t, "", append([]string{"redrive", "-url", url}, test.args...)...)
		r.check(t, test.code, "")
		if r.out != test.out {
			t.Errorf("%s printed\n%swanted\n%s", test.name, r.out, test.out)
		}
	}
	r := execute(t, "", "listen", "-type", "classic", "-count", "2", "-concurrency", "1", "-url", url, "orders")
	r.check(t, exitOK, "")
	got := objects(t, r.out)
	if len(got) != 2 || got[0]["attempt"] != float64(1) {
		t.Errorf("after redriving: %v", got)
	}
	execute(t, "", "redrive", "-url", url, "-error-queue", "none").check(t, exitFailed, "404")
}
