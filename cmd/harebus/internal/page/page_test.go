package page_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/doctor"
	"github.com/harebus/harebus/internal/plan"
	"github.com/harebus/harebus/internal/scheduled"
)

// look is the id of the look that a page is about.
func look(a *answer) string { return regexp.MustCompile(`/looks/(\w+)`).FindStringSubmatch(a.html)[1] }

// ids are the ids of the messages that a page lists.
func ids(a *answer) (all []string) {
	for _, m := range regexp.MustCompile(`/messages/([\w-]+)"`).FindAllStringSubmatch(a.html, -1) {
		all = append(all, m[1])
	}
	return all
}

// TestGroups: what failed is shown in groups, searched, listed and shown.
func TestGroups(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.expect(x.get("/errors"), http.StatusOK, "0 messages of 0", "The queue is empty")
		x.parkMany(60)
		x.park("x", "Charge", "no money", amqp.Table{"tenant": "south", "PikaBus.ErrorKind": "panic"})
		groups := x.get("/")
		x.expect(groups, http.StatusOK, "61 messages of 61", "out of stock", "no money", "panic")
		list := x.get(x.link(groups, "60"))
		x.expect(list, http.StatusOK, "Messages 1 to 50 of 60")
		x.expect(x.get(x.link(list, "Later")), http.StatusOK, "Messages 51 to 60 of 60")
		x.expect(x.get(x.link(groups, "List all")), http.StatusOK, "of 61")
		for query, want := range map[string]string{
			"type=Charge": "1 message of 61", "kind=panic": "1 message of 61", "header=tenant%3Dsouth": "1 message of 61", "body=%22x%22": "1 message of 61",
			"error=stock": "60 messages of 61", "source=orders": "61 messages of 61", "newer=1h": "61 messages of 61", "older=1h": "No message matches",
		} {
			x.expect(x.get("/errors?"+query), http.StatusOK, want)
		}
		for _, query := range []string{"older=soon", "newer=-1h", "header=x"} {
			x.expect(x.get("/errors?"+query), http.StatusBadRequest, "is not")
		}
		x.expect(x.get("/errors?older=1h&newer=2h"), http.StatusOK)
		x.expect(x.get("/errors?older=2h&newer=1h"), http.StatusBadGateway, "no time is after")
		message := x.get("/looks/" + look(x.get("/errors?type=Charge")) + "/messages/" + ids(x.get("/looks/" + look(x.get("/errors?type=Charge")) + "/messages"))[0])
		x.expect(message, http.StatusOK, "no money", `{ "ID": "x" }`, "tenant", "south", "Attempts 6")
		x.expect(x.get(strings.Replace(x.link(list, ids(list)[0]), ids(list)[0], "none", 1)), http.StatusGone)
	})
}

// TestLooksAreKept: four are; what is about an earlier one does nothing.
func TestLooksAreKept(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		first := x.get("/errors")
		path := x.link(first, "Retry")
		x.get(path)
		for range 3 {
			x.get("/errors")
		}
		x.expect(x.get(path), http.StatusOK)
		x.get("/errors")
		x.expect(x.get(path), http.StatusGone, "no longer kept")
		x.expect(x.post(path, url.Values{"count": {"1"}, "rate": {"1"}}), http.StatusGone)
		x.expect(x.get("/looks/"+look(x.get("/errors"))+"/messages/none"), http.StatusNotFound, "not in the error queue any more")
		x.expect(x.get("/looks/"+look(x.get("/errors"))+"/messages?group=none"), http.StatusNotFound, "no such messages")
		x.has("error", "a")
	})
}

