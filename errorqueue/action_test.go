package errorqueue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/seal"
	"github.com/harebus/harebus/topology"
)

// TestRetry: a message goes back as it was before it failed, and what came later stays.
func TestRetry(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 4)
		x.put("error", parked("5", "Pay", "no", amqp.Table{"PikaBus.Replays": int8(2), "PikaBus.Attempts": []any{time.Now()}, "CC": []any{"other"}}))
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{IDs: []string{"2", "3", "5"}})
			x.put("error", parked("2", "Place", "again", nil)) // the same message, parked later
			report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{})
			x.reports(report, err, "done 3, left 0, gone 0, remaining 0, twice 0")
		})
		x.expect("error", "1 4 2")
		x.expect("orders", "2 3 5")
		back := x.broker.Messages("orders")
		want := amqp.Table{"PikaBus.MessageId": "2", "PikaBus.MessageType": "Place", "PikaBus.Replays": int8(1), "tenant": "north"}
		if !reflect.DeepEqual(back[0].Headers, want) || string(back[0].Body) != `{"ID":"2"}` || back[0].Type != "Place" {
			t.Errorf("back is %+v", back[0])
		}
		if n := back[2].Headers["PikaBus.Replays"]; n != int8(3) || len(back[2].Headers) != 4 {
			t.Errorf("back is %v", back[2].Headers)
		}
	})
}

// TestCopies: of messages that cannot be told apart, as many are moved as were seen.
func TestCopies(t *testing.T) {
	bubble(t, func(x *bench) {
		m := amqp.Publishing{MessageId: "m", Body: []byte("{}"), Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}}
		x.put("error", m, m, parked("z", "Place", "no", nil))
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{}).Messages
			x.put("error", m) // it has failed again
			report, err := q.Retry(x.Context(), []errorqueue.Message{found[0], found[2]}, errorqueue.Options{})
			x.reports(report, err, "done 2, left 0, gone 0, remaining 0, twice 0")
		})
		x.expect("error", "m m")
		x.expect("orders", "m z")
	})
}

// TestRetryWhatIsGone: somebody else has moved a message of the selection.
func TestRetryWhatIsGone(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 3)
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			_, _, err := x.ch.Get("error", true)
			x.try(err)
			report, err := q.Retry(x.Context(), found.Messages, errorqueue.Options{To: "orders"})
			x.reports(report, err, "done 2, left 0, gone 1, remaining 0, twice 0")
		})
		x.expect("orders", "2 3")
	})
}

// TestLeft: a message that cannot be moved stays at its place, with the reason.
func TestLeft(t *testing.T) {
	bubble(t, func(x *bench) {
		x.declare("full", amqp.Table{"x-max-length": int32(0), "x-overflow": "reject-publish"})
		to := func(queue any) amqp.Table { return amqp.Table{"PikaBus.SourceQueue": queue} }
		x.put("error", parked("1", "T", "no", to("absent")), parked("2", "T", "no", to("full")), parked("3", "T", "no", nil),
			parked("4", "T", "no", to("error")), parked("5", "T", "no", to(int32(7))), parked("6", "T", "no", to("harebus.delay.1s")), amqp.Publishing{MessageId: "7"})
		x.with(func(q *errorqueue.Queue) {
			report, err := q.Retry(x.Context(), x.look(q, errorqueue.Filter{}).Messages, errorqueue.Options{Rate: -1})
			x.reports(report, err, "done 1, left 6, gone 0, remaining 0, twice 0")
			slices.SortFunc(report.Left, func(a, b errorqueue.Left) int { return strings.Compare(a.MessageID, b.MessageID) })
			for i, want := range []string{`no queue "absent"`, `into queue "full"; is that full`, "error queue itself", "not text", "delay queue", "where it came from"} {
				if i < len(report.Left) && !strings.Contains(report.Left[i].Reason, want) {
					t.Errorf("%+v, want %q", report.Left[i], want)
				}
			}
			x.expect("error", "1 2 4 5 6 7")
			report, err = q.Retry(x.Context(), x.look(q, errorqueue.Filter{}).Messages, errorqueue.Options{To: "absent", Refusals: 2, Rate: 10})
			x.reports(report, err, "done 0, left 2, gone 0, remaining 4, twice 0")
			for _, to := range []string{"error", "amq.x"} {
				if _, err := q.Retry(x.Context(), nil, errorqueue.Options{To: to}); err == nil {
					t.Errorf("moving to %q is possible", to)
				}
			}
		})
		x.expect("error", "1 2 4 5 6 7")
		x.expect("orders", "3")
	})
}

