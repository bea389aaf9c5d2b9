package page_test

import (
	"encoding/base64"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/seal"
)

// editor opens the form for the one message of the error queue that has this text in its error, and returns its address and the page.
func (x *bench) editor(failure string) (path string, form *answer) {
	x.Helper()
	list := x.get("/looks/" + look(x.get("/errors?error="+url.QueryEscape(failure))) + "/messages")
	message := x.get(x.link(list, ids(list)[0]))
	path = x.link(message, "Edit it")
	form = x.get(path)
	x.expect(form, http.StatusOK, "Edit message")
	return path, form
}

// field is what stands in the field with the body.
func (x *bench) field(a *answer) string {
	x.Helper()
	m := regexp.MustCompile(`(?s)<textarea[^>]*>\n(.*)</textarea>`).FindStringSubmatch(a.html)
	if m == nil {
		x.Fatalf("no field in %s", a.html)
	}
	return html.UnescapeString(m[1])
}

// typed sends the form as a browser does, and once more when the page has shown what changes.
func (x *bench) typed(path, body string, more ...string) *answer {
	x.Helper()
	form := url.Values{"body": {strings.ReplaceAll(body, "\n", "\r\n")}, "count": {"1"}, "to": {""}}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	a := x.post(path, form)
	if shown := x.shown(a); a.StatusCode == http.StatusOK && shown != "" {
		form.Set("shown", shown)
		a = x.post(path, form)
	}
	return a
}

// shown names the change that a form shows; empty if it shows none.
func (x *bench) shown(a *answer) string {
	x.Helper()
	_, rest, _ := strings.Cut(a.html, `name="shown" value="`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}

// edited sends the form, and returns the page of the action at its end.
func (x *bench) edited(path, body string, more ...string) *answer {
	x.Helper()
	sent := x.typed(path, body, more...)
	x.expect(sent, http.StatusSeeOther)
	return x.end(sent.Header.Get("Location"))
}

// TestEdit: the original leaves the error queue when the copy with the new body is confirmed; the journal and the audit trail are those of the command.
func TestEdit(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.declare("other")
		x.park("a", "Place", "boom", nil)
		x.park("b", "Place", "bang", nil)
		path, form := x.editor("boom")
		x.expect(form, http.StatusOK, "tenant north", "queue orders", "boom", "JSON on one line")
		if got := x.field(form); got != "{\n  \"ID\": \"a\"\n}" {
			t.Errorf("the field has %q", got)
		}
		done := x.edited(path, "{\n  \"ID\": 7\n}\n")
		x.expect(done, http.StatusOK, "Edit: done", "Done 1 of 1, left 0")
		x.has("error", "b")
		m := x.broker.Messages("orders")
		if len(m) != 1 || string(m[0].Body) != `{"ID":7}` || m[0].Headers["PikaBus.EditedFrom"] != "a" || m[0].Headers["tenant"] != "north" || !strings.Contains(done.text(), m[0].MessageId) {
			t.Errorf("sent is %+v: %s", m, done.text())
		}
		x.expect(x.get("/log"), http.StatusOK, "ann@ops1", "edit, begin", "edit, end")
		x.expect(x.get("/actions"), http.StatusOK, "Edit 1 1 done")
		x.expect(x.typed(path, "{}"), http.StatusNotFound, "not in the error queue any more. Somebody has moved it since the look. Nothing was done.", "What you have typed") // the second tab
		path, _ = x.editor("bang")
		x.expect(x.edited(path, `{"ID":8}`, "to", "other"), http.StatusOK, "Edit: done")
		x.has("other", x.broker.Messages("other")[0].MessageId)
		x.has("error", "")
	})
}