// TestRetry: an action moves the messages of the look, not those that came later, and only for the right number.
func TestRetry(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		x.park("b", "Place", "boom", nil)
		x.park("c", "Charge", "other", nil)
		groups := x.get("/errors")
		x.park("d", "Place", "boom", nil) // alike, but later
		path := x.link(groups, "Retry")
		x.expect(x.get(path), http.StatusOK, "Retry 2 messages", "cannot be undone")
		for _, number := range []string{"", "1", "3", "two", "2.0"} {
			x.expect(x.post(path, url.Values{"count": {number}, "rate": {"100"}}), http.StatusUnprocessableEntity, "The number is not 2. Nothing was done.")
		}
		for _, rate := range []string{"", "0", "-1", "fast"} {
			x.expect(x.post(path, url.Values{"count": {"2"}, "rate": {rate}}), http.StatusUnprocessableEntity, "The rate is not a number")
		}
		x.has("error", "a b c d")
		done := x.end(x.begin(groups, "Retry", "2", nil))
		x.expect(done, http.StatusOK, "Retry: done", "Done 2 of 2, left 0")
		x.has("error", "c d")
		x.has("orders", "a b")
		x.expect(x.get("/actions"), http.StatusOK, "Retry", "done")
		x.expect(x.get("/log"), http.StatusOK, "ann@ops1", "retry, begin", "retry, end", "guest")
		again := x.end(x.begin(groups, "Retry", "2", nil)) // a second tab
		x.expect(again, http.StatusOK, "not everything was done", "not there any more 2")
		x.has("orders", "a b")
	})
}

// TestRedirect moves one message to another queue, and refuses what is no queue.
func TestRedirect(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.declare("other")
		x.park("a", "Place", "boom", nil)
		x.park("b", "Place", "boom", nil)
		groups := x.get("/errors")
		list := x.get(x.link(groups, "2"))
		message := x.get("/looks/" + look(groups) + "/messages/" + ids(list)[1])
		path := x.link(message, "Redirect it")
		x.get(path)
		for _, to := range []string{"", "amq.x"} {
			x.expect(x.post(path, url.Values{"count": {"1"}, "rate": {"1"}, "to": {to}}), http.StatusUnprocessableEntity, "Nothing was done")
		}
		x.expect(x.end(x.begin(message, "Redirect it", "1", url.Values{"to": {"error"}})), http.StatusOK, "not everything was done", "is the error queue itself")
		x.expect(x.end(x.begin(message, "Redirect it", "1", url.Values{"to": {"absent"}})), http.StatusOK, "not everything was done", `no queue "absent"`, "The journal says what has become")
		x.has("error", "a b")
		x.expect(x.end(x.begin(message, "Redirect it", "1", url.Values{"to": {"other"}})), http.StatusOK, "Done 1 of 1")
		x.has("error", "a")
		x.has("other", "b")
	})
}

// TestDiscard: messages go into a file, from which they can be restored.
func TestDiscard(t *testing.T) {
	var folder string
	bubble(t, func(cfg *page.Config) { folder = cfg.Archive }, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		x.park("b", "Place", "boom", nil)
		x.expect(x.end(x.begin(x.get("/errors"), "Archive all", "2", nil)), http.StatusOK, "Archive and remove: done", "harebus errors restore")
		x.has("error", "")
		files, err := filepath.Glob(filepath.Join(folder, "harebus-*.ndjson"))
		if err != nil || len(files) != 1 {
			x.Fatalf("%v, %v", files, err)
		}
		file, err := os.Open(files[0])
		x.try(err)
		defer file.Close()
		q, err := errorqueue.Open(x.Context(), errorqueue.Config{Connect: harebus.ConnectConfig{URLs: []string{x.broker.URL()}}, Dial: x.broker.Dial})
		x.try(err)
		if n, _, err := q.Import(x.Context(), file, errorqueue.Options{}); n != 2 || err != nil {
			x.Errorf("restored %d, %v", n, err)
		}
		x.try(q.Close())
		x.has("error", "a b")
	})
}

// TestNoArchive: without a folder nothing can be discarded.
func TestNoArchive(t *testing.T) {
	bubble(t, func(cfg *page.Config) { cfg.Archive = "" }, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		groups := x.get("/errors")
		if strings.Contains(groups.html, "Archive") {
			x.Error(groups.html)
		}
		x.expect(x.get("/looks/"+look(groups)+"/act?do=discard"), http.StatusConflict, "Start harebus ui with -archive")
		x.expect(x.get("/looks/"+look(groups)+"/act?do=purge"), http.StatusBadRequest, "no such action")
		x.has("error", "a")
	})
}