// TestRateAndStop: the rate is kept, and a stop leaves the rest.
func TestRateAndStop(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 100)
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			ctx, cancel := context.WithCancel(x.Context())
			began := time.Now()
			report, err := q.Retry(ctx, found.Messages, errorqueue.Options{Rate: 20, Progress: func(done, left, all int) {
				if left != 0 || all != 100 {
					t.Errorf("progress: %d left of %d", left, all)
				}
				if done == 40 {
					cancel()
				}
			}})
			x.reports(report, err, "done 40, left 0, gone 0, remaining 60, twice 0")
			if took := time.Since(began); took < 1900*time.Millisecond || took > 3*time.Second {
				t.Errorf("40 at 20 a second took %v", took)
			}
		})
		if q, _ := x.broker.Queue("error"); q.Ready != 60 {
			t.Errorf("the error queue has %d", q.Ready)
		}
		if first := x.broker.Messages("error")[0].MessageId; first != "41" {
			t.Errorf("the first is %s", first)
		}
	})
}

// TestDiscardAndImport: what was discarded comes back exactly as it was, and only once.
func TestDiscardAndImport(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 40)
		full := amqp.Publishing{
			MessageId: "full", ContentType: "a/b", ContentEncoding: "gzip", DeliveryMode: amqp.Persistent, Priority: 3, CorrelationId: "c", ReplyTo: "r",
			Timestamp: time.Unix(1e9, 0), Type: "T", AppId: "a", Body: []byte("\xff\x00 binary"),
			Headers: amqp.Table{"n": int64(7), "f": 1.5, "list": []any{"a", int8(1), nil}, "at": time.Unix(2e9, 0), "deep": amqp.Table{"b": []byte("x")}, "d": amqp.Decimal{Scale: 2, Value: 314}},
		}
		x.put("error", full, amqp.Publishing{MessageId: "wide", DeliveryMode: amqp.Persistent, Headers: amqp.Table{"wide": make([]any, 8193)}}, amqp.Publishing{MessageId: "bare", DeliveryMode: amqp.Persistent})
		before := x.broker.Messages("error")
		path := filepath.Join(x.TempDir(), "archive")
		x.with(func(q *errorqueue.Queue) {
			file, err := os.Create(path)
			x.try(err)
			report, err := q.Discard(x.Context(), x.look(q, errorqueue.Filter{}).Messages, file, errorqueue.Options{Rate: -1})
			x.reports(report, err, "done 43, left 0, gone 0, remaining 0, twice 0")
			x.try(file.Close())
			x.expect("error", "")
			for _, want := range []string{"put 43, there 0", "put 0, there 43"} {
				file, err := os.Open(path)
				x.try(err)
				done, there, err := q.Import(x.Context(), file, errorqueue.Options{Rate: -1})
				if got := fmt.Sprintf("put %d, there %d", done, there); got != want || err != nil {
					t.Errorf("import: %s, %v; want %s", got, err, want)
				}
				x.try(file.Close())
			}
		})
		after := x.broker.Messages("error")
		for i := range after {
			if !reflect.DeepEqual(after[i].Publishing, before[i].Publishing) {
				t.Errorf("message %s came back as\n%+v, it was\n%+v", before[i].MessageId, after[i], before[i])
			}
		}
	})
}

// lateFile is a file for an import. What has happened until it is read for the second time comes after the import has found
// out what is there.
type lateFile struct {
	*strings.Reader

	happens func()
	again   bool
}

func (f *lateFile) Seek(offset int64, whence int) (int64, error) {
	f.again = true
	return f.Reader.Seek(offset, whence)
}

func (f *lateFile) Read(p []byte) (int, error) {
	if f.again {
		f.again = false
		f.happens()
	}
	return f.Reader.Read(p)
}