// TestEditShowsChange: nothing is sent but what was shown before, to the queue that was named then.
func TestEditShowsChange(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.declare("other")
		x.park("a", "Place", "boom", nil)
		path, form := x.editor("boom")
		if x.shown(form) != "" || strings.Contains(form.html, `name="count"`) {
			t.Errorf("it can be sent before the change is shown: %s", form.html)
		}
		send := func(body, to, shown string) *answer {
			return x.post(path, url.Values{"body": {body}, "to": {to}, "count": {"1"}, "shown": {shown}})
		}
		first := send("{\r\n  \"ID\": 7\r\n}", "", "")
		x.expect(first, http.StatusOK, "What changes", "10 bytes become 8.", `{ - "ID": "a" + "ID": 7 }`, "Type 1 to confirm")
		if strings.Contains(first.text(), "Nothing was done") { // there is nothing wrong
			t.Error(first.text())
		}
		for _, other := range []*answer{send(`{"ID":8}`, "", x.shown(first)), send(`{"ID":7}`, "other", x.shown(first)), send(`{"ID":7}`, "", "nonsense")} {
			x.expect(other, http.StatusOK, "What you have sent is not what was shown. This is what it changes. Nothing was done.", "What changes")
			if x.shown(other) == "" {
				t.Error(other.html)
			}
		}
		x.has("error", "a")
		x.has("orders", "")
		x.expect(send(`{"ID":7}`, "", x.shown(first)), http.StatusSeeOther) // spelled in another way, but the same body
		time.Sleep(time.Second)                                             // virtual
		x.has("error", "")
		if m := x.broker.Messages("orders"); len(m) != 1 || string(m[0].Body) != `{"ID":7}` {
			t.Errorf("sent is %+v", m)
		}
		x.put("error", amqp.Publishing{MessageId: "b", Headers: amqp.Table{"PikaBus.ErrorDetails": "spaces", "PikaBus.SourceQueue": "orders"}, Body: []byte("{\r\n\"a\": \"<b>\"}")})
		path, form = x.editor("spaces")
		x.expect(send(strings.ReplaceAll(x.field(form), ": ", ":"), "", ""), http.StatusOK, `- "a": "<b>"} + "a":"<b>"}`)
	})
}

// TestEditRefused: each fault is said, the form comes again with what was typed, and nothing is done.
func TestEditRefused(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		path, _ := x.editor("boom")
		for _, test := range []struct {
			name, body, want string
			more             []string
		}{
			{"count", `{"ID":7}`, "The number is not 1. Nothing was done.", []string{"count", "2"}},
			{"no-count", `{"ID":7}`, "The number is not 1.", []string{"count", ""}},
			{"json", "{\n\t\"ID\": 7,\n}", "The new body is not JSON, as the old one is: invalid character '}' looking for beginning of object key string at line 3, character 1.", nil},
			{"empty", "", "The new body is not JSON", nil},
			{"unchanged", "{\n  \"ID\": \"a\"\n}", "The body is as it was.", nil},
			{"utf-8", "\"\xff\"", "is not UTF-8", nil},
			{"queue", `{"ID":7}`, "amq.", []string{"to", "amq.x"}},
		} {
			a := x.typed(path, test.body, test.more...)
			x.expect(a, http.StatusUnprocessableEntity, test.want, "Nothing was done")
			if got := x.field(a); test.name != "utf-8" && strings.ReplaceAll(got, "\r\n", "\n") != test.body {
				t.Errorf("%s: the field has %q, want %q", test.name, got, test.body)
			}
		}
		left := x.edited(path, `{"ID":7}`, "to", "absent")
		x.expect(left, http.StatusOK, "not everything was done", `no queue "absent"`, "Edit it again")
		again := x.get(x.link(left, "Edit it again"))
		if got := x.field(again); got != `{"ID":7}` || !strings.Contains(again.html, `value="absent"`) {
			t.Errorf("the field has %q: %s", got, again.html)
		}
		x.expect(x.get(strings.Replace(path, "/edit", "x/edit", 1)), http.StatusNotFound, "The look has no such message")
		x.expect(x.typed(strings.Replace(path, "/looks/", "/looks/x", 1), `{"ID":7}`), http.StatusGone, "no longer kept", "What you have typed", `{"ID":7}`)
		x.expect(x.get("/looks/"+look(again)+"/act?do=edit"), http.StatusBadRequest, "no such action")
		x.has("error", "a")
		x.has("orders", "")
	})
}

