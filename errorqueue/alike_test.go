package errorqueue_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/errorqueue"
)

// TestCopiesForTwoServices: two services have parked one event, without ids of the parkings. Each copy is known by its
// source, however that is said, and goes back to its own service.
func TestCopiesForTwoServices(t *testing.T) {
	dead := func(queue string) amqp.Table {
		return amqp.Table{"x-death": []any{amqp.Table{"queue": queue, "reason": "delivery_limit", "time": time.Unix(1e9, 0), "count": int64(1)}}}
	}
	from := func(queue string) amqp.Table { return amqp.Table{"PikaBus.SourceQueue": queue} }
	for name, headers := range map[string]func(string) amqp.Table{"by PikaBus": from, "by the broker": dead} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(x *bench) {
				x.declare("billing", nil)
				for _, queue := range []string{"orders", "billing"} {
					x.put("error", amqp.Publishing{MessageId: "m", Body: []byte("{}"), Headers: headers(queue)})
				}
				x.with(func(q *errorqueue.Queue) {
					found := x.look(q, errorqueue.Filter{Queue: "billing"})
					again := x.look(q, errorqueue.Filter{IDs: []string{found.Messages[0].ID()}})
					if len(again.Messages) != 1 {
						t.Errorf("%d messages have the id", len(again.Messages))
					}
					report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{})
					x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
				})
				x.expect("billing", "m")
				x.expect("orders", "")
			})
		})
	}
}

// TestRestoreOfMessagesThatLookAlike: as many come back as were discarded. A repetition of the import adds none, and one
// that goes on after an interruption adds those that are missing.
func TestRestoreOfMessagesThatLookAlike(t *testing.T) {
	bubble(t, func(x *bench) {
		for range 10 {
			x.put("error", amqp.Publishing{Body: []byte("{}")})
		}
		path := filepath.Join(x.TempDir(), "archive")
		x.with(func(q *errorqueue.Queue) {
			file, err := os.Create(path)
			x.try(err)
			defer file.Close()
			report, err := q.Discard(x.Context(), x.look(q, errorqueue.Filter{}).Messages, file, errorqueue.Options{Rate: -1})
			x.reports(report, err, "done 10, left 0, gone 0, remaining 0, twice 0")
			for i, want := range []string{"put 10, there 0", "put 0, there 10", "put 3, there 7"} {
				if i == 2 {
					for range 3 {
						_, _, err := x.ch.Get("error", true)
						x.try(err)
					}
				}
				_, err := file.Seek(0, 0)
				x.try(err)
				done, there, err := q.Import(x.Context(), file, errorqueue.Options{Rate: -1})
				if got := fmt.Sprintf("put %d, there %d", done, there); got != want || err != nil {
					t.Errorf("import %d: %s, %v; want %s", i, got, err, want)
				}
			}
		})
		if n := len(x.broker.Messages("error")); n != 10 {
			t.Errorf("the error queue has %d", n)
		}
	})
}

// TestJournalOfAnEndedRun: a message that was put back after the end of a run is not one that the run has moved.
func TestJournalOfAnEndedRun(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 1)
		o := errorqueue.Options{Journal: filepath.Join(x.TempDir(), "journal")}
		x.with(func(q *errorqueue.Queue) {
			for range 2 {
				file := x.archive("")
				report, err := q.Discard(x.Context(), x.look(q, errorqueue.Filter{}).Messages, file, o)
				x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
				if n, _, err := q.Import(x.Context(), file, errorqueue.Options{}); n != 1 || err != nil {
					t.Errorf("the message is in no archive and in no queue: %d, %v", n, err)
				}
			}
		})
		x.expect("error", "1")
	})
}

// archive is a file that has some text and to which is added.
func (x *bench) archive(text string) *os.File {
	x.Helper()
	file, err := os.OpenFile(filepath.Join(x.TempDir(), "archive"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	x.try(err)
	x.Cleanup(func() { _ = file.Close() })
	_, err = file.WriteString(text)
	x.try(err)
	_, err = file.Seek(0, 0)
	x.try(err)
	return file
}

// TestArchiveCutOff: an archive whose last line is cut off, at any byte, takes further messages, and all of them come back.
// A text that is no record is kept, and what follows it has a line of its own.
func TestArchiveCutOff(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		x.with(func(q *errorqueue.Queue) {
			var export bytes.Buffer
			_, err := q.Export(x.Context(), errorqueue.Filter{}, &export)
			x.try(err)
			record, _, _ := strings.Cut(export.String(), "\n")
			for at := range len(record) {
				x.archived(q, "\n"+record[:at], "put 2, there 0, fault false")
			}
			x.archived(q, "a list by hand", "put 2, there 0, fault true")
			x.archived(q, strings.Repeat("x", 200_000), "put 2, there 0, fault true")
			x.archived(q, strings.Repeat("x", 200_000)+"\n"+record[:10], "put 2, there 0, fault true")
			x.archived(q, record, "put 2, there 1, fault false") // a line that was written but for its end
		})
	})
}

