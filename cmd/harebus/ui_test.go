package main

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// TestUI is the command from its start to its end: it prints an address, shows what failed, the plan and
// the doctor, and ends in order.
func TestUI(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "error", nil)
	put(t, ch, "error", amqp.Publishing{MessageId: "a", Type: "Place", Headers: amqp.Table{"PikaBus.ErrorDetails": "out of stock"}})
	file := topologyFile(t, harebus.Config{Queue: "absent"})
	put(t, ch, "error", amqp.Publishing{ContentType: "application/vnd.masstransit+json", Body: []byte(`{"messageType":["urn:message:Acme:Pay"],"message":{"orderId":7}}`), Headers: amqp.Table{
		"MT-Reason": "fault", "MT-Fault-Message": "no money", "MT-Fault-InputAddress": "rabbitmq://localhost/payments",
	}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs buffer
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{"ui", "-url", url, "-topology", file, "-archive", t.TempDir()}, strings.NewReader(""), &out, &errs)
	}()
	out.await(t, "Ctrl-C ends this")
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(out.String())
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	defer browser.CloseIdleConnections()
	see := func(at, want string) (path, body string) {
		t.Helper()
		answer, err := browser.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		content, err := io.ReadAll(answer.Body)
		if err != nil || !strings.Contains(string(content), want) || strings.Contains(string(content), "guest:guest") {
			t.Errorf("%s: %v, want %q in\n%s", at, err, want, content)
		}
		return answer.Request.URL.Path, string(content)
	}
	see(regexp.MustCompile(`http://\S+`).FindString(out.String()), "out of stock")
	look, _ := see(address+"/errors?error=no+money", "Acme:Pay")
	_, list := see(address+look+"/messages", "payments")
	peer := address + regexp.MustCompile(look+`/messages/[\w-]+`).FindString(list)
	see(peer, "masstransit, another bus")
	see(peer, "<pre tabindex=\"0\" aria-label=\"Payload\">{\n  &#34;orderId&#34;: 7\n}</pre>")
	see(address+"/topology", `queue &#34;absent&#34;`)
	see(address+"/doctor", "absent")
	see(address+"/deferred", "0 messages wait")
	see(address+"/services", "? absent: no answer; there is no such queue")
	cancel()
	if c := <-code; c != exitOK || errs.String() != "" {
		t.Errorf("exit code %d, stderr %s", c, errs.String())
	}
}

func TestUIMisuse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"argument", "unexpected argument", []string{"x"}},
		{"listen", "loopback", []string{"-listen", "0.0.0.0:0"}},
		{"rate", "out of range", []string{"-rate", "0"}},
		{"timeout", "out of range", []string{"-timeout", "0"}},
		{"most", "out of range", []string{"-most", "-1"}},
		{"api", "needs -topology", []string{"-api", "http://127.0.0.1:1"}},
		{"queue", "amq.", []string{"-error-queue", "amq.x"}},
		{"archive", "no such file", []string{"-archive", "absent"}},
		{"archive-file", "not a folder", []string{"-archive", "main.go"}},
		{"topology", "no such file", []string{"-topology", "absent.json"}},
		{"address", "not of the form", []string{"-url", "http://u:secret@h"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := execute(t, "", append([]string{"ui"}, test.args...)...)
			r.check(t, exitUsage, test.want)
			if strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "secret") {
				t.Errorf("stderr %q", r.err)
			}
		})
	}
	_, url := newBroker(t)
	execute(t, "", "ui", "-listen", strings.TrimSuffix(url[strings.Index(url, "@")+1:], "/")).check(t, exitFailed, "in use")
}

// TestListened: of the queues of a topology the page expects those to be answered for that an instance answers for.
func TestListened(t *testing.T) {
	t.Parallel()
	all := topology.Join((&order.Config{Partitions: 2}).Topology("steps"), (&order.Config{}).Topology("steps.0"), (&order.Config{}).Topology("steps.1"), topology.Topology{Queues: []topology.Queue{
		{Name: "steps"}, {Name: "steps.0"}, {Name: "steps.1"}, {Name: "error"}, {Name: "lost.parked"}, {Name: "harebus.audit"}, {Name: "events", Type: topology.Stream}, {Name: "mine", Exclusive: true},
	}})
	var names []string
	for _, q := range all.Queues {
		if listened(q, all, "error") {
			names = append(names, q.Name)
		}
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "lost.parked steps steps.0 steps.1" {
		t.Errorf("listened to are %s", got)
	}
}
