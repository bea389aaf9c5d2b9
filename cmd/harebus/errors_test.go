package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// failures starts a broker with failed messages in its error queue.
func failures(t *testing.T) (*brokertest.Broker, *amqp.Channel, string) {
	t.Helper()
	b, url := newBroker(t)
	ch := client(t, b)
	declare(t, ch, "orders", nil)
	declare(t, ch, "error", nil)
	for _, id := range []string{"m1", "m2"} {
		put(t, ch, "error", amqp.Publishing{MessageId: id, Type: "Place", ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: []byte(`{"ID":7}`), Headers: amqp.Table{
			"PikaBus.SourceQueue": "orders", "PikaBus.ErrorDetails": "no stock for 7", "PikaBus.ErrorRetries": int8(6),
		}})
	}
	put(t, ch, "error", amqp.Publishing{MessageId: "hostile\x1b[2J", Type: "T\r\n", Body: []byte("\x1b]0;title\x07"), DeliveryMode: amqp.Persistent, Headers: amqp.Table{
		"PikaBus.ErrorDetails": "\x1b[31mred\u202e\nsecond", "h\x1b[1m": "v\x1b[0m", "table": amqp.Table{"k\x1b": "\u009b1m"},
	}})
	return b, ch, url
}

// onBroker are the arguments of the command errors, with the address behind the task.
func onBroker(url string, args []string) []string {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return append([]string{"errors", "-url", url}, args...)
	}
	return append([]string{"errors", args[0], "-url", url}, args[1:]...)
}