// TestEditOfAnother: a message that is changed, doubled, or held by somebody else is not edited, and what was typed is not lost.
func TestEditOfAnother(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", amqp.Table{"PikaBus.ErrorId": "0193a7c2-0000-7000-8000-000000000001"})
		path, _ := x.editor("boom")
		taken, ok, err := x.ch.Get("error", true)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		x.put("error", amqp.Publishing{MessageId: "a", Headers: taken.Headers, Body: []byte(`{"ID":"other"}`)})
		a := x.typed(path, `{"ID":7}`)
		x.expect(a, http.StatusConflict, "The message is not what it was", "Nothing was done", "What you have typed", `{"ID":7}`)
		x.expect(x.get(path), http.StatusConflict, "The message is not what it was")
		x.put("error", amqp.Publishing{MessageId: "a", Headers: taken.Headers, Body: []byte(`{"ID":"other"}`)})
		list := x.get("/looks/" + look(x.get("/errors")) + "/messages")
		x.expect(x.get(x.link(list, ids(list)[0])+"/edit"), http.StatusConflict, "2 messages have this id")
		x.has("error", "a a")
		x.park("b", "Place", "bang", nil)
		path, _ = x.editor("bang")
		x.begin(x.get("/errors?error=boom"), "Retry all", "2", url.Values{"rate": {"1"}})
		a = x.typed(path, `{"ID":7}`)
		x.expect(a, http.StatusConflict, "An action is at work", "Nothing was done")
		if x.field(a) != `{"ID":7}` || strings.Contains(a.html, "It is sent as it stands here") {
			t.Errorf("the field has %q: %s", x.field(a), a.text())
		}
		time.Sleep(time.Minute) // virtual
		x.expect(x.edited(path, `{"ID":7}`), http.StatusOK, "Edit: done")
	})
}

// TestEditAgainOfWhatIsGone: what was typed for an edit that did not succeed is there also when the message has been moved since, or
// the look is no longer kept.
func TestEditAgainOfWhatIsGone(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		path, _ := x.editor("boom")
		again := x.link(x.edited(path, `{"ID":7}`, "to", "absent"), "Edit it again")
		_, err := x.ch.QueuePurge("error", false)
		x.try(err)
		x.expect(x.get(again), http.StatusNotFound, "not in the error queue any more", "What you have typed", `{"ID":7}`)
		for range 4 {
			x.get("/errors")
		}
		x.expect(x.get(again), http.StatusGone, "no longer kept", "What you have typed", `{"ID":7}`)
		x.expect(x.get(path), http.StatusGone, "no longer kept")
	})
}

// TestLargePayload: of a message of another bus the page shows the beginning, as of others.
func TestLargePayload(t *testing.T) {
	large := func(c *page.Config) {
		c.Peer = func(*errorqueue.Content) *page.Peer {
			return &page.Peer{Dialect: "spring", Payload: strings.Repeat("a", 1<<20)}
		}
	}
	bubble(t, large, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		list := x.get("/looks/" + look(x.get("/errors")) + "/messages")
		message := x.get(x.link(list, ids(list)[0]))
		x.expect(message, http.StatusOK, "In it is the payload", "This is the beginning")
		if len(message.html) > 1<<18 {
			t.Errorf("the page has %d bytes", len(message.html))
		}
	})
}