// TestStop: an action shows how far it is, holds the queue, and stops after the messages in hand.
func TestStop(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.parkMany(50)
		groups := x.get("/errors")
		path := x.begin(groups, "Retry", "50", url.Values{"rate": {"10"}})
		time.Sleep(2050 * time.Millisecond)
		working := x.get(path)
		x.expect(working, http.StatusOK, "Retry: at work", "of 50 moved", "Stop")
		x.expect(x.get("/errors"), http.StatusConflict, "An action is at work")
		x.expect(x.get("/looks/"+look(groups)), http.StatusOK, "An action is at work")
		x.expect(x.post(x.link(groups, "Redirect"), url.Values{"count": {"50"}, "rate": {"1"}, "to": {"orders"}}), http.StatusConflict, "An action is at work")
		x.get(path)
		x.expect(x.post(path+"/stop", url.Values{}), http.StatusSeeOther)
		done := x.end(path)
		x.expect(done, http.StatusOK, "not everything was done", "It was stopped from this page")
		moved, err := strconv.Atoi(regexp.MustCompile(`Done (\d+) of 50`).FindStringSubmatch(done.text())[1])
		x.try(err)
		if in := len(x.broker.Messages("orders")); in != moved || moved < 10 || moved > 40 || len(x.broker.Messages("error")) != 50-moved {
			x.Errorf("%d moved, %d in the queue", moved, in)
		}
		x.expect(x.post("/actions/none/stop", url.Values{}), http.StatusNotFound)
		x.expect(x.get("/actions/none"), http.StatusNotFound)
	})
}

// TestEndStopsActions: who ends harebus ui ends its action in order.
func TestEndStopsActions(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.parkMany(50)
		path := x.begin(x.get("/errors"), "Retry", "50", url.Values{"rate": {"10"}})
		time.Sleep(2 * time.Second)
		x.site.Close()
		x.expect(x.get(path), http.StatusOK, "not everything was done")
		if all := len(x.broker.Messages("orders")) + len(x.broker.Messages("error")); all != 50 {
			x.Errorf("%d messages", all)
		}
	})
}

// TestOperators: another operator is not disturbed, and is named; afterwards the page works again.
func TestOperators(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		groups := x.get("/errors")
		other, err := errorqueue.Open(x.Context(), errorqueue.Config{Connect: harebus.ConnectConfig{URLs: []string{x.broker.URL()}}, Dial: x.broker.Dial})
		x.try(err)
		x.expect(x.get("/errors"), http.StatusConflict, "Another operator works with the error queue")
		x.expect(x.end(x.begin(groups, "Retry", "1", nil)), http.StatusOK, "not everything was done", "another operator")
		x.try(other.Close())
		x.has("error", "a")
		x.expect(x.end(x.begin(groups, "Retry", "1", nil)), http.StatusOK, "Retry: done")
		x.has("orders", "a")
	})
}

// TestLooksAtOnce: two tabs may look at once.
func TestLooksAtOnce(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.parkMany(10)
		status := make(chan int, 2)
		for range 2 {
			go func() { status <- x.do(x.request(http.MethodGet, "/errors", nil)).StatusCode }()
		}
		if a, b := <-status, <-status; a != http.StatusSeeOther || b != http.StatusSeeOther {
			x.Errorf("status %d and %d", a, b)
		}
	})
}

