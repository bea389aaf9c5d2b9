package chromium_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/doctor"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/pulse"
)

// TestPage looks at the page in a browser.
func TestPage(t *testing.T) {
	ctx := newBrowser(t)
	t.Run("states", func(t *testing.T) { states(ctx, t) })
	t.Run("edit", func(t *testing.T) { edit(ctx, t) })
	t.Run("services", func(t *testing.T) { askServices(ctx, t) })
	t.Run("foreign", func(t *testing.T) { foreign(ctx, t) })
	t.Run("topology", func(t *testing.T) { fromFile(ctx, t) })
	t.Run("hostile", func(t *testing.T) { hostile(ctx, t) })
	t.Run("no-javascript", func(t *testing.T) { noJavaScript(ctx, t) })
	t.Run("keyboard", func(t *testing.T) { keyboard(ctx, t) })
	t.Run("other-site", func(t *testing.T) { otherSite(ctx, t) })
}

// states: axe finds nothing in any of them, none is wider than its window, and the browser has nothing to say.
func states(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, nil)
	x.judge("empty queue")
	x.park(34, "ChargeCard", "payments", "dial tcp 10.0.4.7:443: connect: connection refused", `{"ID":7}`)
	x.park(12, "PlaceOrder", "orders", `bad-payload: cannot unmarshal string into Go struct field PlaceOrder.ID of type int`, `{"ID":"7"}`)
	x.park(60, "RefundPayment", "orders", "panic: assignment to entry in nil map @ shop.(*Shop).place", `{"ID":7,"Amount":12.5}`)
	x.open("/errors")
	x.judge("groups")
	x.picture("page-groups", looks[0])
	x.open("/errors?type=Nothing")
	x.judge("no match")
	x.open("/errors?older=soon")
	x.judge("wrong search")
	x.open("/errors")
	x.click("60")
	x.judge("list")
	x.first()
	x.judge("message")
	x.picture("page-message", looks[1])
	x.click("Retry it")
	x.judge("confirm")
	x.fill("count", "2")
	x.click("Retry")
	x.await("Nothing was done")
	x.judge("wrong number")
	x.open("/errors")
	x.click("Redirect all")
	x.fill("to", "absent")
	x.fill("count", "106")
	x.fill("rate", "1000")
	x.click("Redirect")
	x.await("not everything was done")
	x.judge("left")
	x.open("/errors")
	x.click("Archive")
	x.judge("confirm archive")
	x.fill("count", "60")
	x.fill("rate", "1")
	x.click("Archive")
	x.judge("at work")
	x.picture("page-action", looks[0])
	x.changes() // by JavaScript
	x.click("Stop")
	x.await("It was stopped from this page")
	x.judge("stopped")
	x.open("/errors")
	x.click("Redirect all")
	x.fill("to", "orders")
	x.fill("count", fmt.Sprint(len(x.broker.Messages("error"))))
	x.fill("rate", "1000")
	x.click("Redirect")
	x.await("Redirect: done")
	x.judge("done")
	for _, path := range []string{"/actions", "/log", "/deferred", "/deferred/list", "/schedules", "/topology", "/doctor", "/nonsense"} {
		x.open(path)
		x.judge(path)
	}
	setup, err := harebus.New(harebus.Config{Dial: x.broker.Dial})
	x.try(err)
	x.try(setup.Bus().Defer(x.Context(), "orders", time.Hour, "later", harebus.WithType("Remind")))
	x.try(setup.Close())
	x.open("/deferred/list")
	x.judge("waiting")
	x.click("Cancel")
	x.judge("confirm cancel")
	x.fill("count", "1")
	x.click("Cancel the message")
	x.await("It is cancelled for certain")
	x.judge("cancelled")
	x.broker.Refuse(time.Hour)
	x.open("/login?token=x")
	x.judge("refused")
}