// TestImportAfterAKilledOne: what a killed import had sent comes while the next one is at work. In the end each message is
// there once, in whichever of the two ways it came. Nobody knows that of messages without an id of their parking.
func TestImportAfterAKilledOne(t *testing.T) {
	const late = 900 * time.Millisecond
	bubble(t, func(x *bench) {
		x.park(1, 3)
		x.put("error", amqp.Publishing{MessageId: "plain", DeliveryMode: amqp.Persistent, Body: []byte("{}"), Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}})
		var sent []amqp.Publishing
		for _, m := range x.broker.Messages("error") {
			sent = append(sent, m.Publishing)
		}
		var file strings.Builder
		x.with(func(q *errorqueue.Queue) {
			_, err := q.Export(x.Context(), errorqueue.Filter{}, &file)
			x.try(err)
		})
		_, err := x.ch.QueuePurge("error", false)
		x.try(err)
		x.put("error", sent[0], sent[0], parked("4", "Place", "no", nil)) // 1 is there twice already
		x.with(func(q *errorqueue.Queue) {
			again := &lateFile{Reader: strings.NewReader(file.String()), happens: func() {
				x.put("error", sent[1], sent[3])
				time.AfterFunc(late, func() { x.put("error", sent[2]) })
			}}
			done, there, err := q.Import(x.Context(), again, errorqueue.Options{})
			if err != nil || done != 3 || there != 1 {
				t.Errorf("done %d, there %d, %v", done, there, err)
			}
		})
		time.Sleep(late)
		x.expect("error", "1 4 2 plain 3 plain")
	})
}

// TestImportKeepsWhatDiffers: a message with the ErrorId, the id and the body of another, and one other header, is no copy.
func TestImportKeepsWhatDiffers(t *testing.T) {
	bubble(t, func(x *bench) {
		first := parked("1", "Place", "no", nil)
		second := first
		second.Headers = maps.Clone(first.Headers)
		second.Headers["tenant"] = "south"
		x.put("error", first)
		var file strings.Builder
		x.with(func(q *errorqueue.Queue) {
			_, err := q.Export(x.Context(), errorqueue.Filter{}, &file)
			x.try(err)
		})
		x.put("error", second)
		x.with(func(q *errorqueue.Queue) {
			_, there, err := q.Import(x.Context(), strings.NewReader(file.String()), errorqueue.Options{})
			if err != nil || there != 1 {
				t.Errorf("there %d, %v", there, err)
			}
		})
		x.expect("error", "1 1")
	})
}

// TestImportOfNonsense: a file that is none is refused at its line, and what came before is kept.
func TestImportOfNonsense(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 1)
		x.with(func(q *errorqueue.Queue) {
			var export bytes.Buffer
			n, err := q.Export(x.Context(), errorqueue.Filter{}, &export)
			if x.try(err); n != 1 {
				t.Errorf("exported %d", n)
			}
			for text, want := range map[string]string{
				"{}":       "line 1: it has no properties",
				"nonsense": "line 1: it is no message",
				"\nx":      "line 2: it is no message",
				`{"properties":"AAA=","body":"!","body_base64":true}`:    "base64",
				`{"properties":"AAA=","table":"AAAAAQ==","body":"text"}`: "not AMQP",
			} {
				if _, _, err := q.Import(x.Context(), strings.NewReader(text), errorqueue.Options{}); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v", text, err)
				}
			}
		})
	})
}

// TestMove: an archive may be a queue, and the messages come back from there.
func TestMove(t *testing.T) {
	bubble(t, func(x *bench) {
		x.declare("error.archive", nil)
		x.park(1, 3)
		before := x.broker.Messages("error")[1].Headers
		x.with(func(q *errorqueue.Queue) {
			report, err := q.Move(x.Context(), x.look(q, errorqueue.Filter{IDs: []string{"2"}}).Messages, "error.archive", errorqueue.Options{})
			x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
			if _, err := q.Move(x.Context(), nil, "", errorqueue.Options{}); err == nil {
				t.Error("moving to no queue is possible")
			}
		})
		x.expect("error", "1 3")
		x.with(func(q *errorqueue.Queue) {
			report, err := q.Move(x.Context(), x.look(q, errorqueue.Filter{}).Messages, "error", errorqueue.Options{})
			x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
		}, func(c *errorqueue.Config) { c.Name = "error.archive" })
		x.expect("error", "1 3 2")
		if after := x.broker.Messages("error")[2].Headers; !reflect.DeepEqual(after, before) {
			t.Errorf("it came back with %v, it had %v", after, before)
		}
	})
}

