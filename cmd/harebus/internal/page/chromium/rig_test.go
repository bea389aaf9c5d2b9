package chromium_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	browserlog "github.com/chromedp/cdproto/log"
	browser "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/cmd/harebus/internal/page"
	"github.com/harebus/harebus/cmd/harebus/internal/services"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/pulse"
	"github.com/harebus/harebus/topology"
)

var (
	screenshots = flag.String("screenshots", "", "write the screenshots of the documentation into this `folder`")
	everyState  = flag.String("states", "", "write a screenshot of every state that is judged into this `folder`")
)

// axe is the source of axe-core.
var axe = sync.OnceValues(func() (string, error) {
	packed, err := os.ReadFile("testdata/axe-4.14.1.min.js.gz")
	if err != nil {
		return "", err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	source, err := io.ReadAll(unpacked)
	return string(source), err
})

// shell is the path of the browser.
func shell(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" || os.Getenv("HAREBUS_REQUIRE_BROKER") != "" {
		t.Fatal("there is no chromium: run scripts/install-chromium")
	}
	t.Skip("there is no chromium: run scripts/install-chromium")
	return ""
}

// newBrowser starts a browser for all tabs of a test.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(shell(t)), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-dev-shm-usage", true))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// bench is a page with a broker, and a tab of the browser that has logged in.
type bench struct {
	*testing.T

	broker *brokertest.Broker
	ch     *amqp.Channel
	origin string
	tab    context.Context

	mu     sync.Mutex // guards faults
	faults []string   // what the browser has complained about
}

// newBench starts a page, and a tab of its own with cookies of its own.
func newBench(ctx context.Context, t *testing.T, change func(*page.Config)) *bench {
	t.Helper()
	x := &bench{T: t, broker: brokertest.New()}
	t.Cleanup(x.broker.Close)
	conn, err := amqp.DialConfig(x.broker.URL(), amqp.Config{Dial: x.broker.Dial})
	x.try(err)
	t.Cleanup(func() { _ = conn.Close() })
	x.ch, err = conn.Channel()
	x.try(err)
	for _, queue := range []string{"error", "orders"} {
		_, err := x.ch.QueueDeclare(queue, true, false, false, false, nil)
		x.try(err)
	}
	cfg := page.Config{
		Errors: errorqueue.Config{
			Connect: harebus.ConnectConfig{URLs: []string{x.broker.URL()}}, Dial: x.broker.Dial, Timeout: 5 * time.Second, Operator: "ann@ops1",
		},
		Deferred: deferred.Options{Broker: access.Broker{URLs: []string{x.broker.URL()}, Dial: x.broker.Dial}, HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second},
		Services: services.Options{Broker: access.Broker{URLs: []string{x.broker.URL()}, Dial: x.broker.Dial}, Operator: "ann@ops1", Wait: time.Second, Quiet: 100 * time.Millisecond, Timeout: 5 * time.Second},
		Broker:   "orders@rabbit.example:5672, virtual host /shop", Archive: t.TempDir(),
	}
	if change != nil {
		change(&cfg)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	x.try(err)
	site := page.New(cfg, listener.Addr().String())
	server := &http.Server{Handler: site, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { site.Close(); _ = server.Close() })
	x.origin = "http://" + listener.Addr().String()
	tab, cancel := chromedp.NewContext(ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(x.hear))
	t.Cleanup(cancel)
	x.tab = tab
	x.run(chromedp.Navigate(site.Address()))
	return x
}

// hear notes what a page must not do: open a dialog, fail, or try what its policy forbids.
func (x *bench) hear(event any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch e := event.(type) {
	case *browser.EventJavascriptDialogOpening:
		x.faults = append(x.faults, "dialog: "+e.Message)
	case *runtime.EventExceptionThrown:
		x.faults = append(x.faults, e.ExceptionDetails.Text)
	case *browserlog.EventEntryAdded:
		if !strings.Contains(e.Entry.Text, "the server responded with a status of") { // pages about faults have one
			x.faults = append(x.faults, e.Entry.Text)
		}
	}
}

// clean reports what the browser has complained about.
func (x *bench) clean(where string) {
	x.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, fault := range x.faults {
		x.Errorf("%s: the browser says %s", where, fault)
	}
	x.faults = nil
}

func (x *bench) try(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *bench) run(actions ...chromedp.Action[chromedp.Void]) {
	x.Helper()
	x.try(chromedp.Do(x.tab, actions...))
}

// evaluate runs JavaScript in the tab. It has the same rights as somebody at the browser's own tools.
func evaluate[T any](x *bench, source string, options ...chromedp.EvaluateOption) T {
	x.Helper()
	value, err := chromedp.Run(x.tab, chromedp.Evaluate[T](source, options...))
	x.try(err)
	return value
}

// call has the browser do something to the tab.
func call[P any](x *bench, command cdp.Command[P, cdp.Empty], params P) {
	x.Helper()
	_, err := chromedp.Call(x.tab, command, params)
	x.try(err)
}

// open opens an address of the page.
func (x *bench) open(path string) {
	x.Helper()
	x.run(chromedp.Navigate(x.origin + path))
}

// click follows a link, or presses a button, by its text, and waits for the page behind it.
func (x *bench) click(text string) {
	x.Helper()
	found := chromedp.Search(fmt.Sprintf(`//a[starts-with(normalize-space(),%[1]q)]|//button[starts-with(normalize-space(),%[1]q)]`, text))
	_, err := chromedp.RunResponse(x.tab, chromedp.Click(found))
	x.try(err)
}

// first follows the first link of a table.
func (x *bench) first() {
	x.Helper()
	_, err := chromedp.RunResponse(x.tab, chromedp.Click(chromedp.CSS(`tbody a`)))
	x.try(err)
}

// fill types into a field.
func (x *bench) fill(name, text string) {
	x.Helper()
	x.run(chromedp.SetValue(chromedp.CSS(`[name="`+name+`"]`), text))
}

// shown is what a reader sees. Between two pages there is no body.
const shown = `document.body?.innerText ?? ""`

// text is what a reader sees.
func (x *bench) text() string {
	x.Helper()
	return evaluate[string](x, shown)
}

// await waits until a text is there.
func (x *bench) await(want string) {
	x.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		text, err := chromedp.Run(x.tab, chromedp.Evaluate[string](shown)) // fails while the browser goes from one site to another
		switch {
		case err == nil && strings.Contains(text, want):
			return
		case time.Now().After(deadline):
			x.Fatalf("%q does not come: %s, %v", want, text, err)
		}
	}
}

