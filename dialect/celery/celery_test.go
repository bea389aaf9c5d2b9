package celery_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/celery"
	"github.com/harebus/harebus/internal/dialecttest"
)

var types = dialect.Types{"PlaceOrder": "orders.place", "MoveOrder": "orders.move", "Clean": "orders.clean"}

// peer takes the whole message as the argument of orders.place.
func peer(results bool) *celery.Dialect {
	return celery.New(celery.Config{Types: types, Results: results, Parameters: map[string][]string{"MoveOrder": {"id", "to="}, "Clean": {}}})
}

// byName takes the fields of the message as the arguments of orders.place.
func byName() *celery.Dialect {
	return celery.New(celery.Config{Types: types, Results: true, Parameters: map[string][]string{"PlaceOrder": {"order"}}})
}

const client = "07b3918d-8aee-37c4-b5af-714ef65cf973"

func uuid(n int) string { return fmt.Sprintf("8f2c3a34-0000-4000-8000-%012d", n) }

// TestGoldens: what Celery writes is read, and written again as it was.
func TestGoldens(t *testing.T) {
	t.Parallel()
	const noQueue = "reply_to of a task is the id of a client, and a queue only if the client uses the result backend rpc://; if it does, set Results of the dialect"
	differs := []string{
		"mandatory",             // harebus hears of a message that no queue takes
		"properties.MessageID",  // for tools that know nothing of Celery
		"properties.ReplyTo",    // only of what can be answered
		"headers.lang",          // it is not Python
		"headers.argsrepr",      // the payload does not belong into a header
		"headers.kwargsrepr",    // likewise
		"headers.origin",        // the queue of the sender, if it has one
		"headers.ignore_result", // nobody waits for the result of what is sent
	}
	to := &dialect.Destination{Name: "celery-cap"}
	dialecttest.Goldens(t, peer(false), []dialecttest.Case{
		{
			Golden: "celery-eta", To: to, Differs: differs, Body: `{"id": 8}`,
			Want: dialect.Envelope{
				ID: uuid(2), ConversationID: uuid(2), Type: "PlaceOrder", Intent: "command", ContentType: "application/json",
				NoReply: text(noQueue), NotBefore: time.Date(2026, 11, 28, 7, 25, 56, 589_670_000, time.UTC),
			},
		},
		{
			Golden: "celery-protocol-1", Body: `{"id": 7}`, // only read
			Want: dialect.Envelope{
				ID: uuid(4), Type: "PlaceOrder", Intent: "command", ContentType: "application/json", NoReply: text(noQueue),
			},
		},
		{
			Golden: "celery-typed", Body: `{"id": 7, "at": "2026-11-28T07:25:56Z", "price": "12.50", "of": "` + uuid(5) + `", "raw": "w7w="}`, // only read
			Want: dialect.Envelope{
				ID: uuid(5), ConversationID: uuid(5), Type: "PlaceOrder", Intent: "command", ContentType: "application/json", NoReply: text(noQueue),
			},
		},
		{
			Golden: "celery-gzip", To: to, Body: `{"id": 9}`,
			Differs: append(differs, "headers.compression", "body", "body."), // harebus compresses nothing for a peer
			Want: dialect.Envelope{
				ID: uuid(3), ConversationID: uuid(3), Type: "PlaceOrder", Intent: "command", ContentType: "application/json", NoReply: text(noQueue),
			},
		},
	})
	without := slices.Concat(differs[:2], differs[3:len(differs)-1], []string{"properties.CorrelationID", "headers.id"}) // both are the id of the request
	dialecttest.Goldens(t, byName(), []dialecttest.Case{{
		Golden: "celery-task", To: &dialect.Destination{Kind: dialect.Request, Name: "celery-cap"}, Differs: without, Body: `{"order": {"id": 7}, "b": "x"}`,
		Want: dialect.Envelope{
			ID: uuid(1), ConversationID: uuid(1), RequestID: uuid(1), ReplyTo: client, Type: "PlaceOrder", Intent: "command", ContentType: "application/json",
		},
		Written: func(e *dialect.Envelope) { e.RequestID = "another" },
	}})
}

type text string

func (t text) Error() string { return string(t) }