// TestEdit: the new message has an id of its own, which a repetition makes again.
func TestEdit(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 1)
		x.put("error", parked("1", "Place", "no", nil),
			parked("signed", "Place", "no", amqp.Table{"PikaBus.Signature": "s"}), parked("packed", "Place", "no", amqp.Table{"PikaBus.ContentEncoding": "gzip"}),
			parked("sealed", "Place", "no", amqp.Table{"PikaBus.ContentType": seal.ContentType}), parked("claimed", "Place", "no", amqp.Table{"PikaBus.ContentType": claim.ContentType}))
		x.with(func(q *errorqueue.Queue) {
			found := x.look(q, errorqueue.Filter{})
			for i, want := range map[int]string{2: "signed", 3: "encoded", 4: "encrypted", 5: "in a store of package claim"} {
				report, err := q.Edit(x.Context(), found.Messages[i], []byte("{}"), errorqueue.Options{})
				if err != nil || len(report.Left) != 1 || !strings.Contains(report.Left[0].Reason, want) {
					t.Errorf("%s: %+v, %v", want, report, err)
				}
			}
			report, err := q.Edit(x.Context(), found.Messages[0], []byte("{"), errorqueue.Options{})
			if err != nil || len(report.Left) != 1 || !strings.Contains(report.Left[0].Reason, "not JSON, as its content type says: unexpected end of JSON input at line 1, character") {
				t.Errorf("%+v, %v", report, err)
			}
			for i := range 2 {
				report, err := q.Edit(x.Context(), found.Messages[i], []byte(`{"ID":7}`), errorqueue.Options{})
				x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
				if sent := x.broker.Messages("orders"); report.Edited != sent[len(sent)-1].MessageId {
					t.Errorf("edited is %q", report.Edited)
				}
			}
		})
		x.expect("error", "signed packed sealed claimed")
		edited := x.broker.Messages("orders")
		if len(edited) != 2 || edited[0].MessageId != edited[1].MessageId || edited[0].MessageId == "1" || string(edited[0].Body) != `{"ID":7}` ||
			edited[0].Headers["PikaBus.EditedFrom"] != "1" || edited[0].Headers["PikaBus.MessageId"] != edited[0].MessageId {
			t.Errorf("edited are %+v", edited)
		}
	})
}

// TestAudit: an action is in the audit trail before it begins; without that it is refused.
func TestAudit(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		retry := func(change ...func(*errorqueue.Config)) (report errorqueue.Report, err error) {
			x.with(func(q *errorqueue.Queue) {
				report, err = q.Retry(x.Context(), x.look(q, errorqueue.Filter{IDs: []string{"1"}}).Messages, errorqueue.Options{})
			}, change...)
			return report, err
		}
		report, err := retry()
		x.try(err)
		trail := x.broker.Messages(errorqueue.AuditQueue)
		if len(trail) != 2 || trail[0].UserId != "guest" {
			t.Fatalf("the audit trail is %+v", trail)
		}
		for i, want := range []map[string]any{
			{"phase": "begin", "selected": 1.0, "action": "retry", "queue": "error", "operator": "ann@ops1", "run": report.Run},
			{"phase": "end", "selected": 1.0, "done": 1.0, "action": "retry", "queue": "error", "operator": "ann@ops1", "run": report.Run},
		} {
			var got map[string]any
			x.try(json.Unmarshal(trail[i].Body, &got))
			delete(got, "at")
			if !maps.Equal(got, want) {
				t.Errorf("entry %d is %v, want %v", i, got, want)
			}
		}
		x.try(x.broker.DeleteQueue(errorqueue.AuditQueue))
		x.declare(errorqueue.AuditQueue, amqp.Table{"x-max-length": int32(0), "x-overflow": "reject-publish"})
		x.park(1, 1)
		if report, err := retry(); err == nil || !strings.Contains(err.Error(), "audit trail") || report.Done != 0 {
			t.Errorf("without an audit trail: %+v, %v", report, err)
		}
		x.expect("error", "2 1")
		report, err = retry(func(c *errorqueue.Config) { c.NoAudit = true })
		x.reports(report, err, "done 1, left 0, gone 0, remaining 0, twice 0")
	})
}