// TestEditLocked: what would be accepted nowhere is not edited, as with the command, and its form has no field.
func TestEditLocked(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		for want, more := range map[string]amqp.Table{
			"it is signed":           {"PikaBus.Signature": "s"},
			"its body is encoded":    {"PikaBus.ContentEncoding": "gzip"},
			"it is encrypted":        {"PikaBus.ContentType": seal.ContentType},
			"in a store of package":  {"PikaBus.ContentType": claim.ContentType},
			"the AMQP client cannot": {"wide": make([]any, 8193)},
		} {
			x.park(want, "Place", want, more)
			path, form := x.editor(want)
			x.expect(form, http.StatusOK, "This message stays as it is", want)
			if strings.Contains(form.html, "<textarea") {
				t.Errorf("%s: %s", want, form.html)
			}
			x.get("/looks/" + look(form) + "/act?do=retry") // has a token
			x.expect(x.typed(path, `{"ID":7}`), http.StatusUnprocessableEntity, want, "Nothing was done")
		}
		large := `"` + strings.Repeat("a", 1<<20) + `"`
		x.put("error", amqp.Publishing{MessageId: "large", Headers: amqp.Table{"PikaBus.ErrorDetails": "large"}, Body: []byte(large)})
		_, form := x.editor("large")
		x.expect(form, http.StatusOK, "more than the 1048576", "harebus errors edit -body FILE")
		if n := len(x.broker.Messages("error")); n != 6 || x.ids("orders") != "" {
			t.Errorf("%d messages", n)
		}
	})
}

// TestEditBodies: a body comes back from the form as it was, but for what was typed, whatever is in it.
func TestEditBodies(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		const rest = 1<<20 - 100
		for name, test := range map[string]struct{ body, shown, from, to, want string }{
			"markup":   {"</textarea><script>alert(1)</script>{{.Form}}&amp;", "", "alert(1)", "alert(2)", "</textarea><script>alert(2)</script>{{.Form}}&amp;"},
			"newlines": {"\n\na\n\tb\n", "", "a", "c", "\n\nc\n\tb\n"},
			"controls": {"{\"a\":\"\u202e\x7f\u00a0\U000e0041\"}", "{\n  \"a\": \"\\u202e\\u007f\\u00a0\\udb40\\udc41\"\n}", `"a"`, `"b"`, `{"b":"\u202e\u007f\u00a0\udb40\udc41"}`},
			"mark":     {"\ufeff{\"a\":1}", "{\n  \"a\": 1\n}", "1", "2", `{"a":2}`},
			"lines":    {"{\r\n\"a\": 1}\r\n", "{\n\"a\": 1}\n", "1", "2", "{\n\"a\": 2}\n"},
			"numbers":  {`[12345678901234567890.10,1e400]`, "[\n  12345678901234567890.10,\n  1e400\n]", "1e400", "1e401", `[12345678901234567890.10,1e401]`},
			"xml":      {"<a b=\"c\"/>\n", "", "c", "d", "<a b=\"d\"/>\n"},
			"binary":   {"\xff\x00\x01</textarea>", "/wABPC90ZXh0YXJlYT4=", "/wAB", "/wAC", "\xff\x00\x02</textarea>"},
			"escape":   {"\x1b[2Jx", "G1sySng=", "ng=", "nk=", "\x1b[2Jy"},
			"returns":  {"a\r\nb\rc", "YQ0KYg1j", "YQ", "Yg", ""},
			"large":    {`"` + strings.Repeat(`ä\n`, rest/4) + `"`, "", `"ä`, `"b`, `"b` + strings.Repeat(`ä\n`, rest/4)[2:] + `"`},
		} {
			x.put("error", amqp.Publishing{MessageId: name, Headers: amqp.Table{"PikaBus.ErrorDetails": "of " + name, "PikaBus.SourceQueue": "orders"}, Body: []byte(test.body)})
			path, form := x.editor("of " + name)
			shown := x.field(form)
			if want := test.shown; want != shown && (want != "" || shown != test.body) {
				t.Errorf("%s: the field has %.200q", name, shown)
			}
			if strings.Contains(form.html, "<script>a") || strings.ContainsAny(form.html, "\x1b\u202e\x00\r") {
				t.Errorf("%s: as it came: %s", name, form.html)
			}
			want := test.want
			if want == "" {
				raw, err := base64.StdEncoding.DecodeString(strings.Replace(shown, test.from, test.to, 1))
				x.try(err)
				want = string(raw)
			}
			x.expect(x.edited(path, strings.Replace(shown, test.from, test.to, 1)), http.StatusOK, "Edit: done")
			sent := x.broker.Messages("orders")
			if got := string(sent[len(sent)-1].Body); got != want {
				t.Errorf("%s: sent is %.200q, want %.200q", name, got, want)
			}
		}
		x.put("error", amqp.Publishing{MessageId: "b64", Headers: amqp.Table{"PikaBus.ErrorDetails": "base64"}, Body: []byte{0xff}})
		path, _ := x.editor("base64")
		x.expect(x.typed(path, "no base64!"), http.StatusUnprocessableEntity, "The new body is not base64")
	})
}