// TestArguments: the arguments of a task are a message, and a message is the arguments of a task.
func TestArguments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, args, want, again string }{
		{"orders.place", `[{"id": 7}], {}`, `{"id": 7}`, ""},
		{"orders.place", `[], {"order": {"id": 7}}`, `{"id": 7}`, `[{"id": 7}], {}`},
		{"orders.place", `["a,[\"]{:}"], {}`, `"a,[\"]{:}"`, ""},
		{"orders.place", `[7, 8], {}`, "it has 2 arguments", ""},
		{"orders.place", `[], {}`, "it has 0 arguments", ""},
		{"orders.place", `[null], {}`, "its argument is null", ""},
		{"orders.move", `[7, "x"], {}`, `{"id":7,"to":"x"}`, ""},
		{"orders.move", `[7], {}`, `{"id":7}`, ""},
		{"orders.move", `[7], {"why": {"a": [1, 2]}}`, `{"id":7,"why":{"a": [1, 2]}}`, ""},
		{"orders.move", `[], {"to": "x", "id": 7}`, `{"to":"x","id":7}`, `[7, "x"], {}`},
		{"orders.move", `[7, "x", 8], {}`, "3 positional arguments", ""},
		{"orders.move", `[7], {"i\u0064": 8}`, "twice", ""},
		{"orders.move", `[], {"to": "x"}`, `lacks the argument "id"`, ""},
		{"orders.clean", `[], {}`, `{}`, ""},
		{"orders.clean", `[], {"days": 7}`, `{"days":7}`, ""},
		{"orders.clean", `[7], {}`, "1 positional arguments", ""},
		{"orders.strange", `[7], {"a": 1}`, `[[7], {"a": 1}]`, "-"},
	} {
		w := celery.New(celery.Config{}).Sample()
		w.Headers["task"] = c.name
		const rest = `, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`
		w.Body = []byte("[" + c.args + rest)
		e, is, err := peer(false).Read(&w)
		if !is {
			t.Fatalf("%s %s is not read", c.name, c.args)
		}
		if err != nil {
			says(t, err, c.want)
			continue
		}
		if string(e.Body) != c.want {
			t.Errorf("%s %s is %s, want %s", c.name, c.args, e.Body, c.want)
		}
		if c.again == "-" {
			continue
		}
		out, err := peer(false).Write(e, dialect.Destination{Name: "orders"})
		if want := "[" + strings.TrimSuffix(c.again, "-") + rest; c.again == "" && string(out.Body) != string(w.Body) || c.again != "" && string(out.Body) != want || err != nil {
			t.Errorf("%s %s was written again as %s, %v", c.name, c.args, out.Body, err)
		}
	}
	gap := celery.New(celery.Config{Types: types, Parameters: map[string][]string{"MoveOrder": {"a=", "b="}}})
	out, err := gap.Write(&dialect.Envelope{ID: "7", Type: "MoveOrder", Body: []byte(`{"b": 1}`)}, dialect.Destination{Name: "q"})
	if err != nil || !strings.HasPrefix(string(out.Body), `[[], {"b": 1}, `) {
		t.Errorf("an argument behind a gap is written as %s, %v", out.Body, err)
	}
}

// TestUnread: what a service cannot do as a worker is parked, with the reason.
func TestUnread(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*dialect.Wire)
		says   string
	}{
		"pickle":     {func(w *dialect.Wire) { w.Properties.ContentType = "application/x-python-serialize" }, "task_serializer"},
		"brotli":     {func(w *dialect.Wire) { w.Headers["compression"] = "application/x-brotli" }, "gzip and bzip2 only"},
		"torn":       {func(w *dialect.Wire) { w.Headers["compression"] = "application/x-gzip" }, "cannot be decompressed"},
		"chain":      {func(w *dialect.Wire) { w.Body = []byte(`[[7], {}, {"chain": [{"task": "orders.pack"}]}]`) }, `it has "chain"`},
		"callback":   {func(w *dialect.Wire) { w.Body = []byte(`[[7], {}, {"callbacks": [{"task": "x"}]}]`) }, `it has "callbacks"`},
		"protocol 1": {func(w *dialect.Wire) { w.Body = []byte(`{"task": "orders.place", "args": [7], "kwargs": {}}`) }, "protocol 2"},
		"eta":        {func(w *dialect.Wire) { w.Headers["eta"] = "tomorrow" }, `eta is "tomorrow"`},
		"expires":    {func(w *dialect.Wire) { w.Headers["expires"] = int32(60) }, `expires is "60"`},
		"no id":      {func(w *dialect.Wire) { delete(w.Headers, "id") }, "task or id is empty"},
		"no text":    {func(w *dialect.Wire) { w.Headers["task"] = int32(7) }, "task or id is empty"},
		"no JSON":    {func(w *dialect.Wire) { w.Body = []byte(`[[7], {}, {}`) }, "protocol 2"},
	} {
		w := peer(false).Sample()
		c.change(&w)
		_, is, err := peer(false).Read(&w)
		if !is {
			t.Errorf("%s: it is not read", name)
		}
		says(t, err, c.says)
	}
	bomb := dialecttest.Load(t, "celery-bomb")
	_, _, err := peer(false).Read(&bomb)
	says(t, err, "more than 16777216 bytes")
}