// TestFaults: each says what is wrong, and shows no password.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*page.Config)
		rig    func(*bench)
		status int
		text   string
	}{
		{"queue", func(c *page.Config) { c.Errors.Name = "absent" }, nil, http.StatusNotFound, "The broker does not have it"},
		{"most", func(c *page.Config) { c.Errors.Most = 1 }, func(x *bench) { x.parkMany(2) }, http.StatusBadGateway, "more than the 1"},
		{"consumer", nil, func(x *bench) {
			_, err := x.ch.Consume("error", "", false, false, false, false, nil)
			x.try(err)
		}, http.StatusBadGateway, "consumers"},
		{"password", func(c *page.Config) { c.Errors.Connect.Username, c.Errors.Connect.Password = "ann", "secret" }, nil, http.StatusBadGateway, "403"},
		{"broker", nil, func(x *bench) { x.broker.Refuse(time.Hour) }, http.StatusBadGateway, "That did not work"},
		{"audit", nil, func(x *bench) {
			x.park("a", "Place", "boom", nil)
			x.broker.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Match: func(f brokertest.Frame) bool {
				return f.Queue == errorqueue.AuditQueue
			}})
		}, http.StatusOK, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, test.change, func(x *bench) {
				if test.rig != nil {
					test.rig(x)
				}
				a := x.get("/errors")
				x.expect(a, test.status, test.text)
				if strings.Contains(a.html, "secret") {
					x.Error(a.html)
				}
				if test.name == "audit" {
					x.expect(x.end(x.begin(a, "Retry", "1", nil)), http.StatusOK, "not everything was done", "write the audit trail")
					x.has("error", "a")
				}
			})
		})
	}
}

// hostile are texts that want to be more than text.
const hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{.Form}} javascript:alert(3)\x1b[2J\u202egnp.exe"

// TestHostileMessages: nothing in a message becomes markup, an address, or invisible.
func TestHostileMessages(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park(hostile, hostile, hostile, amqp.Table{hostile[:60]: hostile, "PikaBus.ErrorKind": hostile, "PikaBus.Host": hostile, "PikaBus.SourceQueue": hostile})
		x.put("error", amqp.Publishing{MessageId: "raw", Body: []byte("\xff\x00" + hostile), Headers: amqp.Table{"wide": make([]any, 8193)}})
		x.put("error", amqp.Publishing{MessageId: "long", Body: []byte(strings.Repeat("ä", 64<<10)), Headers: amqp.Table{"nested": amqp.Table{"a": []any{int8(1)}}}})
		groups := x.get("/errors")
		list := x.get(x.link(groups, "List all"))
		pages := []*answer{groups, list, x.get(x.link(groups, "Redirect")), x.get("/errors?type=" + url.QueryEscape(hostile[:28]))}
		for _, id := range ids(list) {
			pages = append(pages, x.get("/looks/"+look(groups)+"/messages/"+id))
		}
		for _, a := range pages {
			x.expect(a, http.StatusOK)
			if strings.Contains(a.html, "<script>") || strings.Contains(a.html, "<img") || strings.ContainsAny(a.html, "\x1b\u202e\x00") || regexp.MustCompile(`<[^>]*\son\w+=`).MatchString(a.html) {
				x.Errorf("as it came: %s", a.html)
			}
			if regexp.MustCompile(`(href|action|src)="(javascript|data|//)`).MatchString(a.html) {
				x.Errorf("an address out of a message: %s", a.html)
			}
		}
		x.expect(pages[4], http.StatusOK, "<script>alert(1)</script>", `\x1b[2J\u202egnp.exe`)
		x.expect(pages[5], http.StatusOK, "headers that the AMQP client cannot read")
		x.expect(pages[6], http.StatusOK, "This is the beginning", `{"a":[1]}`)
	})
}

// TestNoBodies: they are shown nowhere.
func TestNoBodies(t *testing.T) {
	bubble(t, func(cfg *page.Config) { cfg.NoBodies = true }, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		groups := x.get("/errors")
		a := x.get("/looks/" + look(groups) + "/messages/" + ids(x.get(x.link(groups, "List all")))[0])
		x.expect(a, http.StatusOK, "Bodies are not shown here")
		if strings.Contains(a.text(), `{"ID"`) {
			x.Error(a.text())
		}
	})
}