// TestEditTooMuch: more than a form may have is refused with words.
func TestEditTooMuch(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		path, _ := x.editor("boom")
		x.expect(x.typed(path, strings.Repeat(" ", 9<<20)), http.StatusRequestEntityTooLarge, "too large for this page; nothing was done", "harebus errors edit -body")
		x.has("error", "a")
	})
}

// TestNoEdit: there is no form on a page that is read-only or shows no bodies, nor for strangers, and no action without the token.
func TestNoEdit(t *testing.T) {
	for name, change := range map[string]func(*page.Config){"read-only": func(c *page.Config) { c.ReadOnly = true }, "no-bodies": func(c *page.Config) { c.NoBodies = true }} {
		t.Run(name, func(t *testing.T) {
			bubble(t, change, func(x *bench) {
				x.park("a", "Place", "boom", nil)
				groups := x.get("/errors")
				list := x.get(x.link(groups, "List all"))
				path := x.link(list, ids(list)[0])
				if message := x.get(path); strings.Contains(message.html, "/edit") {
					t.Error(message.html)
				}
				x.expect(x.get(path+"/edit"), http.StatusNotFound)
				status := http.StatusForbidden // no form of it has a token
				if name == "no-bodies" {
					x.get(x.link(groups, "Retry all"))
					status = http.StatusMethodNotAllowed
				}
				x.expect(x.typed(path+"/edit", "{}"), status)
				x.has("error", "a")
			})
		})
	}
	t.Run("token", func(t *testing.T) {
		bubble(t, nil, func(x *bench) {
			x.park("a", "Place", "boom", nil)
			path, _ := x.editor("boom")
			x.form = "wrong"
			x.expect(x.typed(path, "{}"), http.StatusForbidden)
			x.has("error", "a")
		})
	})
}

// TestEditForeign: a message of another bus stays one: it gets no id of harebus in its headers.
func TestEditForeign(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.put("error", amqp.Publishing{
			MessageId: "f7e60000-4d3d-08df-b9f6-08df0d1c0d2a", ContentType: "application/vnd.masstransit+json", Body: []byte(`{"messageType":["urn:message:Acme:Place"],"message":{"id":"7"}}`),
			Headers: amqp.Table{"MT-Reason": "fault", "MT-Fault-Message": "no id", "MT-Fault-InputAddress": "rabbitmq://localhost/orders"},
		})
		path, form := x.editor("no id")
		x.expect(x.typed(path, "<xml/>"), http.StatusUnprocessableEntity, "not JSON, as its content type says")
		x.expect(x.edited(path, strings.Replace(x.field(form), `"7"`, "7", 1)), http.StatusOK, "Edit: done")
		m := x.broker.Messages("orders")
		if len(m) != 1 || string(m[0].Body) != `{"messageType":["urn:message:Acme:Place"],"message":{"id":7}}` || m[0].Headers["PikaBus.MessageId"] != nil || m[0].Headers["MT-Reason"] != nil {
			t.Errorf("sent is %+v", m)
		}
	})
}

// TestEditWithoutAudit: an edit that cannot be written into the audit trail is not done.
func TestEditWithoutAudit(t *testing.T) {
	bubble(t, nil, func(x *bench) {
		x.park("a", "Place", "boom", nil)
		path, _ := x.editor("boom")
		x.broker.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Match: func(f brokertest.Frame) bool { return f.Queue == "harebus.audit" }})
		x.expect(x.edited(path, `{"ID":7}`), http.StatusOK, "not everything was done", "write the audit trail", "Edit it again")
		x.has("error", "a")
		x.has("orders", "")
	})
}