// changes waits until the page changes by itself.
func (x *bench) changes() {
	x.Helper()
	before, deadline := x.text(), time.Now().Add(time.Minute)
	for x.text() == before {
		if time.Now().After(deadline) {
			x.Fatalf("nothing changes: %s", before)
		}
	}
}

// look is how a page is shown.
type look struct {
	name   string
	width  int64
	height int64
}

var looks = []look{{"light", 1280, 560}, {"dark", 390, 844}}

func (x *bench) show(l look) {
	x.Helper()
	x.run(chromedp.EmulateViewport(l.width, l.height))
	call(x, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.name}}})
}

// judge has axe judge the page, and looks whether it is wider than its window. In the second look
// only the colours are other ones.
func (x *bench) judge(state string) {
	x.Helper()
	source, err := axe()
	x.try(err)
	const judged = `axe.run(%s).then(r => (r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join("; ")).join("\n") +
		(document.documentElement.scrollWidth > innerWidth ? " wider than the window" : "")))`
	for i, l := range looks {
		x.show(l)
		rules := `{resultTypes: ["violations"]}`
		if i > 0 {
			source, rules = "", `{runOnly: ["color-contrast"]}`
		}
		if found := evaluate[string](x, source+";"+fmt.Sprintf(judged, rules), chromedp.EvalAwaitPromise); found != "" {
			x.Errorf("%s, %s: axe finds %s", state, l.name, found)
		}
		if *everyState != "" {
			png, err := chromedp.Run(x.tab, chromedp.FullScreenshot(100))
			x.try(err)
			x.try(os.WriteFile(filepath.Join(*everyState, strings.NewReplacer("/", "-", "?", "-", " ", "-").Replace(x.Name()+"-"+state+"-"+l.name)+".png"), png, 0o600))
		}
	}
	x.clean(state)
}

