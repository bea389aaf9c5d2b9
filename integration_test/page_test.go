package integration_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/harebus/harebus"
)

// onPage: a message that no service can handle is mended on the page, and a queue is paused, limited and resumed there.
func (o *operator) onPage() {
	in := newInbox()
	s := o.served(harebus.Config{Queue: "invoices", Retry: harebus.RetryConfig{MaxRetries: 1}}, func(s *harebus.Setup) {
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if strings.Contains(string(m.Body), "wrong") {
				return harebus.NoRetry(errors.New("the customer is not known"))
			}
			return in.take(ctx, bus, m)
		})
	})
	o.try(s.Bus().Send(o.within(patience), "invoices", map[string]string{"Customer": "wrong"}, harebus.WithType("Invoice")))
	o.prints([]string{"errors"}, "1 failed messages in error", "the customer is not known")
	x := o.browse()
	list := x.get(x.get("/errors").Request.URL.Path + "/messages")
	path := regexp.MustCompile(`/looks/\w+/messages/[\w-]+`).FindString(list.body) + "/edit"
	form := x.get(path)
	x.has(form, "&#34;Customer&#34;: &#34;wrong&#34;")
	x.has(x.post(path, form, url.Values{"body": {`{"Customer":`}, "count": {"1"}}), "is not JSON")
	edit := url.Values{"body": {"{\r\n\"Customer\": \"right\"\r\n}"}, "count": {"1"}}
	change := x.post(path, form, edit)
	x.has(change, "<del>-   &#34;Customer&#34;: &#34;wrong&#34;</del>")
	x.has(change, "<ins>+   &#34;Customer&#34;: &#34;right&#34;</ins>")
	edit.Set("shown", regexp.MustCompile(`name="shown" value="(\w+)"`).FindStringSubmatch(change.body)[1])
	done := x.post(path, form, edit)
	o.eventually(patience, func() error {
		if done = x.get(done.Request.URL.Path); !strings.Contains(done.body, "Edit: done") {
			return errors.New(done.body)
		}
		return nil
	})
	in.await(o.place, 1)
	o.ends(0, []string{"errors"}, "0 failed messages")
	const order = "/services/order?queue=invoices&do="
	x.has(x.post(order+"pause", form, url.Values{"count": {"1"}}), "Pause queue invoices: done")
	if !s.Stats().Paused {
		o.Error("the service is not paused")
	}
	x.has(x.get("/services?queue=invoices"), "paused")
	x.has(x.post(order+"rate", form, url.Values{"count": {"1"}, "number": {"5"}}), "limit 10, 5/s")
	x.has(x.post(order+"concurrency", form, url.Values{"count": {"1"}, "number": {"4"}}), "limit 4, 5/s")
	x.has(x.post(order+"resume", form, url.Values{"count": {"1"}}), "Resume queue invoices: done")
	if s.Stats().Paused {
		o.Error("the service is paused")
	}
}

// browser is somebody who has opened the address of harebus ui.
type browser struct {
	*operator

	origin string
	client *http.Client
}

type shown struct {
	*http.Response

	body string
}

// browse starts harebus ui until the end of the test.
func (o *operator) browse() *browser {
	o.Helper()
	ctx, cancel := context.WithCancel(o.Context())
	cmd := exec.CommandContext(ctx, o.binary, "ui")
	cmd.Env = []string{"AMQP_URL=" + o.url}
	out, err := cmd.StdoutPipe()
	o.try(err)
	o.try(cmd.Start())
	o.Cleanup(func() { cancel(); _ = cmd.Wait() }) // it was killed
	line, err := bufio.NewReader(out).ReadString('\n')
	o.try(err)
	address := strings.TrimSpace(strings.TrimPrefix(line, "open "))
	jar, err := cookiejar.New(nil)
	o.try(err)
	at, err := url.Parse(address)
	o.try(err)
	x := &browser{o, at.Scheme + "://" + at.Host, &http.Client{Jar: jar, Timeout: time.Minute}}
	o.Cleanup(x.client.CloseIdleConnections)
	x.get(at.RequestURI())
	return x
}

func (x *browser) get(path string) shown {
	x.Helper()
	answer, err := x.client.Get(x.origin + path)
	return x.read(answer, err)
}

// post sends a form with the token of a page.
func (x *browser) post(path string, from shown, form url.Values) shown {
	x.Helper()
	form.Set("form", regexp.MustCompile(`name="form" value="(\w+)"`).FindStringSubmatch(from.body)[1])
	r, err := http.NewRequestWithContext(x.Context(), http.MethodPost, x.origin+path, strings.NewReader(form.Encode()))
	x.try(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", x.origin)
	answer, err := x.client.Do(r)
	return x.read(answer, err)
}

func (x *browser) read(answer *http.Response, err error) shown {
	x.Helper()
	x.try(err)
	body, err := io.ReadAll(answer.Body)
	x.try(errors.Join(err, answer.Body.Close()))
	return shown{answer, string(body)}
}

func (x *browser) has(a shown, text string) {
	x.Helper()
	if !strings.Contains(a.body, text) {
		x.Fatalf("%q is not on the page %s: %s", text, a.Request.URL, a.body)
	}
}
