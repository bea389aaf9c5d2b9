package page_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/pulse"
	"github.com/harebus/harebus/topology"
)

type placeOrder struct{ ID int }

func (placeOrder) MessageType() string { return "PlaceOrder" }

// serve starts an instance of a service, until the test or end ends it.
func (x *bench) serve(queue string, c pulse.Config, handle func(placeOrder) error) (setup *harebus.Setup, instance string, end func()) {
	x.Helper()
	p, err := pulse.New(c)
	x.try(err)
	cfg := harebus.Config{URL: x.broker.URL(), Dial: x.broker.Dial, Queue: queue, QueueOptions: harebus.QueueOptions{Type: topology.Classic}, ErrorQueue: harebus.ErrorQueueConfig{Type: topology.Classic}}
	p.Use(&cfg)
	setup, err = harebus.New(cfg)
	x.try(err)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, m placeOrder) error { return handle(m) })
	x.try(setup.Start(x.Context()))
	ctx, cancel := context.WithCancel(x.Context())
	served := make(chan error)
	go func() { served <- p.Serve(ctx, setup) }()
	ended := false
	end = func() {
		if !ended {
			ended = true
			cancel()
			x.try(<-served)
			x.try(setup.Close())
		}
	}
	x.Cleanup(end)
	synctest.Wait()
	return setup, p.Instance(), end
}

// done handles a message.
func (placeOrder) done(placeOrder) error { return nil }

// TestServices: services are shown by queue, one queue by instance and type; who has not answered is named.
func TestServices(t *testing.T) {
	bubble(t, func(c *page.Config) { c.ServiceQueues = []string{"orders", "stock"} }, func(x *bench) {
		x.expect(x.get("/services"), http.StatusOK, "No instance has answered", "Services answer if they use package pulse", "? orders: no answer; 0 messages are ready, and it has 0 consumers", "? stock: no answer; there is no such queue", "0 failed messages")
		setup, one, _ := x.serve("orders", pulse.Config{Service: "shop", Version: "1.8.2", Control: true}, func(m placeOrder) error {
			if m.ID == 0 {
				return harebus.NoRetry(fmt.Errorf("no stock"))
			}
			return nil
		})
		_, two, end := x.serve("orders", pulse.Config{Service: "shop", Version: "1.8.1"}, placeOrder{}.done)
		x.get("/services")
		for i := range 3 {
			x.try(setup.Bus().Send(x.Context(), "orders", placeOrder{i}))
		}
		time.Sleep(10 * time.Second) // virtual
		all := x.get("/services")
		x.expect(all, http.StatusOK, "2 instances answered", "shop orders 2 0 0", "1.8.2", "1.8.1", "0.2/s", "Pause…", "1 failed message")
		if strings.Contains(all.text(), "Resume…") || strings.Contains(all.text(), "? orders") {
			t.Error(all.text())
		}
		queue := x.get(x.link(all, "<bdi>orders"))
		x.expect(queue, http.StatusOK, "Services at queue orders", "Back to all services", one+" 1.8.2", two+" 1.8.1", "consumes 10 0 -", "takes no orders", "PlaceOrder", "0 messages ready, 0 in hand")
		x.expect(x.get("/services?queue=absent"), http.StatusOK, "? absent: no answer; there is no such queue")
		x.expect(x.get("/services?queue=amq.x"), http.StatusBadRequest, "amq.")
		_, err := x.ch.Consume("orders", "stranger", false, false, false, false, nil)
		x.try(err)
		end()
		x.expect(x.get("/services"), http.StatusOK, "1 instance answered", "? orders has 1 consumers more than the instances that have answered", "? "+two+" has not answered since", "? stock: no answer")
		x.broker.Refuse(time.Hour)
		x.expect(x.get("/services"), http.StatusBadGateway, "gave up after")
	})
}

// TestServicesShareAQueue: what instances of two services have in hand is counted together.
func TestServicesShareAQueue(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		release := make(chan struct{})
		busy := func(placeOrder) error { <-release; return nil }
		setup, _, _ := x.serve("orders", pulse.Config{Service: "shop"}, busy)
		x.serve("orders", pulse.Config{Service: "stock"}, busy)
		for i := range 8 {
			x.try(setup.Bus().Send(x.Context(), "orders", placeOrder{i}))
		}
		time.Sleep(10 * time.Second) // virtual
		x.expect(x.get("/services?queue=orders"), http.StatusOK, "0 messages ready, 8 in hand")
		close(release)
	})
}