// TestDeferred: what waits is counted and listed.
func TestDeferred(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.expect(x.get("/deferred"), http.StatusOK, "0 messages wait")
		x.expect(x.get("/deferred/list"), http.StatusOK, "No message matches")
		setup, err := harebus.New(harebus.Config{Dial: x.broker.Dial})
		x.try(err)
		x.try(setup.Bus().Defer(x.Context(), "orders", 30*time.Minute, "later", harebus.WithType("Remind")))
		x.expect(x.get("/deferred"), http.StatusOK, "1 message wait", "1 h 1")
		x.expect(x.get("/deferred/list?to=orders&type=Remind"), http.StatusOK, "Remind", "orders", "deferred")
		x.expect(x.get("/deferred/list?to=others"), http.StatusOK, "No message matches")
		x.try(setup.Close())
		x.broker.Refuse(time.Hour)
		x.expect(x.get("/deferred"), http.StatusBadGateway)
		x.expect(x.get("/deferred/list"), http.StatusBadGateway)
	})
}

// TestTopologyAndDoctor: without a file, in order, with differences, and with an error.
func TestTopologyAndDoctor(t *testing.T) {
	var p *plan.Plan
	var d *doctor.Report
	var fault error
	bubble(t, nil, func(x *bench) {
		x.expect(x.get("/topology"), http.StatusOK, "Start harebus ui with -topology")
		x.expect(x.get("/doctor"), http.StatusOK, "Start harebus ui with -topology")
	})
	t.Run("file", func(t *testing.T) {
		bubble(t, func(cfg *page.Config) {
			cfg.Plan = func(context.Context) (*plan.Plan, error) { return p, fault }
			cfg.Doctor = func(context.Context) (*doctor.Report, error) { return d, fault }
		}, func(x *bench) {
			p, d = &plan.Plan{Same: 7}, &doctor.Report{Passed: 12}
			x.expect(x.get("/topology"), http.StatusOK, "7 objects as wanted, 0 differences")
			x.expect(x.get("/doctor"), http.StatusOK, "12 checks passed, 0 findings")
			p.Differences = []plan.Difference{{Object: `queue "orders"`, Text: "type classic → quorum", Remedy: "migrate orders"}}
			p.Unseen = []string{"3 bindings"}
			d.Findings = []doctor.Finding{{Fault: true, What: "a queue is missing", Why: "messages are lost", Fix: "topology apply"}, {What: "the clock is behind"}}
			d.Unchecked = []string{"policies"}
			x.expect(x.get("/topology"), http.StatusOK, `queue "orders"`, "classic → quorum", "migrate orders", "3 bindings")
			x.expect(x.get("/doctor"), http.StatusOK, "Fault: a queue is missing", "messages are lost", "topology apply", "Danger: the clock is behind", "policies")
			fault = errors.New("no answer")
			x.expect(x.get("/topology"), http.StatusBadGateway, "no answer")
			x.expect(x.get("/doctor"), http.StatusBadGateway, "no answer")
		})
	})
}

// TestSchedules: those of a queue of tokens, and of no other queue.
func TestSchedules(t *testing.T) {
	var asked string
	var state *scheduled.State
	var fault error
	change := func(cfg *page.Config) {
		cfg.Schedules = func(_ context.Context, queue string) (*scheduled.State, error) { asked = queue; return state, fault }
		cfg.ScheduleQueues = []string{"shop.schedules", "stock.schedules"}
	}
	bubble(t, change, func(x *bench) {
		x.expect(x.get("/schedules"), http.StatusOK, "Of the topology: shop.schedules , stock.schedules")
		if asked != "" {
			t.Errorf("%q was asked without a name", asked)
		}
		next := time.Now().Add(-time.Hour)
		state = &scheduled.State{Leader: "host-1", Defined: map[string]bool{"nightly": true}, Tokens: []scheduled.Token{
			{Name: "nightly", Cron: "0 2 * * *", Zone: "Europe/Oslo", Last: next, Next: &next}, {Name: "<b>old</b>", Fresh: true, Paused: true},
		}}
		a := x.get("/schedules?queue=shop")
		x.expect(a, http.StatusOK, "Schedules of queue shop.schedules", "Led by host-1", "nightly 0 2 * * * Europe/Oslo", "overdue", "never – paused, not defined by the leader")
		if asked != "shop.schedules" || strings.Contains(a.html, "<b>old") {
			t.Errorf("queue %q was asked: %s", asked, a.html)
		}
		state.Leader = ""
		x.expect(x.get("/schedules?queue=shop.schedules"), http.StatusOK, "No instance runs, so nothing is fired")
		x.expect(x.get("/schedules?queue="+strings.Repeat("x", 300)), http.StatusBadRequest, "queue")
		fault = errors.New("no answer")
		x.expect(x.get("/schedules?queue=shop"), http.StatusBadGateway, "no answer")
	})
}