// archived discards everything into an archive with a text, and imports that.
func (x *bench) archived(q *errorqueue.Queue, text, want string) {
	x.Helper()
	file := x.archive(text)
	report, err := q.Discard(x.Context(), x.look(q, errorqueue.Filter{}).Messages, file, errorqueue.Options{Rate: -1})
	x.reports(report, err, "done 2, left 0, gone 0, remaining 0, twice 0")
	_, err = file.Seek(0, 0)
	x.try(err)
	done, there, err := q.Import(x.Context(), file, errorqueue.Options{Rate: -1})
	if got := fmt.Sprintf("put %d, there %d, fault %t", done, there, err != nil); got != want {
		x.Errorf("after %q: %s; want %s", text[:min(len(text), 300)], got, want)
	}
}

// TestJournalOfAnEdit: the journal of an edit is not taken for an edit with another body.
func TestJournalOfAnEdit(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		o := errorqueue.Options{Journal: filepath.Join(x.TempDir(), "journal")}
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{}).Messages
			report, err := q.Edit(x.Context(), found[0], []byte(`{"ID":7}`), o)
			x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
			if _, err := q.Edit(x.Context(), found[1], []byte(`{"ID":8}`), o); err == nil || !strings.Contains(err.Error(), "another body") {
				t.Errorf("with the journal of another body: %v", err)
			}
			report, err = q.Edit(x.Context(), found[1], []byte(`{"ID":7}`), o)
			x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
		})
		x.expect("error", "")
	})
}

// TestParkedInNoYear: a time that JSON does not have is unknown. A look, an export and an archive go on.
func TestParkedInNoYear(t *testing.T) {
	bubble(t, func(x *bench) {
		at := time.Unix(1_700_000_000_000, 0) // somebody has written milliseconds
		x.put("error", amqp.Publishing{MessageId: "1", Timestamp: at}, parked("2", "Place", "no", amqp.Table{"PikaBus.ErrorId": "ffffffff-ffff-7fff-8fff-ffffffffffff"}),
			amqp.Publishing{MessageId: "3", Headers: amqp.Table{"x-death": []any{amqp.Table{"queue": "orders", "time": at}}}})
		x.with(func(q *errorqueue.Queue) {
			var out bytes.Buffer
			if n, err := q.Export(x.Context(), errorqueue.Filter{}, &out); n != 3 || err != nil {
				t.Errorf("exported %d, %v", n, err)
			}
			found := x.look(q, errorqueue.Filter{})
			for _, g := range found.Groups() {
				if _, err := json.Marshal(g.Last); err != nil || !g.First.IsZero() {
					t.Errorf("group from %v to %v: %v", g.First, g.Last, err)
				}
			}
			report, err := q.Discard(x.Context(), found.Messages, x.archive(""), errorqueue.Options{})
			x.reports(report, err, "done 3, left 0, gone 0, remaining 0, twice 0")
		})
	})
}

// TestImportOfWhatIsRefused: a line that holds no message and a message that the broker refuses are named, and the others
// are put into the queue. The audit trail has the numbers.
func TestImportOfWhatIsRefused(t *testing.T) {
	bubble(t, func(x *bench) {
		x.declare("failed", amqp.Table{"x-max-length": int32(2), "x-overflow": "reject-publish"})
		x.park(1, 4)
		x.with(func(q *errorqueue.Queue) {
			var out bytes.Buffer
			_, err := q.Export(x.Context(), errorqueue.Filter{}, &out)
			x.try(err)
			file := "\n\nnonsense\n" + out.String()
			n, err := errorqueue.Records(strings.NewReader(file))
			if n != 4 || err == nil || !strings.Contains(err.Error(), "line 3: it is no message") {
				t.Errorf("the file has %d, %v", n, err)
			}
			x.with(func(q *errorqueue.Queue) {
				done, there, err := q.Import(x.Context(), strings.NewReader(file), errorqueue.Options{})
				if done != 2 || there != 0 || err == nil {
					t.Fatalf("put %d, there %d, %v", done, there, err)
				}
				for _, want := range []string{"line 3: it is no message", `line 6: the broker does not take it into queue "failed"`, "line 7:"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v, want %q", err, want)
					}
				}
			}, func(c *errorqueue.Config) { c.Name = "failed" })
		})
		x.expect("failed", "1 2")
		trail := x.broker.Messages(errorqueue.AuditQueue)
		if end := string(trail[len(trail)-1].Body); !strings.Contains(end, `"selected":4,"done":2,"left":2}`) {
			t.Errorf("the audit trail has %s", end)
		}
	})
}

// TestRateAfterAStall: time in which the broker took nothing is not made up for.
func TestRateAfterAStall(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 60)
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			x.broker.Inject(brokertest.Fault{On: "basic.publish", Nth: 20, Do: brokertest.Delay, For: 1500 * time.Millisecond})
			var began time.Time // when the step after the stall ended
			report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{Rate: 10, Progress: func(done, _, _ int) {
				if done == 22 {
					began = time.Now()
				}
			}})
			x.reports(report, err, "done 60, left 0, gone 0, remaining 0, twice 0")
			if took := time.Since(began); took < 3700*time.Millisecond {
				t.Errorf("38 at 10 a second took %v", took)
			}
			if _, err := q.Retry(x.Context(), make([]errorqueue.Message, 1201), errorqueue.Options{Rate: 1}); err == nil || !strings.Contains(err.Error(), "at most 1200 at a time") {
				t.Errorf("1201 at one a second: %v", err)
			}
		})
	})
}