// TestTimes: eta and expires are read as Python writes them.
func TestTimes(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"2026-11-28T07:25:56.5+00:00", "2026-11-28T08:25:56.5+01:00", "2026-11-28T07:25:56.5", "2026-11-28T07:25:56.5Z"} {
		w := peer(false).Sample()
		w.Headers["eta"], w.Headers["expires"] = s, s
		e, _, err := peer(false).Read(&w)
		if want := time.Date(2026, 11, 28, 7, 25, 56, 500_000_000, time.UTC); err != nil || !e.NotBefore.Equal(want) || !e.Expires.Equal(want) {
			t.Errorf("%s is %v and %v, %v", s, e.NotBefore, e.Expires, err)
		}
	}
}

// TestResults: a reply is the result of a task, and the result of a worker is the reply to a request.
func TestResults(t *testing.T) {
	t.Parallel()
	d := byName()
	w := dialecttest.Load(t, "celery-task")
	asked, _, err := d.Read(&w)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		e    dialect.Envelope
		body string
	}{
		"result":  {dialect.Envelope{Body: []byte(`{"done": true}`)}, `{"task_id":"` + uuid(1) + `","status":"SUCCESS","result":{"done":true},"traceback":null,"children":[]}`},
		"failure": {dialect.Envelope{Fault: &dialect.Fault{Reason: "failed", Text: "no stock"}}, `{"task_id":"` + uuid(1) + `","status":"FAILURE","result":{"exc_type":"Exception","exc_message":["no stock"],"exc_module":"builtins"},"traceback":null,"children":[]}`},
	} {
		c.e.RequestID = asked.RequestID
		out, err := d.Write(&c.e, dialect.Destination{Kind: dialect.Reply, Name: asked.ReplyTo, Answers: asked})
		if err != nil || string(out.Body) != c.body || out.Properties.CorrelationID != uuid(1) || out.RoutingKey != client || len(out.Headers) > 0 {
			t.Errorf("the %s is %+v %s, %v", name, out, out.Body, err)
		}
		back, is, err := d.Read(&out)
		if err != nil || !is || back.RequestID != uuid(1) || (back.Fault != nil) != (c.e.Fault != nil) {
			t.Fatalf("the %s is read as %+v, %v", name, back, err)
		}
		if back.Fault != nil && (back.Fault.Text != "no stock" || back.Fault.Reason != "Exception") {
			t.Errorf("the failure is %+v", back.Fault)
		}
		if _, is, _ := peer(false).Read(&out); is {
			t.Error("a result is read without Results")
		}
	}
	w.Headers["ignore_result"] = true
	if e, _, err := d.Read(&w); err != nil || e.ReplyTo != "" || e.RequestID != "" || e.NoReply == nil {
		t.Errorf("a task whose result is ignored would be answered: %+v, %v", e, err)
	}
	begun := dialect.Wire{
		Properties: dialect.Properties{ContentType: "application/json", CorrelationID: "7"},
		Body:       []byte(`{"task_id": "7", "status": "RETRY", "result": {"exc_type": "ValueError", "exc_message": ["x"]}, "traceback": null}`),
	}
	if e, is, err := d.Read(&begun); err != nil || !is || e.RequestID == "7" {
		t.Errorf("a task that is tried again ends the request: %+v, %v", e, err)
	}
}

// TestSameName: a task whose name is also the wire name of its type is one of that type.
func TestSameName(t *testing.T) {
	t.Parallel()
	d := celery.New(celery.Config{Types: dialect.Types{"orders.place": "orders.place"}})
	for _, golden := range []string{"celery-eta", "celery-protocol-1"} {
		w := dialecttest.Load(t, golden)
		if e, _, err := d.Read(&w); err != nil || e.Type != "orders.place" || !strings.HasPrefix(string(e.Body), `{"id"`) {
			t.Errorf("%s: %s of %s, %v", golden, e.Body, e.Type, err)
		}
	}
}