// TestInterrupted: the connection breaks at each step of an action. No message is lost, the
// journal names those that may be twice, and with it the action goes on without more copies.
func TestInterrupted(t *testing.T) {
	for _, at := range []struct {
		name  string
		fault brokertest.Fault
	}{
		{"before a publish", brokertest.Fault{On: "basic.publish", Do: brokertest.CutBefore}},
		{"after a publish", brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter}},
		{"before an ack", brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore}},
		{"after an ack", brokertest.Fault{On: "basic.ack", Do: brokertest.CutAfter}},
	} {
		for _, number := range []int{3, 40, 70, 100} {
			t.Run(fmt.Sprintf("%s/%d", at.name, number), func(t *testing.T) {
				bubble(t, func(x *bench) { interrupt(x, at.fault, number, -1, 1) }) // one stays in front, so that each is removed by itself
			})
		}
	}
	for _, do := range []brokertest.Action{brokertest.CutBefore, brokertest.CutAfter} {
		for number := 1; number <= 4; number++ {
			for _, rate := range []int{-1, 1000} { // which leaves time to notice the end of the connection
				t.Run(fmt.Sprintf("steps/%v/%d/%d", do, number, rate), func(t *testing.T) {
					bubble(t, func(x *bench) { interrupt(x, brokertest.Fault{On: "basic.ack", Do: do}, number, rate, 0) })
				})
			}
		}
	}
}

// interrupt interrupts a retry of 100 messages, before which others stay in the queue.
func interrupt(x *bench, fault brokertest.Fault, number, rate, stay int) {
	for range stay {
		x.put("error", parked("stays", "Other", "no", nil))
	}
	x.park(1, 100)
	o := errorqueue.Options{Rate: rate, Journal: filepath.Join(x.TempDir(), "journal")}
	without := func(c *errorqueue.Config) { c.NoAudit = true } // which would find out that the connection has ended
	q := x.open(without)
	found := x.look(q, errorqueue.Filter{Type: "Place"})
	fault.Nth = number
	injected := x.broker.Inject(fault)
	report, err := q.Retry(x.Context(), found.Messages, o)
	if err == nil {
		x.Errorf("the fault did not happen: %s", summary(report))
	}
	injected.Remove()
	if closed := q.Close(); (closed == nil) != (err == nil) {
		x.Errorf("close: %v after %v", closed, err)
	}
	unclear, failed := errorqueue.Unclear(o.Journal)
	x.try(failed)
	copies := map[string]int{}
	inBoth := func() (both []string) {
		clear(copies)
		for _, queue := range []string{"error", "orders"} {
			for _, m := range x.broker.Messages(queue) {
				copies[m.MessageId]++
			}
		}
		for i := range found.Messages {
			m := &found.Messages[i]
			if copies[m.MessageID] == 0 {
				x.Errorf("message %s is lost", m.MessageID)
			}
			if copies[m.MessageID] > 1 {
				both = append(both, m.ID())
			}
		}
		return both
	}
	for _, id := range inBoth() {
		if !slices.Contains(unclear, id) {
			x.Errorf("%s is in both queues, and the journal does not say so: %v", id, unclear)
		}
		if !slices.Contains(report.Twice, id) {
			x.Errorf("%s is in both queues, and the report does not say so: %v", id, report.Twice)
		}
	}
	if len(unclear) > 64 {
		x.Errorf("%d are unclear", len(unclear))
	}
	x.with(func(q *errorqueue.Queue) {
		again, err := q.Retry(x.Context(), x.look(q, errorqueue.Filter{Type: "Place"}).Messages, o)
		if err != nil || len(again.Left)+again.Gone > 0 || len(again.Twice) > 32 {
			x.Errorf("going on: %s, %v", summary(again), err)
		}
	})
	x.expect("error", strings.Repeat("stays", stay))
	for _, m := range x.broker.Messages("orders") {
		copies[m.MessageId]++
	}
	inBoth()
	extra := len(x.broker.Messages("orders")) - 100
	if extra < 0 || extra > 32 {
		x.Errorf("%d copies too many", extra)
	}
}

// TestEditInterrupted: the message id of what may have been sent is told.
func TestEditInterrupted(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 1)
		q := x.open(func(c *errorqueue.Config) { c.NoAudit = true })
		found := x.look(q, errorqueue.Filter{})
		x.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter})
		report, err := q.Edit(x.Context(), found.Messages[0], []byte(`{"ID":7}`), errorqueue.Options{})
		if closed := q.Close(); err == nil || closed == nil || report.Done != 0 || len(report.Twice) != 1 {
			t.Errorf("edit: %s, %v, close: %v", summary(report), err, closed)
		}
		if sent := x.ids("orders"); sent == "" || report.Edited != sent {
			t.Errorf("edited is %q, sent %q", report.Edited, sent)
		}
	})
}