// edit is the form for a body: right, wrong, as base64, locked, and when the message has gone.
func edit(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, nil)
	x.park(1, "PlaceOrder", "orders", "bad-payload: cannot unmarshal string into Go struct field PlaceOrder.ID of type int", `{"ID":"7","Customer":"Ann","Lines":[{"Article":"A-14","Count":2}]}`)
	form := func(failure string) {
		x.open("/errors?error=" + url.QueryEscape(failure))
		x.click("List all")
		x.first()
		x.click("Edit it")
	}
	form("bad-payload")
	x.judge("edit")
	const mended = "{\n  \"ID\": 7,\n  \"Customer\": \"Ann\",\n  \"Lines\": []\n}"
	x.fill("body", strings.Replace(mended, "7,", "7,,", 1))
	x.click("Show")
	x.await("is not JSON")
	x.judge("edit that is wrong")
	x.picture("page-edit", look{"light", 1280, 760})
	x.fill("body", mended)
	x.fill("to", "absent")
	x.click("Show")
	x.await("What changes")
	x.judge("edit and what it changes")
	x.fill("count", "1")
	x.click("Send")
	x.await("not everything was done")
	x.click("Edit it again")
	if got := evaluate[string](x, `document.querySelector("textarea").value`); got != mended {
		x.Errorf("the field has %q", got)
	}
	evaluate[bool](x, `document.querySelector("[name=to]").value = "", true`)
	x.click("Show")
	x.fill("count", "1")
	x.picture("page-change", look{"light", 1280, 1080})
	x.click("Send")
	x.await("Edit: done")
	if m := x.broker.Messages("orders"); len(m) != 1 || string(m[0].Body) != `{"ID":7,"Customer":"Ann","Lines":[]}` {
		x.Errorf("sent is %+v", m)
	}
	x.park(1, "Scan", "orders", "cannot read the picture", "\x89PNG\r\n\x1a\n")
	form("picture")
	x.judge("edit of base64")
	_, err := x.ch.QueuePurge("error", false)
	x.try(err)
	x.click("Show")
	x.await("not in the error queue any more")
	x.judge("edit of what has gone")
	x.parkWith(amqp.Table{"PikaBus.ContentType": "application/vnd.harebus.sealed"}, 1, "Pay", "orders", "tampered", "\xc1hb\x01")
	form("tampered")
	x.judge("edit that is locked")
}

// askServices are services that answer, do not answer, are many, are paused and may not be asked.
func askServices(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, func(cfg *page.Config) { cfg.ServiceQueues = []string{"orders", "stock"} })
	x.open("/services")
	x.judge("no service")
	setup := x.serve(3, "shop", "1.8.2", "orders", true)
	x.serve(1, "payments", "2.0.1", "payments", false)
	x.serve(1, "payments", "2.0.0", "payments", false)
	for i := range 40 {
		x.try(setup.Bus().Send(x.Context(), "orders", "x", harebus.WithType([]string{"PlaceOrder", "CancelOrder"}[i%2])))
	}
	x.open("/services")
	x.await("5 instances answered")
	x.open("/services")
	x.judge("services")
	x.click("Pause")
	x.judge("confirm pause")
	x.fill("count", "1")
	x.click("Pause")
	x.await("Nothing was done")
	x.fill("count", "3")
	x.click("Pause")
	x.await("3 of 3 instances have done it")
	x.judge("paused")
	x.open("/services")
	x.picture("page-services", look{"light", 1280, 620})
	x.open("/services?queue=orders")
	x.judge("services at a queue")
	x.open("/services/order?do=rate&queue=orders")
	x.judge("confirm rate")
	x.fill("number", "many")
	x.fill("count", "3")
	x.click("Set rate")
	x.await("is not a number of messages a second")
	x.judge("wrong rate")
	x.fill("number", "40")
	x.fill("count", "3")
	x.click("Set rate")
	x.await("limit 10, 40/s")
	x.open("/services?queue=absent")
	x.await("there is no such queue")
	x.pretend(50, "stock")
	x.open("/services?queue=stock")
	x.await("50 instances answered")
	x.judge("fifty instances")
	x.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED - write to exchange 'harebus.pulse' refused for user 'orders'", Match: func(f brokertest.Frame) bool {
		return f.Exchange == pulse.Exchange
	}})
	x.open("/services")
	x.judge("services that may not be asked")
}

// foreign is the error queue of another bus.
func foreign(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, func(cfg *page.Config) {
		cfg.Peer = func(*errorqueue.Content) *page.Peer {
			return &page.Peer{Dialect: "masstransit", Payload: `{"orderId":7,"customer":"Ann"}`}
		}
	})
	for i := range 3 {
		x.try(x.ch.PublishWithContext(x.Context(), "", "error", false, false, amqp.Publishing{
			MessageId: harebus.NewMessageID(), ContentType: "application/vnd.masstransit+json", DeliveryMode: amqp.Persistent,
			Body: fmt.Appendf(nil, `{"messageId":"%s","messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"orderId":%d,"customer":"Ann"},"host":{"machineName":"web1"}}`, harebus.NewMessageID(), i),
			Headers: amqp.Table{
				"MT-Reason": "fault", "MT-Fault-ExceptionType": "System.InvalidOperationException", "MT-Fault-Message": "The order is not known", "MT-Fault-InputAddress": "rabbitmq://rabbit/orders",
				"MT-Fault-StackTrace": "   at Acme.Orders.PlaceOrderConsumer.Consume(ConsumeContext`1 context) in /src/PlaceOrderConsumer.cs:line 27", "MT-Fault-Timestamp": "2026-11-28T10:52:49Z", "MT-Host-MachineName": "web1",
			},
		}))
	}
	x.open("/errors")
	x.click("3")
	x.first()
	x.judge("message of another bus")
}