// TestServicesPause: an order is for the number of instances that was typed, as harebus control gives it; then it is among the actions.
func TestServicesPause(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		one, name, _ := x.serve("orders", pulse.Config{Control: true}, placeOrder{}.done)
		two, _, _ := x.serve("orders", pulse.Config{Control: true}, placeOrder{}.done)
		plain, plainName, _ := x.serve("orders", pulse.Config{}, placeOrder{}.done)
		path := x.link(x.get("/services"), "Pause")
		x.expect(x.get(path), http.StatusOK, "Pause queue orders", "Type 2 to confirm", name, "yes", plainName, "no: it takes no orders")
		order := func(do, count string, more url.Values) *answer {
			form := url.Values{"do": {do}, "queue": {"orders"}, "count": {count}}
			for name := range more {
				form[name] = more[name]
			}
			return x.post("/services/order", form)
		}
		for _, count := range []string{"", "1", "3", "two"} {
			x.expect(order("pause", count, nil), http.StatusUnprocessableEntity, "The number of instances is not 2. Nothing was done.")
		}
		paused := func() string {
			return fmt.Sprint(one.Endpoints()[0].Stats().Paused, two.Endpoints()[0].Stats().Paused, plain.Endpoints()[0].Stats().Paused)
		}
		if got := paused(); got != "false false false" {
			t.Fatal(got)
		}
		sent := order("pause", "2", nil)
		x.expect(sent, http.StatusSeeOther)
		done := x.get(sent.Header.Get("Location"))
		x.expect(done, http.StatusOK, "Pause queue orders: done", "2 of 2 instances have done it", name+" paused, limit 10, 0 in hand", plainName+" takes no orders")
		if got := paused(); got != "true true false" {
			t.Error(got)
		}
		all := x.get("/services")
		x.expect(all, http.StatusOK, "3 2 paused", "Resume…")
		if strings.Contains(all.text(), "consumers more") {
			t.Error(all.text())
		}
		x.expect(x.get("/actions"), http.StatusOK, "Pause queue orders 2 2 done")
		x.expect(order("resume", "1", url.Values{"instance": {name}}), http.StatusSeeOther)
		if got := paused(); got != "false true false" {
			t.Error(got)
		}
		for _, form := range []url.Values{{"do": {"stop"}}, {"queue": {"amq.x"}}, {"queue": {""}}} {
			x.expect(order("pause", "2", form), http.StatusBadRequest, "There is no such order")
		}
		x.expect(order("pause", "2", url.Values{"queue": {"absent"}}), http.StatusConflict, `no instance answers for the queue "absent". Nothing was done.`)
		x.expect(order("pause", "1", url.Values{"instance": {plainName}}), http.StatusConflict, "none of 1 instances takes orders")
		x.form = "wrong"
		x.expect(order("resume", "2", nil), http.StatusForbidden)
		if got := paused(); got != "false true false" {
			t.Error(got)
		}
	})
}

// TestServicesLimits: the concurrency and the rate are changed as by harebus control, for the number of instances that was typed.
func TestServicesLimits(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		one, name, _ := x.serve("orders", pulse.Config{Control: true}, placeOrder{}.done)
		two, other, _ := x.serve("orders", pulse.Config{Control: true}, placeOrder{}.done)
		queue := x.get("/services?queue=orders")
		x.expect(x.get(x.link(queue, "Concurrency")), http.StatusOK, "Set concurrency of queue orders", "Limit now", "10 yes", "Type 2 to confirm")
		x.expect(x.get(x.link(queue, "Rate")), http.StatusOK, "Set rate of queue orders", "Messages a second", "Type 2 to confirm")
		order := func(do, number, count, instance string) *answer {
			return x.post("/services/order", url.Values{"do": {do}, "queue": {"orders"}, "instance": {instance}, "number": {number}, "count": {count}})
		}
		for _, number := range []string{"", "0", "-1", "1.5", "many", "99999999999999999999"} {
			x.expect(order("concurrency", number, "2", ""), http.StatusUnprocessableEntity, "is not a number of messages from 1. Nothing was done.")
		}
		for _, number := range []string{"", "-1", "NaN", "Inf", "-Inf", "1e999", "5/s"} {
			x.expect(order("rate", number, "2", ""), http.StatusUnprocessableEntity, "is not a number of messages a second; 0 ends the limit. Nothing was done.")
		}
		x.expect(order("concurrency", "3", "1", ""), http.StatusUnprocessableEntity, "The number of instances is not 2. Nothing was done.")
		limits := func() string {
			return fmt.Sprint(one.Endpoints()[0].Stats().Consume.Concurrency, two.Endpoints()[0].Stats().Consume.Concurrency)
		}
		if got := limits(); got != "10 10" {
			t.Fatal(got)
		}
		done := func(a *answer, words ...string) {
			x.Helper()
			x.expect(a, http.StatusSeeOther)
			x.expect(x.get(a.Header.Get("Location")), http.StatusOK, words...)
		}
		done(order("concurrency", " 3 ", "2", ""), "Set concurrency of queue orders to 3: done", "2 of 2 instances have done it", name+" consumes, limit 3, 0 in hand")
		done(order("rate", "5", "2", ""), "Set rate of queue orders to 5: done", name+" consumes, limit 3, 5/s, 0 in hand", other+" consumes, limit 3, 5/s")
		done(order("concurrency", "4", "1", name), "1 of 1 instance", name+" consumes, limit 4, 5/s")
		done(order("rate", "0", "1", name), name+" consumes, limit 4, 0 in hand")
		done(order("rate", "0.01", "2", ""), "not everything was done", "0 of 2 instances have done it", name+" refused: 4 messages at once and 0.01 a second", other+" refused: 3 messages at once")
		if got := limits(); got != "4 3" {
			t.Error(got)
		}
		x.expect(x.get("/services?queue=orders"), http.StatusOK, name, "3, 5/s")
		x.expect(x.get("/actions"), http.StatusOK, "Set concurrency of queue orders to 3 2 2 done")
	})
}