// TestDiscardInterrupted: what is in the archive and still in the queue, because the connection was lost before the broker had
// removed it, is in the report and in the journal.
func TestDiscardInterrupted(t *testing.T) {
	for number := 1; number <= 4; number++ {
		t.Run(fmt.Sprint(number), func(t *testing.T) {
			bubble(t, func(x *bench) {
				x.park(1, 100)
				file, err := os.OpenFile(filepath.Join(x.TempDir(), "archive"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
				x.try(err)
				defer file.Close()
				q := x.open(func(c *errorqueue.Config) { c.NoAudit = true })
				found := x.look(q, errorqueue.Filter{})
				x.broker.Inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore, Nth: number})
				o := errorqueue.Options{Rate: -1, Journal: filepath.Join(x.TempDir(), "journal")}
				report, err := q.Discard(x.Context(), found.Messages, file, o)
				if closed := q.Close(); err == nil || closed == nil {
					t.Errorf("discard: %v, close: %v", err, closed)
				}
				unclear, err := errorqueue.Unclear(o.Journal)
				x.try(err)
				archive, err := os.ReadFile(file.Name())
				x.try(err)
				left := strings.Fields(x.ids("error"))
				for i := range found.Messages {
					m := &found.Messages[i]
					archived, there := bytes.Contains(archive, []byte(m.ID())), slices.Contains(left, m.MessageID)
					named := slices.Contains(report.Twice, m.ID()) && slices.Contains(unclear, m.ID())
					if !archived && !there || archived && there && !named {
						t.Errorf("message %s: archived %v, in the queue %v, named %v", m.MessageID, archived, there, named)
					}
				}
			})
		})
	}
}

// TestJournal: a message that failed again is moved, although the journal has its first parking,
// and a journal of another action is refused.
func TestJournal(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		o := errorqueue.Options{Journal: filepath.Join(x.TempDir(), "journal")}
		x.with(func(q *errorqueue.Queue) {
			report, err := q.Retry(x.Context(), x.look(q, errorqueue.Filter{}).Messages, o)
			x.reports(report, err, "done 2, left 0, gone 0, remaining 0, twice 0")
			x.park(1, 2) // both have failed again, with the same ids and bodies
			report, err = q.Retry(x.Context(), x.look(q, errorqueue.Filter{}).Messages, o)
			x.reports(report, err, "done 2, left 0, gone 0, remaining 0, twice 0")
			x.expect("orders", "1 2 1 2")
			for range 2 { // PikaBus has parked it, without an id of the parking
				x.put("error", amqp.Publishing{MessageId: "9", Headers: amqp.Table{"PikaBus.SourceQueue": "orders"}})
				_, err = q.Retry(x.Context(), x.look(q, errorqueue.Filter{}).Messages, o)
				x.try(err)
			}
			x.expect("orders", "1 2 1 2 9 9")
			x.park(3, 1)
			other := o
			other.To = "orders"
			messages := x.look(q, errorqueue.Filter{}).Messages
			if _, err := q.Retry(x.Context(), messages, other); err == nil || !strings.Contains(err.Error(), "another action") {
				t.Errorf("with the journal of another action: %v", err)
			}
			other.Journal = filepath.Join(x.TempDir(), "no", "journal")
			if _, err := q.Retry(x.Context(), messages, other); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("with no folder: %v", err)
			}
		})
		x.expect("error", "3")
		if _, err := errorqueue.Unclear(filepath.Join(x.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("no journal: %v", err)
		}
	})
}