// fromFile is what needs a topology.
func fromFile(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, func(cfg *page.Config) {
		cfg.ReadOnly = true
		cfg.ScheduleQueues = []string{"shop.schedules", "stock.schedules"}
		cfg.Schedules = func(context.Context, string) (*scheduled.State, error) {
			next := time.Now().Add(-time.Hour)
			return &scheduled.State{Leader: "host-1", Tokens: []scheduled.Token{{Name: "nightly", Cron: "0 2 * * *", Zone: "Europe/Oslo", Last: next, Next: &next}}}, nil
		}
		cfg.Plan = func(context.Context) (*plan.Plan, error) {
			return &plan.Plan{Same: 7, Unseen: []string{"3 bindings (AMQP has no question for them)"}, Differences: []plan.Difference{
				{Object: `queue "orders"`, Text: "type classic → quorum, x-delivery-limit none → 20", Remedy: "migrate orders"},
				{Object: `exchange "PikaBusTopic"`, Text: "is missing", Remedy: "apply"},
			}}, nil
		}
		cfg.Doctor = func(context.Context) (*doctor.Report, error) {
			return &doctor.Report{Passed: 171, Unchecked: []string{"the consumer timeout, the largest message"}, Findings: []doctor.Finding{
				{Fault: true, What: `queue "error" is not as wanted: x-delivery-limit none → 1000000`, Why: "RabbitMQ 4 drops a message that was looked at 21 times", Fix: "harebus topology migrate orders.json error"},
				{What: "the clock of the broker is 4 s behind", Why: "deferred messages come late", Fix: "run an NTP client there"},
			}}, nil
		}
	})
	for _, path := range []string{"/topology", "/doctor", "/errors", "/schedules?queue=shop"} {
		x.open(path)
		x.judge("read-only " + path)
	}
}

// hostile: nothing in a message runs, and the page stays as it should be.
func hostile(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, nil)
	markup := `</pre></table><script>alert(1)</script><img src=x onerror=alert(2)><a href="javascript:alert(3)">x</a>"' onfocus=alert(4) autofocus` + "\u202e\x1b[2J"
	x.park(1, markup, strings.Repeat("w", 200), markup+strings.Repeat("x", 3000), markup)
	x.open("/errors")
	x.judge("hostile groups")
	x.click("List all")
	x.judge("hostile list")
	x.first()
	x.judge("hostile message")
	if !strings.Contains(x.text(), "<script>alert(1)</script>") {
		x.Error("the markup is not shown as text")
	}
}

// noJavaScript: messages are found, read, retried and edited without it.
func noJavaScript(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, nil)
	x.park(3, "Charge", "orders", "no money", `{"ID":7}`)
	call(x, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	x.open("/errors?type=Charge")
	x.click("List all")
	x.first()
	x.click("Retry it")
	x.fill("count", "1")
	x.click("Retry")
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(x.text(), "Retry: done") && time.Now().Before(deadline) {
		x.run(chromedp.Reload())
	}
	if n := len(x.broker.Messages("orders")); n != 1 || !strings.Contains(x.text(), "Done 1 of 1") {
		x.Errorf("%d messages were retried: %s", n, x.text())
	}
	x.open("/errors?type=Charge")
	x.click("List all")
	x.first()
	x.click("Edit it")
	x.fill("body", `{"ID":8}`)
	x.click("Show")
	x.fill("count", "1")
	x.click("Send")
	deadline = time.Now().Add(10 * time.Second)
	for !strings.Contains(x.text(), "Edit: done") && time.Now().Before(deadline) {
		x.run(chromedp.Reload())
	}
	if m := x.broker.Messages("orders"); len(m) != 2 || string(m[1].Body) != `{"ID":8}` {
		x.Errorf("edited is %+v: %s", m, x.text())
	}
	x.clean("without JavaScript")
}

// otherSite: a page on another port, and one with another name for this machine, can neither frame the page nor send its forms.
func otherSite(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, nil)
	x.park(1, "Charge", "orders", "no money", `{"ID":7}`)
	x.open("/errors")
	path := evaluate[string](x, `location.href`)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/frame" {
			fmt.Fprintf(w, `<iframe src="%s/errors"></iframe>`, x.origin)
			return
		}
		fmt.Fprintf(w, `<form method=post action="%s/act"><input name=do value=retry><input name=count value=1><input name=rate value=1><button>Win</button></form>`, path)
	}))
	t.Cleanup(evil.Close)
	for _, site := range []string{evil.URL, strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)} {
		x.run(chromedp.Navigate(site))
		x.run(chromedp.Click(chromedp.CSS(`button`)))
		x.await("You cannot see this page")
	}
	x.clean("forms of others")
	x.run(chromedp.Navigate(evil.URL+"/frame"), chromedp.WaitReady(chromedp.CSS("iframe")))
	x.mu.Lock()
	if len(x.faults) == 0 || !strings.Contains(x.faults[0], "frame") {
		x.Errorf("the page can be framed: %q", x.faults)
	}
	x.faults = nil
	x.mu.Unlock()
	if n := len(x.broker.Messages("orders")); n != 0 {
		x.Errorf("%d messages were moved", n)
	}
}