// TestErrors shows messages, archives one, retries the others, and brings the archived one back.
func TestErrors(t *testing.T) {
	t.Parallel()
	b, _, url := failures(t)
	dir := t.TempDir()
	archive, export := filepath.Join(dir, "archive"), filepath.Join(dir, "export")
	for _, step := range []struct {
		name     string
		args     []string
		code     int
		out, err string // patterns
	}{
		{"groups", nil, exitOK, `(?s)^3 failed messages in error, as of .*\n[0-9a-f]{8}  2 +Place +orders +unknown +no stock for #\n`, ""},
		{"json", []string{"groups", "-json", "-type", "Place"}, exitOK, `^\{"group":"[0-9a-f]{8}","count":2,"type":"Place","queue":"orders","kind":"","error":"no stock for #"\}\n$`, ""},
		{"list", []string{"list", "-source", "orders"}, exitOK, `(?s)^ID .*\n[0-9a-f]{32}  [0-9a-f]{8}  Place  orders  unknown  6  +8  +m1\n.*m2\n$`, ""},
		{"show", []string{"show", "m1"}, exitOK, `(?s)^id .*message +m1\n.*error\n    no stock for 7\nheaders\n.*body \(8 bytes\)\n    \{"ID":7\}\n$`, ""},
		{"show json", []string{"show", "-json", "m1"}, exitOK, `"failure":"no stock for 7","attempts":6,.*"body":\{"ID":7\}\}\n$`, ""},
		{"show nothing", []string{"show", "absent"}, exitFailed, `^$`, `no message has the id "absent"`},
		{"list nothing", []string{"list", "absent"}, exitFailed, `^$`, `no message among 3 has the id "absent"`},
		{"list one as json", []string{"list", "-json", "m1"}, exitOK, `^\{.*"m1".*\}\n$`, ""},
		{"list nothing as json", []string{"list", "-json", "absent"}, exitFailed, `^$`, `no message among 3 has the id "absent"`},
		{"export nothing", []string{"export", "absent"}, exitFailed, `^$`, `no message has the id "absent"`},
		{"export no such type", []string{"export", "-type", "None"}, exitOK, `^$`, "exported 0 messages"},
		{"no number", []string{"retry", "-type", "Place"}, exitFailed, `retry: 2 of 3 messages → the queues that they came from\n$`, "give -yes 2"},
		{"other number", []string{"retry", "-type", "Place", "-yes", "3"}, exitFailed, `2 of 3`, "2 messages match, and -yes says 3; nothing was done"},
		{"unknown id", []string{"retry", "-yes", "1", "absent"}, exitFailed, `^$`, `no message among 3 has the id "absent"`},
		{"dry", []string{"retry", "-dry-run"}, exitOK, `retry: 3 of 3`, ""},
		{"export", []string{"export", "-type", "Place"}, exitOK, `"properties":"`, "exported 2 messages"},
		{"discard", []string{"discard", "-archive", archive, "-yes", "1", "m2"}, exitOK, `done 1, left 0, not there any more 0, not tried 0, perhaps twice 0\n$`, "journal"},
		{"absent", []string{"redirect", "-to", "absent", "-yes", "1", "m1"}, exitFailed, `left [0-9a-f]{32}: there is no queue "absent"\ndone 0, left 1`, ""},
		{"retry", []string{"retry", "-yes", "1", "m1"}, exitOK, `done 1, left 0`, ""},
		{"restore dry", []string{"restore", "-dry-run", archive}, exitOK, `^restore: 1 messages → queue error\n$`, ""},
		{"restore unasked", []string{"restore", archive}, exitFailed, `^restore: 1 messages → queue error\n$`, "give -yes 1"},
		{"restore", []string{"restore", "-yes", "1", archive}, exitOK, `put 1 into the error queue, 0 were there already\n$`, ""},
		{"restore again", []string{"import", "-yes", "1", archive}, exitOK, `put 0 into the error queue, 1 were there already\n$`, ""},
		{"edit of two", []string{"edit", "-body", "-", "-to", "other", "-yes", "2"}, exitUsage, `^$`, "takes 1 argument"},
		{"edit elsewhere", []string{"edit", "-body", "-", "-to", "other", "-dry-run", "m2"}, exitOK, `edit: 1 of 2 messages → queue other\n      \{\n    -   "ID": 7\n    \+   "ID": 8\n      \}\n8 bytes become 8\n$`, ""},
		{"edit", []string{"edit", "-body", "-", "-yes", "1", "m2"}, exitOK, `done 1, left 0`, ""},
		{"none", []string{"retry", "-type", "Place"}, exitOK, `retry: 0 of 1`, ""},
		{"none, and a number", []string{"retry", "-type", "Place", "-yes", "2"}, exitFailed, `retry: 0 of 1`, "0 messages match, and -yes says 2"},
		{"none, as said", []string{"retry", "-type", "Place", "-yes", "0"}, exitOK, `retry: 0 of 1`, ""},
		{"import nothing", []string{"import", filepath.Join(dir, "absent")}, exitFailed, `^$`, "no such file"},
		{"no queue", []string{"-error-queue", "none"}, exitFailed, `^$`, "404"},
	} {
		r := execute(t, `{"ID":8}`, onBroker(url, step.args)...)
		r.check(t, step.code, step.err)
		if !regexp.MustCompile(step.out).MatchString(r.out) {
			t.Errorf("%s printed\n%swanted %s", step.name, r.out, step.out)
		}
		if step.name == "export" {
			if err := os.WriteFile(export, []byte(r.out), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if moved := b.Messages("orders"); len(moved) != 2 || moved[0].MessageId != "m1" || string(moved[1].Body) != `{"ID":8}` {
		t.Errorf("moved are %+v", moved)
	}
	execute(t, "", "errors", "import", "-url", url, "-yes", "2", export).check(t, exitOK, "")
	if left := b.Messages("error"); len(left) != 3 {
		t.Errorf("%d messages are in the error queue", len(left))
	}
}

// TestErrorsEditOfTwo: edit changes one message. That several match is said before anything is asked or written.
func TestErrorsEditOfTwo(t *testing.T) {
	t.Parallel()
	b, ch, url := failures(t)
	put(t, ch, "error", amqp.Publishing{MessageId: "m1", Body: []byte("{}")})
	r := execute(t, "{}", onBroker(url, []string{"edit", "-body", "-", "-yes", "2", "m1"})...)
	r.check(t, exitFailed, "2 messages match; edit changes one")
	if strings.Contains(r.err, "journal") || len(b.Messages("error")) != 4 {
		t.Errorf("stderr %q", r.err)
	}
}

// TestErrorsEditRefused: a body that would not be accepted is refused before anything is asked or written.
func TestErrorsEditRefused(t *testing.T) {
	t.Parallel()
	b, _, url := failures(t)
	r := execute(t, `{"ID":`, onBroker(url, []string{"edit", "-body", "-", "-yes", "1", "m1"})...)
	r.check(t, exitFailed, "the new body is not JSON, as its content type says: unexpected end of JSON input at line 1, character 6; nothing was done")
	if _, audited := b.Queue("harebus.audit"); audited || strings.Contains(r.err, "journal") || len(b.Messages("error")) != 3 {
		t.Errorf("stderr %q", r.err)
	}
	r = execute(t, `{"ID":7}`, onBroker(url, []string{"edit", "-body", "-", "-dry-run", "m1"})...)
	if r.check(t, exitOK, ""); !strings.Contains(r.out, "8 bytes become 8: it is the same body\n") {
		t.Errorf("of a body that is the same it prints %s", r.out)
	}
}

// TestErrorsAndTerminals: nothing that a message holds reaches a terminal as a control character.
func TestErrorsAndTerminals(t *testing.T) {
	t.Parallel()
	_, _, url := failures(t)
	for _, task := range [][]string{{"groups"}, {"list"}, {"show", "hostile\x1b[2J"}, {"retry"}, {"list", "-json"}, {"show", "-json", "hostile\x1b[2J"}, {"export"}} {
		r := execute(t, "", onBroker(url, task)...)
		if strings.ContainsFunc(r.out+r.err, func(c rune) bool { return c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 || c == 0x202e }) {
			t.Errorf("%v printed %q%q", task, r.out, r.err)
		}
		if strings.Contains(r.out, `host `) {
			t.Errorf("%v printed a host that is not known: %s", task, r.out)
		}
	}
}

// TestErrorsMisuse: what is wrong with a command line is said in one line.
func TestErrorsMisuse(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"want one of":                         {"sho"},
		"show takes 1 argument":               {"show"},
		"redirect needs -to":                  {"redirect"},
		"-to is not for list":                 {"list", "-to", "q"},
		"discard needs -archive":              {"discard"},
		"restore needs one file":              {"restore"},
		"edit needs -body":                    {"edit", "id"},
		"out of range":                        {"retry", "-rate", "0"},
		"want name=value":                     {"list", "-header", "x"},
		"is there twice":                      {"list", "-header", "x=1", "-header", "x=2"},
		"import takes 1 argument":             {"import"},
		"journal takes 1 argument":            {"journal"},
		"puts back all messages of the file":  {"import", "-type", "T", "file"},
		"-journal and -refusals are not for":  {"restore", "-journal", "j", "file"},
		`"-yes" has to stand before the`:      {"edit", "id", "-yes", "1"},
		"flag provided but not defined":       {"-nonsense"},
		"-archive or -archive-queue: nothing": {"discard", "-archive", "a", "-archive-queue", "q"},
		"-source is empty":                    {"retry", "-source", "", "-yes", "3"},
		"-error-queue is empty":               {"-error-queue", ""},
		"-to is empty":                        {"redirect", "-to", ""},
		"-newer is 0":                         {"retry", "-newer", "0s", "-yes", "3"},
		"-older is 0":                         {"retry", "-older", "0", "-yes", "3"},
	} {
		r := execute(t, "", append([]string{"errors"}, args...)...)
		r.check(t, exitUsage, name)
		if r.out != "" || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: stdout %q, stderr %q", args, r.out, r.err)
		}
	}
}

// TestErrorsTest: the command writes a Go test. That it compiles and runs is tested beside the package.
func TestErrorsTest(t *testing.T) {
	t.Parallel()
	_, _, url := failures(t)
	r := execute(t, "", "errors", "test", "-url", url, "-package", "orders", "m1")
	r.check(t, exitOK, "")
	if !strings.Contains(r.out, "package orders\n") || !strings.Contains(r.out, `"PikaBus.ErrorRetries": int8(5),`) {
		t.Errorf("printed\n%s", r.out)
	}
}

// TestErrorsOfStreams: what was read from a stream is not published there again, where every reader would get it. It goes to a queue
// that is named, and back to that when it fails there, too; what was replayed into a queue goes back into that.
func TestErrorsOfStreams(t *testing.T) {
	t.Parallel()
	b, ch, url := failures(t)
	declare(t, ch, "events", amqp.Table{"x-queue-type": "stream"})
	of := func(id, source string, h amqp.Table) {
		h["PikaBus.SourceQueue"], h["PikaBus.StreamOffset"] = source, int64(4711)
		put(t, ch, "error", amqp.Publishing{MessageId: id, Type: "Streamed", Body: []byte(`{}`), Headers: h})
	}
	of("s1", "events", amqp.Table{})
	of("s2", "orders", amqp.Table{"PikaBus.Replayed": "run"})
	r := execute(t, "", onBroker(url, []string{"retry", "-type", "Streamed", "-yes", "2"})...)
	r.check(t, exitFailed, "")
	if !strings.Contains(r.out, `it was read from the stream "events" at offset 4711`) || !strings.Contains(r.out, "-to QUEUE") || !strings.Contains(r.out, "done 1, left 1") {
		t.Errorf("printed %s", r.out)
	}
	execute(t, "", onBroker(url, []string{"redirect", "-to", "orders", "-yes", "1", "s1"})...).check(t, exitOK, "")
	moved := b.Messages("orders")
	if len(moved) != 2 || moved[0].Headers["PikaBus.StreamOffset"] != int64(4711) || moved[1].MessageId != "s1" || moved[1].Headers["PikaBus.StreamOffset"] != nil {
		t.Errorf("in the queue: %+v", moved)
	}
	if n := len(b.Messages("events")); n != 0 {
		t.Errorf("%d in the stream", n)
	}
}