// TestNoJournal: a file that is no journal is refused and stays as it is, also where somebody asks what a run has left: that
// it names no message would be false. A journal that was cut off in its first line is one.
func TestNoJournal(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		file := filepath.Join(x.TempDir(), "file")
		x.with(func(q *errorqueue.Queue) {
			messages := x.look(q, errorqueue.Filter{}).Messages
			for _, content := range []string{"hello\nworld\n", "hello", `{"ID":7}`, "{\"id\":\"1\"}\n", "{}\n", "[1]\n{\"run\":\"1\",\"action\":\"retry\",\"queue\":\"error\"}\n", "\x00\n", "{\n  \"queues\": []\n}\n", "\nhello\n"} {
				x.try(os.WriteFile(file, []byte(content), 0o600))
				if _, err := q.Retry(x.Context(), messages, errorqueue.Options{Journal: file}); err == nil || !strings.Contains(err.Error(), "is no journal") {
					t.Errorf("with the journal %q: %v", content, err)
				}
				if _, err := errorqueue.Unclear(file); err == nil || !strings.Contains(err.Error(), "is no journal") {
					t.Errorf("unclear of %q: %v", content, err)
				}
				if now, err := os.ReadFile(file); err != nil || string(now) != content {
					t.Errorf("%q became %q, %v", content, now, err)
				}
			}
			x.expect("orders", "")
			for i, content := range []string{"", `{"ru`, `{"run":"0193`} {
				x.try(os.WriteFile(file, []byte(content), 0o600))
				if _, err := errorqueue.Unclear(file); err != nil {
					t.Errorf("unclear of %q: %v", content, err)
				}
				_, err := q.Retry(x.Context(), messages, errorqueue.Options{Journal: file})
				x.try(err)
				if i == 0 {
					x.expect("orders", "1 2")
				}
			}
		})
	})
}

// TestArchiveIsTheJournal: one file cannot be both.
func TestArchiveIsTheJournal(t *testing.T) {
	bubble(t, func(x *bench) {
		x.park(1, 2)
		file, err := os.OpenFile(filepath.Join(x.TempDir(), "file"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		x.try(err)
		defer file.Close()
		x.with(func(q *errorqueue.Queue) {
			_, err := q.Discard(x.Context(), x.look(q, errorqueue.Filter{}).Messages, file, errorqueue.Options{Journal: file.Name()})
			if err == nil || !strings.Contains(err.Error(), "the journal is the archive") {
				t.Errorf("discarded: %v", err)
			}
		})
		x.expect("error", "1 2")
	})
}

// TestServiceParks: what a service writes when it parks a message is what a look shows.
func TestServiceParks(t *testing.T) {
	bubble(t, func(x *bench) {
		cfg := harebus.Config{Queue: "shop", Dial: x.broker.Dial, URL: x.broker.URL()}
		cfg.Payload.Build = "1.8.2"
		cfg.Retry.MaxRetries = 2
		cfg.QueueOptions.Type = topology.Classic
		cfg.ErrorQueue.Name = "failed"
		setup, err := harebus.New(cfg)
		x.try(err)
		setup.HandleMessage("Place", func(context.Context, *harebus.Bus, *harebus.Message) error {
			return fmt.Errorf("order %d: %w", time.Now().UnixNano(), os.ErrNotExist)
		})
		setup.HandleMessage("Pay", func(context.Context, *harebus.Bus, *harebus.Message) error { panic("no money") })
		x.try(setup.Start(x.Context()))
		began := time.Now()
		for _, kind := range []string{"Place", "Place", "Pay", "Unknown"} {
			x.try(setup.Bus().Send(x.Context(), "shop", []byte("{}"), harebus.WithType(kind)))
		}
		time.Sleep(time.Hour) // of virtual time
		x.try(setup.Close())
		x.with(func(q *errorqueue.Queue) {
			kinds := map[string]int{}
			_, err := q.Each(x.Context(), errorqueue.Filter{}, func(c *errorqueue.Content) error {
				kinds[c.Group.Kind]++
				if c.Version != "1.8.2" || c.Host == "" || c.Attempts != 3 || len(c.Failed) != 3 || len(c.ID()) != 36 || c.Parked().Before(began) || c.Group.Queue != "shop" {
					t.Errorf("parked is %+v", c)
				}
				return nil
			})
			x.try(err)
			if want := map[string]int{"error": 2, "panic": 1, "unknown-type": 1}; !maps.Equal(kinds, want) {
				t.Errorf("the kinds are %v, want %v", kinds, want)
			}
			if groups := x.look(q, errorqueue.Filter{}).Groups(); len(groups) != 3 {
				t.Errorf("%d groups", len(groups))
			}
		}, func(c *errorqueue.Config) { c.Name = "failed" })
	})
}
