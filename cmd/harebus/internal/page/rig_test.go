package page_test

import (
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/deferred"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const address = "127.0.0.1:4711"

// bench is a page, a broker with an error queue, and a browser that has logged in.
type bench struct {
	*testing.T

	broker *brokertest.Broker
	ch     *amqp.Channel
	site   *page.Server
	cookie *http.Cookie
	form   string // the token of the last page with a form
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, change func(*page.Config), test func(x *bench)) {
	t.Helper()
	t.Parallel()
	archive := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		x := &bench{T: t, broker: b, ch: ch}
		for _, queue := range []string{"error", "orders"} {
			x.declare(queue)
		}
		cfg := page.Config{
			Errors: errorqueue.Config{
				Connect: harebus.ConnectConfig{URLs: []string{b.URL()}}, Dial: b.Dial, Timeout: 5 * time.Second, Operator: "ann@ops1",
			},
			Deferred: deferred.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second},
			Services: services.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Operator: "ann@ops1", Wait: time.Second, Quiet: 250 * time.Millisecond, Timeout: 5 * time.Second},
			Broker:   "guest@broker", Archive: archive,
		}
		if change != nil {
			change(&cfg)
		}
		x.site = page.New(cfg, address)
		defer x.site.Close()
		r := x.get(strings.TrimPrefix(x.site.Address(), "http://"+address))
		x.cookie = r.Cookies()[0]
		test(x)
	})
}

func (x *bench) try(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *bench) declare(queue string) {
	x.Helper()
	_, err := x.ch.QueueDeclare(queue, true, false, false, false, nil)
	x.try(err)
}

// park puts a message into the error queue.
func (x *bench) park(id, kind, failure string, more amqp.Table) {
	x.Helper()
	headers := amqp.Table{
		"PikaBus.MessageId": id, "PikaBus.MessageType": kind, "PikaBus.SourceQueue": "orders", "PikaBus.ErrorRetries": int8(6),
		"PikaBus.ErrorDetails": failure, "PikaBus.ErrorId": harebus.NewMessageID(), "tenant": "north",
	}
	maps.Copy(headers, more)
	x.put("error", amqp.Publishing{MessageId: id, Type: kind, DeliveryMode: amqp.Persistent, Headers: headers, Body: []byte(`{"ID":"` + id + `"}`)})
}

func (x *bench) put(queue string, m amqp.Publishing) {
	x.Helper()
	x.try(x.ch.PublishWithContext(x.Context(), "", queue, false, false, m))
	_, err := x.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	x.try(err)
}

// parkMany parks n messages of a group.
func (x *bench) parkMany(n int) {
	x.Helper()
	for i := range n {
		x.park(fmt.Sprint(i), "Place", "out of stock", nil)
	}
}

// request makes a request as a browser makes it.
func (x *bench) request(method, path string, form url.Values) *http.Request {
	x.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(x.Context(), method, "http://"+address+path, body)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "http://"+address)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if x.cookie != nil {
		r.AddCookie(x.cookie)
	}
	return r
}

// answer is what the page has answered.
type answer struct {
	*http.Response

	html string
}

// text is what a reader sees.
func (a *answer) text() string {
	shown := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(a.html, " ")
	return strings.Join(strings.Fields(html.UnescapeString(shown)), " ")
}

// do sends a request.
func (x *bench) do(r *http.Request) *answer {
	x.Helper()
	w := httptest.NewRecorder()
	x.site.ServeHTTP(w, r)
	a := &answer{w.Result(), w.Body.String()}
	if m := regexp.MustCompile(`name="form" value="(\w+)"`).FindStringSubmatch(a.html); m != nil {
		x.form = m[1]
	}
	return a
}

// get opens an address and follows redirects, but for the one of the login.
func (x *bench) get(path string) *answer {
	x.Helper()
	a := x.do(x.request(http.MethodGet, path, nil))
	for a.StatusCode == http.StatusSeeOther && x.cookie != nil {
		a = x.do(x.request(http.MethodGet, a.Header.Get("Location"), nil))
	}
	return a
}

// post sends a form with the token of the last page.
func (x *bench) post(path string, form url.Values) *answer {
	x.Helper()
	form.Set("form", x.form)
	return x.do(x.request(http.MethodPost, path, form))
}

// expect checks an answer: its status, and texts in it.
func (x *bench) expect(a *answer, status int, texts ...string) {
	x.Helper()
	if a.StatusCode != status {
		x.Fatalf("status %d, want %d: %s", a.StatusCode, status, a.text())
	}
	for _, text := range texts {
		if !strings.Contains(a.text(), text) {
			x.Errorf("%q is not in %s", text, a.text())
		}
	}
}

// link is the address of the first link with this text at its start.
func (x *bench) link(a *answer, text string) string {
	x.Helper()
	m := regexp.MustCompile(`href="([^"]*)"[^>]*>` + regexp.QuoteMeta(text)).FindStringSubmatch(a.html)
	if m == nil {
		x.Fatalf("no link %q in %s", text, a.html)
	}
	return html.UnescapeString(m[1])
}

// begin confirms an action on the page a with the link text, and returns the address of the action.
func (x *bench) begin(a *answer, text, number string, more url.Values) string {
	x.Helper()
	form := url.Values{"count": {number}, "rate": {"1000"}}
	maps.Copy(form, more)
	path := x.link(a, text)
	x.expect(x.get(path), http.StatusOK, "to confirm")
	sent := x.post(path, form)
	x.expect(sent, http.StatusSeeOther)
	return sent.Header.Get("Location")
}

// end waits until an action has ended, and returns its page.
func (x *bench) end(path string) *answer {
	x.Helper()
	for range 1000 {
		a := x.get(path)
		if !strings.Contains(a.html, "data-refresh") {
			return a
		}
		time.Sleep(100 * time.Millisecond) // virtual
	}
	x.Fatal("the action does not end")
	return nil
}

// ids are the message ids in a queue.
func (x *bench) ids(queue string) string {
	var ids []string
	for _, m := range x.broker.Messages(queue) {
		ids = append(ids, m.MessageId)
	}
	return strings.Join(ids, " ")
}

func (x *bench) has(queue, want string) {
	x.Helper()
	if got := x.ids(queue); got != want {
		x.Errorf("queue %q has %q, want %q", queue, got, want)
	}
}