// picture writes a screenshot, if there is a folder for it.
func (x *bench) picture(name string, l look) {
	x.Helper()
	if *screenshots == "" {
		return
	}
	x.show(l)
	png, err := chromedp.Run(x.tab, chromedp.CaptureScreenshot())
	x.try(err)
	x.try(os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o600))
}

// park puts messages into the error queue.
func (x *bench) park(n int, kind, queue, failure string, body string) {
	x.Helper()
	x.parkWith(nil, n, kind, queue, failure, body)
}

// parkWith puts messages with more headers into the error queue.
func (x *bench) parkWith(more amqp.Table, n int, kind, queue, failure string, body string) {
	x.Helper()
	for range n {
		id := harebus.NewMessageID()
		headers := amqp.Table{
			"PikaBus.MessageId": id, "PikaBus.MessageType": kind, "PikaBus.SourceQueue": queue, "PikaBus.ErrorRetries": int8(6), "PikaBus.ErrorDetails": failure,
			"PikaBus.ErrorId": harebus.NewMessageID(), "PikaBus.Host": "ops-7", "PikaBus.ServiceVersion": "1.8.2", "tenant": "north",
		}
		maps.Copy(headers, more)
		x.try(x.ch.PublishWithContext(x.Context(), "", "error", false, false, amqp.Publishing{
			MessageId: id, Type: kind, ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: []byte(body), Headers: headers,
		}))
	}
	_, err := x.ch.QueueDeclarePassive("error", true, false, false, false, nil)
	x.try(err)
}

// serve starts instances of a service that listens to a queue, with somebody who answers for each.
func (x *bench) serve(n int, service, version, queue string, control bool) *harebus.Setup {
	x.Helper()
	var last *harebus.Setup
	for range n {
		p, err := pulse.New(pulse.Config{Service: service, Version: version, Control: control})
		x.try(err)
		cfg := harebus.Config{URL: x.broker.URL(), Dial: x.broker.Dial, Queue: queue, QueueOptions: harebus.QueueOptions{Type: topology.Classic}, ErrorQueue: harebus.ErrorQueueConfig{Type: topology.Classic}}
		p.Use(&cfg)
		setup, err := harebus.New(cfg)
		x.try(err)
		for _, kind := range []string{"PlaceOrder", "CancelOrder"} {
			setup.HandleMessage(kind, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		}
		x.try(setup.Start(x.Context()))
		ctx, cancel := context.WithCancel(context.WithoutCancel(x.Context()))
		served := make(chan error, 1)
		go func() { served <- p.Serve(ctx, setup) }()
		x.Cleanup(func() {
			cancel()
			if err := errors.Join(<-served, setup.Close()); err != nil {
				x.Error(err)
			}
		})
		last = setup
	}
	return last
}

// pretend answers for n instances of a service that listens to a queue.
func (x *bench) pretend(n int, queue string) {
	x.Helper()
	q, err := x.ch.QueueDeclare("", false, false, true, false, nil)
	x.try(err)
	x.try(x.ch.QueueBind(q.Name, "queue."+queue, pulse.Exchange, false, nil))
	questions, err := x.ch.Consume(q.Name, "", true, false, false, false, nil)
	x.try(err)
	go func() {
		for question := range questions {
			for i := range n {
				body, err := json.Marshal(pulse.Answer{
					Instance: fmt.Sprintf("stock-7d9f8b6c5-%02d-1-c0ffee", i), Service: queue, Version: "3.1.4", Control: true, Started: time.Now().Add(-time.Hour), Clock: time.Now(),
					Queues: []pulse.Queue{{Name: queue, Concurrency: 10, Consumers: 1, InHand: int64(i % 4), All: harebus.MessageStats{Handled: 412_083, Failed: 310, Retried: 298, Parked: 12}}},
				})
				if err == nil {
					err = x.ch.Publish("", question.ReplyTo, false, false, amqp.Publishing{CorrelationId: question.CorrelationId, Body: body})
				}
				if err != nil {
					x.Error(err)
				}
			}
		}
	}()
}