// TestHostile: what strangers may write is read as something whole, or refused; an address that is no queue is not answered.
func TestHostile(t *testing.T) {
	t.Parallel()
	m := dialecttest.Mutations{
		Goldens: []string{"celery-task", "celery-eta", "celery-gzip", "celery-protocol-1", "celery-typed"}, Own: []string{"PlaceOrder", "MoveOrder", "Clean"},
		Addresses: []string{"properties.ReplyTo"}, Hostile: []string{"%s", "queue/error", "amqp://other/%s", "err%6Fr"},
	}
	m.Run(t, byName())
	t.Run("no results", func(t *testing.T) {
		t.Parallel()
		m.Hostile = append(m.Hostile, client, "error")
		m.Run(t, peer(false))
	})
}

// TestCopies: a task that is retried, parked, stored and moved stays Celery's.
func TestCopies(t *testing.T) {
	t.Parallel()
	dialecttest.Copies(t, byName(), "celery-task")
	dialecttest.Copies(t, peer(false), "celery-gzip", "celery-protocol-1", "celery-typed")
}

// FuzzRead reads what nobody would write.
func FuzzRead(f *testing.F) {
	dialecttest.Fuzz(f, byName(), []string{"celery-task", "celery-eta", "celery-gzip", "celery-protocol-1", "celery-typed"},
		[]string{"task", "id", "eta", "expires", "compression", "root_id", "parent_id", "lang"})
}

// TestRefused: what no worker could run is not sent.
func TestRefused(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]celery.Config{
		"twice":                {Types: dialect.Types{"A": "X", "B": "X"}},
		"not in Types":         {Parameters: map[string][]string{"A": {"x"}}},
		"Python does not":      {Types: types, Parameters: map[string][]string{"Clean": {"x=", "y"}}},
		`"x" twice`:            {Types: types, Parameters: map[string][]string{"Clean": {"x", "x="}}},
		"a name that is empty": {Types: types, Parameters: map[string][]string{"Clean": {"="}}},
	} {
		says(t, celery.New(cfg).Validate(), want)
	}
	for want, e := range map[string]dialect.Envelope{
		"not in the Types":     {Type: "Unknown", Body: []byte("{}")},
		"is JSON":              {Type: "PlaceOrder", Body: []byte("7 8")},
		"is no object":         {Type: "MoveOrder", Body: []byte("7")},
		`lacks the argument`:   {Type: "MoveOrder", Body: []byte("{}")},
		"a task is plain JSON": {Type: "PlaceOrder", Body: []byte("{}"), ContentEncoding: "gzip"},
	} {
		_, err := peer(true).Write(&e, dialect.Destination{Name: "q"})
		says(t, err, want)
	}
	_, err := peer(false).Write(&dialect.Envelope{Type: "PlaceOrder", Body: []byte("{}")}, dialect.Destination{Kind: dialect.Request, Name: "q"})
	says(t, err, "set Results")
	_, err = peer(true).Write(&dialect.Envelope{Body: []byte("x")}, dialect.Destination{Kind: dialect.Reply, Name: "q", Answers: &dialect.Envelope{}})
	says(t, err, "result of a task is JSON")
}

// TestTopology: the exchange is what Celery has for a queue.
func TestTopology(t *testing.T) {
	t.Parallel()
	got, err := json.Marshal(peer(false).Topology("orders", "PlaceOrder"))
	if err != nil || !strings.Contains(string(got), `"orders"`) {
		t.Errorf("%s, %v", got, err)
	}
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

// TestReadCosts: reading Celery's tasks costs little more than reading messages of harebus.
func TestReadCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	dialecttest.Costs(t, peer(false), "celery-eta", "shadow", "group", "group_index", "retries", "timelimit", "argsrepr", "kwargsrepr", "origin")
}

// BenchmarkRead compares with reading a message of harebus.
func BenchmarkRead(b *testing.B) {
	dialecttest.Times(b, peer(false), "celery-eta", "shadow", "group", "group_index", "retries", "timelimit", "argsrepr", "kwargsrepr", "origin")
}