// TestServicesRefused: without a permission, or in an alarm, the page says so and shows what the broker tells.
func TestServicesRefused(t *testing.T) {
	bubble(t, func(c *page.Config) { c.ServiceQueues = []string{"orders"} }, func(x *bench) {
		x.serve("orders", pulse.Config{Control: true}, placeOrder{}.done)
		path := x.link(x.get("/services"), "Pause")
		x.get(path)
		deny := func(exchange string) {
			x.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED - write access refused", Match: func(f brokertest.Frame) bool { return f.Exchange == exchange }})
		}
		deny(pulse.ControlExchange)
		a := x.post("/services/order", url.Values{"do": {"pause"}, "queue": {"orders"}, "count": {"1"}})
		x.expect(a, http.StatusBadGateway, `may not write to the exchange "harebus.control"`)
		deny(pulse.Exchange)
		x.expect(x.get("/services"), http.StatusOK, "No instance could be asked", `may not write to the exchange "harebus.pulse"`, "needs the permission to write", "? orders: no answer; 0 messages are ready, and it has 1 consumers")
		deny(pulse.Exchange)
		x.expect(x.get(path), http.StatusConflict, "No order can be given", "Nothing was done")
	})
}

// TestServicesReadOnly: services are shown, and there are no orders.
func TestServicesReadOnly(t *testing.T) {
	bubble(t, func(c *page.Config) { c.ReadOnly = true }, func(x *bench) {
		x.serve("orders", pulse.Config{Control: true}, placeOrder{}.done)
		for _, path := range []string{"/services", "/services?queue=orders"} {
			a := x.get(path)
			x.expect(a, http.StatusOK, "1 instance answered")
			if strings.Contains(a.text(), "Pause") || strings.Contains(a.html, "/order?") {
				t.Error(a.html)
			}
		}
		x.expect(x.get("/services/order?do=pause&queue=orders"), http.StatusNotFound)
		x.expect(x.get("/services/order?do=rate&queue=orders"), http.StatusNotFound)
	})
}

// TestServicesHostile: nothing that an instance says becomes markup, an address or invisible.
func TestServicesHostile(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		_, err := x.ch.QueueDeclare("evil", false, false, true, false, nil)
		x.try(err)
		x.try(x.ch.ExchangeDeclare(pulse.Exchange, "direct", true, false, false, false, nil))
		for _, key := range []string{"all", "queue.orders"} {
			x.try(x.ch.QueueBind("evil", key, pulse.Exchange, false, nil))
		}
		questions, err := x.ch.Consume("evil", "", true, false, false, false, nil)
		x.try(err)
		evil := strings.NewReplacer(`"`, `\"`, "\x1b", `\u001b`, "\u202e", `\u202e`).Replace(hostile)
		go func() {
			for q := range questions {
				_ = x.ch.PublishWithContext(context.Background(), "", q.ReplyTo, false, false, amqp.Publishing{CorrelationId: q.CorrelationId, Body: []byte(`{"instance":"` + evil + `","service":"` + evil +
					`","version":"` + evil + `","not_ready":"` + evil + `","clock":"2001-01-01T00:00:00Z","control":true,"queues":[{"name":"` + evil + `","in_hand":-9,"concurrency":-1,"rate":1e308,"types":{"` + evil +
					`":{}}},{"name":"orders","oldest":-5,"types":{"` + evil + `":{}}}]}`)})
			}
		}()
		for _, path := range []string{"/services", "/services?queue=orders", "/services/order?do=pause&queue=orders", "/services/order?do=rate&queue=orders"} {
			a := x.get(path)
			x.expect(a, http.StatusOK, "<script>alert(1)</script>")
			if strings.Contains(a.html, "<script>a") || strings.Contains(a.html, "<img") || strings.ContainsAny(a.html, "\x1b\u202e") || regexp.MustCompile(`<[^>]*\son\w+=`).MatchString(regexp.MustCompile(`="[^"]*"`).ReplaceAllString(a.html, "")) {
				t.Errorf("%s: as it came: %s", path, a.html)
			}
		}
	})
}

// TestServicesMany: fifty instances are one line of a service, and fifty of its queue.
func TestServicesMany(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		for range 50 {
			x.serve("orders", pulse.Config{Service: "shop", Control: true}, placeOrder{}.done)
		}
		x.expect(x.get("/services"), http.StatusOK, "50 instances answered", "shop orders 50 ")
		queue := x.get("/services?queue=orders")
		if n := strings.Count(queue.html, "Pause instance"); n != 50 {
			t.Errorf("%d instances", n)
		}
		x.expect(x.get("/services/order?do=pause&queue=orders"), http.StatusOK, "Type 50 to confirm")
	})
}
