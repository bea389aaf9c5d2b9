package main

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
)

// story is what a newcomer must be able to read, in this order.
var story = []string{
	"a broker inside this process",
	"shop, orders, billing and shipping",
	"1. A command", "orders    handles PlaceOrder 1",
	"2. An event",
	"3. A reply", "orders    looks up the price of a lamp", "shop      gets the reply: 20 euros",
	"4. A deferred message", "orders    is reminded of the invoice",
	"5. A transaction", "is done: commit", "packs a lamp", "packs a shade",
	"6. A transaction that fails", "rollback", "packs a ribbon", "has packed so far: [lamp shade ribbon]",
	"7. A message that fails",
	"attempt 1 for order 1: fails", "attempt 2 for order 1, 0.5 s later", "attempt 3 for order 1, 1.0 s later",
	"attempt 4 for order 1, 2.0 s later",
	"queue quickstart.error", `CallCourier {"ID":1}`, "quickstart.orders", "4", "the courier does not answer the phone",
}

func TestStory(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	start := time.Now()
	if err := run(t.Context(), "", &out); err != nil {
		t.Fatalf("%v, after\n%s", err, &out)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v, longer than anybody watches", took)
	}
	rest := out.String()
	for _, line := range story {
		// Pauses are rounded up by the broker and late on a busy machine.
		found := regexp.MustCompile(laterPattern(line)).FindStringIndex(rest)
		if found == nil {
			t.Fatalf("%q is not in the rest of the story:\n%s", line, rest)
		}
		rest = rest[found[1]:]
	}
	for _, service := range []string{"billing   hears of order 1", "shipping  hears of order 1"} {
		if !strings.Contains(out.String(), service) {
			t.Errorf("%q is not in the story", service)
		}
	}
	if strings.Contains(out.String(), "packs a vase") {
		t.Error("the vase was packed")
	}
}

// laterPattern lets a pause be longer, by less than the next one is.
func laterPattern(line string) string {
	pattern := regexp.QuoteMeta(line)
	return regexp.MustCompile(`(\d)\\\.(\d) s later`).ReplaceAllString(pattern, `$1\.[$2-9] s later`)
}

// TestStoryOverTCP runs it on a broker that is reached by its address, and
// finds it clean afterwards.
func TestStoryOverTCP(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	address, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run(t.Context(), "amqp://guest:guest@"+address.String()+"/", &out); err != nil {
		t.Fatalf("%v, after\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "the RabbitMQ you named") {
		t.Errorf("it does not say where it runs:\n%s", &out)
	}
	for _, queue := range broker.Queues() {
		if strings.Contains(queue.Name, "quickstart") {
			t.Errorf("queue %s is left", queue.Name)
		}
	}
	if n := len(broker.Connections()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// TestAddressThatFails: with an address the quickstart uses that broker, or it
// fails.
func TestAddressThatFails(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	broker := brokertest.New()
	defer broker.Close()
	open, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{
		"nobody listens": "amqp://guest:guest@" + closed.Addr().String() + "/",
		"bad password":   "amqp://guest:secret-1@" + open.String() + "/",
		"no such vhost":  "amqp://guest:guest@" + open.String() + "/nowhere",
		"no address":     "http://guest:secret-1@" + open.String(),
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			var out strings.Builder
			err := run(ctx, url, &out)
			if err == nil {
				t.Fatalf("no error, but\n%s", &out)
			}
			if strings.Contains(err.Error()+out.String(), "secret-1") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}