// TestLog: before the first action, and with what is no entry.
func TestLog(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.expect(x.get("/log"), http.StatusOK, "No action is in the audit trail")
		x.declare(errorqueue.AuditQueue)
		x.put(errorqueue.AuditQueue, amqp.Publishing{Body: []byte("no JSON")})
		x.put(errorqueue.AuditQueue, amqp.Publishing{Body: []byte(`{"operator":"bob@ops2","action":"discard","phase":"end","selected":3,"done":3}`)})
		x.expect(x.get("/log"), http.StatusOK, "bob@ops2", "discard, end")
		x.broker.Refuse(time.Hour)
		x.expect(x.get("/log"), http.StatusBadGateway)
	})
}

// TestLogInTwoTabs: one waits for the other, and neither finds the audit trail locked.
func TestLogInTwoTabs(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.declare(errorqueue.AuditQueue)
		x.put(errorqueue.AuditQueue, amqp.Publishing{Body: []byte(`{"operator":"bob@ops2","action":"discard","phase":"end","selected":3,"done":3}`)})
		x.broker.Inject(brokertest.Fault{On: "basic.consume", Do: brokertest.Delay, For: 2 * time.Second, Match: func(f brokertest.Frame) bool { return f.Queue == errorqueue.AuditQueue }})
		status := make(chan int)
		for range 2 {
			r := x.request(http.MethodGet, "/log", nil)
			go func() {
				w := httptest.NewRecorder()
				x.site.ServeHTTP(w, r)
				status <- w.Code
			}()
		}
		if a, b := <-status, <-status; a != http.StatusOK || b != http.StatusOK {
			x.Errorf("status %d and %d", a, b)
		}
	})
}

// TestActionsKeepNoLook: an action that has ended does not keep the look that it was about.
func TestActionsKeepNoLook(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		groups := x.get("/errors")
		kept := x.site.LastLook()
		done := x.begin(groups, "Retry", "1", nil)
		x.end(done)
		for range 4 {
			x.get("/errors")
		}
		runtime.GC()
		if kept.Value() != nil {
			x.Error("the look is kept")
		}
		x.expect(x.get(done), http.StatusOK, "Retry: done", "Done 1 of 1")
		x.expect(x.get("/actions"), http.StatusOK, "Retry 1 1 done")
	})
}

// TestPagesAreSmall: a page has at most 50 kB, however many messages have failed in however many ways, and however long their texts are.
func TestPagesAreSmall(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		for i := range 120 { // one message of each of 60 groups, and 60 of another
			x.park(fmt.Sprint(i), strings.Repeat("Place", 38)+strings.Repeat("x", max(0, 60-i)), strings.Repeat("no order ", 1000), nil)
		}
		groups := x.get("/errors")
		x.expect(groups, http.StatusOK, "120 messages of 120", "groups 1 to 40 of 61")
		rest := x.get(x.link(groups, "Later"))
		x.expect(rest, http.StatusOK, "groups 41 to 61 of 61", "Retry")
		x.expect(x.get(x.link(rest, "Earlier")), http.StatusOK, "groups 1 to 40 of 61")
		list := x.get(x.link(groups, "List all"))
		for name, a := range map[string]*answer{"groups": groups, "list": list, "message": x.get("/looks/" + look(groups) + "/messages/" + ids(list)[0])} {
			if len(a.html) > 50_000 {
				t.Errorf("the page %s has %d bytes", name, len(a.html))
			}
		}
	})
}
