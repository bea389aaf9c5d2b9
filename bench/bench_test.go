package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/harebus/harebus/bench/nullbroker"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/seal"
)

// Watermill leaves a goroutine that reconnects behind when it is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp.(*ConnectionWrapper).handleConnectionClose"))
}

// inProcess is a place on the in-process broker.
func inProcess(t *testing.T) (*place, *brokertest.Broker) {
	t.Helper()
	b := brokertest.New()
	t.Cleanup(b.Close)
	address, err := b.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return open(t, "amqp://guest:guest@"+address.String()+"/").place("quorum"), b
}

func onNull(t testing.TB) *place {
	t.Helper()
	b, err := nullbroker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return open(t, b.URL()).place("null")
}

func open(t testing.TB, address string) *server {
	t.Helper()
	s, err := openServer(address, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

// TestEverybodySendsTheSame compares what the libraries put into a queue: the
// comparison is only fair if the plain client does as much as harebus.
func TestEverybodySendsTheSame(t *testing.T) {
	ctx := t.Context()
	p, broker := inProcess(t)
	queue := p.queue(0)
	if err := declare(ctx, p, queue); err != nil {
		t.Fatal(err)
	}
	sent := map[string]brokertest.Message{}
	j := newJob(text(small))
	for _, l := range libraries() {
		if l.publisher == nil {
			continue
		}
		pub, err := l.publisher(ctx, p)
		if err != nil {
			t.Fatalf("%s: %v", l.name, err)
		}
		if err := errors.Join(pub.publish(ctx, queue, j), pub.batch(ctx, queue, []job{j, j}), pub.close()); err != nil {
			t.Fatalf("%s: %v", l.name, err)
		}
		messages := broker.Messages(queue)
		if len(messages) != 3 {
			t.Fatalf("%s: %d messages in the queue, want 3", l.name, len(messages))
		}
		sent[l.name] = messages[0]
		if err := p.purge(queue); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := seal.KeyID(sent["harebus-sealed"].Body); !ok {
		t.Errorf("what is not sealed: %s", sent["harebus-sealed"].Body)
	}
	delete(sent, "harebus-sealed")
	want := sent["harebus"]
	for name, got := range sent {
		if !bytes.Equal(got.Body, want.Body) {
			t.Errorf("%s: body %s, want %s", name, got.Body, want.Body)
		}
		delete(got.Headers, "_watermill_message_uuid")
		if g, w := keys(got.Headers), keys(want.Headers); !slices.Equal(g, w) {
			t.Errorf("%s: headers %v, want %v", name, g, w)
		}
		if name == "watermill" {
			continue // it sets no properties
		}
		for _, field := range []string{"ContentType", "ContentEncoding", "DeliveryMode", "Type", "Exchange", "RoutingKey"} {
			g, w := reflect.ValueOf(got).FieldByName(field), reflect.ValueOf(want).FieldByName(field)
			if !w.IsValid() || !g.Equal(w) {
				t.Errorf("%s: %s is %v, want %v", name, field, g, w)
			}
		}
	}
}

func keys(headers map[string]any) []string { return slices.Sorted(maps.Keys(headers)) }

// TestEveryWorkloadRuns carries out a small version of every contest.
func TestEveryWorkloadRuns(t *testing.T) {
	for _, s := range []spec{
		{"publish", "quorum", small, 4, 2, everybody},
		{"transaction", "quorum", small, 1, 1, batchers},
		{"consume", "quorum", small, 0, 1, consumers},
		{"transform", "quorum", small, 0, 1, transforms},
		{"end-to-end", "quorum", small, 10, 1, onBothEnds},
		{"saturated", "quorum", small, 4, 1, onBothEnds},
		{"retry", "quorum", small, 0, 1, []string{"harebus"}},
		{"request", "quorum", small, 4, 1, ours},
		{"ways", "quorum", small, 0, 1, allWays},
		{"ways-1ms", "quorum", small, 0, 1, []string{"harebus-batch"}},
		{"publish", "null", small, 10, 1, everybody},
		{"consume", "null", small, 0, 1, ours},
	} {
		t.Run(s.workload+" "+s.kind, func(t *testing.T) {
			var p *place
			if s.kind == "null" {
				p = onNull(t)
			} else {
				p, _ = inProcess(t)
			}
			c := &contest{spec: s, place: p, pace: pace{
				rounds: 2, duration: 100 * time.Millisecond, messages: 3000, spare: 5 * prefetch, noise: 1, deadline: time.Now().Add(time.Minute),
			}}
			if strings.HasPrefix(s.workload, "ways") {
				c.pace.messages = 2000
			}
			tallies, err := c.run(t.Context(), named(s.libraries))
			if err != nil {
				t.Fatal(err)
			}
			if len(tallies) != len(s.libraries) {
				t.Fatalf("%d libraries, want %d", len(tallies), len(s.libraries))
			}
			for _, tally := range tallies {
				if len(tally.rounds) != 2 {
					t.Errorf("%s: %d rounds, want 2", tally.library, len(tally.rounds))
				}
				for _, f := range tally.rounds {
					if f.messages == 0 || !(f.rate > 0) || !(f.allocs > 0) || !(f.reads > 0) || !(f.writes > 0) {
						t.Errorf("%s: %+v", tally.library, f)
					}
				}
			}
		})
	}
}

// TestDatabase carries out each workload with a database.
func TestDatabase(t *testing.T) {
	books, err := openBooks(t.Context())
	database.SkipOrFail(t, err)
	t.Cleanup(func() { _ = books.close() })
	for _, s := range databasePlan()[2:] { // the two before differ only in numbers
		t.Run(s.workload, func(t *testing.T) {
			p, _ := inProcess(t)
			p.books = books
			c := &contest{spec: s, place: p, pace: pace{
				rounds: 1, duration: 100 * time.Millisecond, messages: 500, spare: 5 * prefetch, noise: 1, deadline: time.Now().Add(time.Minute),
			}}
			if s.workload == "deliver" {
				c.pace.duration = 300 * time.Millisecond
			}
			tallies, err := c.run(t.Context(), named(s.libraries))
			if err != nil {
				t.Fatal(err)
			}
			for _, tally := range tallies {
				for _, f := range tally.rounds {
					if f.messages == 0 || !(f.rate > 0) {
						t.Errorf("%s: %+v", tally.library, f)
					}
				}
			}
			if len(tallies) != len(s.libraries) {
				t.Errorf("%d libraries, want %d", len(tallies), len(s.libraries))
			}
		})
	}
}

// TestFailedRoundIsReported makes the broker refuse the published messages.
func TestFailedRoundIsReported(t *testing.T) {
	p, broker := inProcess(t)
	c := &contest{spec: spec{"publish", "quorum", small, 1, 1, []string{"raw"}}, place: p, pace: pace{
		rounds: 1, duration: 10 * time.Second, noise: 1, deadline: time.Now().Add(time.Minute),
	}}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = broker.WaitQueue(ctx, c.place.queue(0), func(q brokertest.Queue) bool { return q.Ready > 100 })
		broker.CutConnections()
	}()
	if _, err := c.run(t.Context(), named(c.libraries)); err == nil || !strings.Contains(err.Error(), "raw") {
		t.Fatalf("error %v, want one that names the library", err)
	}
}

func TestRowTakesQuietRounds(t *testing.T) {
	rounds := []figures{{rate: 10, foreign: 0.01}, {rate: 1000, foreign: 0.5}, {rate: 20, foreign: 0.02}, {rate: 30, foreign: nan}}
	r := newRow(spec{}, "", tally{rounds: rounds}, 0.1)
	if r.Rate != 20 || r.Rounds != 4 || r.Noisy != 1 || !r.Quiet {
		t.Errorf("%+v, want the median of three quiet rounds", r)
	}
	r = newRow(spec{}, "", tally{rounds: rounds[1:2]}, 0.1)
	if r.Rate != 1000 || r.Noisy != 1 || r.Quiet {
		t.Errorf("%+v, want the noisy round, marked", r)
	}
}

func TestQuantile(t *testing.T) {
	latencies := make([]int64, 1000)
	for i := range latencies {
		latencies[len(latencies)-1-i] = int64(i+1) * 1000
	}
	for q, want := range map[float64]float64{0.5: 501, 0.99: 991, 0.999: 1000} {
		if got := quantile(latencies, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

func TestTrafficIsCounted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	var counts traffic
	c, err := counts.dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	for range 3 {
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	if w, r := counts.writes.Load(), counts.reads.Load(); w != 3 || r < 3 {
		t.Errorf("%d writes and %d reads, want 3 and at least 3", w, r)
	}
}

// TestReport reads back what it wrote, and draws it.
func TestReport(t *testing.T) {
	r := newRow(spec{"publish", "quorum", small, 100, 1, nil}, "3.10.8", tally{"harebus", []figures{{rate: 12345, p50: 7, p99: nan, foreign: nan}}}, 0.1)
	var lines bytes.Buffer
	if err := writeJSON(&lines, r); err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(lines.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"workload", "impl", "queue_type", "size", "goroutines", "msgs_per_s", "p50_us", "p99_us", "p999_us",
		"client_cpu_us_per_msg", "allocs_per_msg", "bytes_per_msg", "writes_per_msg", "reads_per_msg"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("no field %s in %s", name, lines.String())
		}
	}
	rows, err := readRows[row](&lines)
	if err != nil || len(rows) != 1 || !reflect.DeepEqual(rows[0], r) {
		t.Errorf("read %+v, %v; want %+v", rows, err, r)
	}
	var table, markdown bytes.Buffer
	if err := errors.Join(writeTable(&table, rows), writeMarkdown(&markdown, rows)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "12345") || !strings.Contains(markdown.String(), "| harebus | 12,345 |") {
		t.Errorf("table:\n%s\n%s", &table, &markdown)
	}
	picture := plot(rows)
	if err := xml.Unmarshal(picture, new(struct {
		XMLName xml.Name `xml:"svg"`
	})); err != nil || !bytes.Contains(picture, []byte("12,345/s")) {
		t.Errorf("plot: %v: %s", err, picture)
	}
}

// BenchmarkPublish is one goroutine on the null broker, which is in this
// process: for profiles.
func BenchmarkPublish(b *testing.B) {
	for _, l := range []*library{harebusLibrary(), rawLibrary()} {
		b.Run(l.name, func(b *testing.B) {
			p, err := l.publisher(b.Context(), onNull(b))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.close() }()
			filler := text(small)
			if err := p.publish(b.Context(), "queue", newJob(filler)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.SetParallelism(50)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := p.publish(b.Context(), "queue", newJob(filler)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkTransactionOfThousand is batchSize messages on the null broker.
func BenchmarkTransactionOfThousand(b *testing.B) {
	for _, l := range []*library{harebusLibrary(), rawCoalesced()} {
		b.Run(l.name, func(b *testing.B) {
			p, err := l.publisher(b.Context(), onNull(b))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.close() }()
			jobs := make([]job, batchSize)
			for i := range jobs {
				jobs[i] = newJob(text(small))
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := p.batch(b.Context(), "queue", jobs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
