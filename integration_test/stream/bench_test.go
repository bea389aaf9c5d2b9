package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// place is a topic exchange with a quorum queue, and a stream if it is captured.
type place struct {
	*testing.B
	url, name string
	setup     *harebus.Setup
}

func newPlace(b *testing.B, queue, captured bool) *place {
	b.Helper()
	node := rabbit.Shared(b)
	p := &place{B: b, url: node.URL(), name: fmt.Sprintf("be-%d", rand.Uint64())}
	exchange := p.name + ".topic"
	t := topology.Topology{Exchanges: []topology.Exchange{{Name: exchange, Kind: topology.Topic}}}
	if queue {
		t = topology.Join(t, topology.Topology{
			Queues: []topology.Queue{{Name: p.name}}, Bindings: []topology.Binding{{Exchange: exchange, Key: "#", Queue: p.name}},
		})
	}
	if captured {
		t = topology.Join(t, topology.EventLog(p.name+".log", exchange))
	}
	var err error
	p.setup, err = harebus.New(harebus.Config{URL: p.url, Exchanges: harebus.ExchangeConfig{Topic: exchange, Direct: "amq.direct"}, Declare: harebus.DeclareConfig{Topology: t}})
	p.try(err)
	p.try(p.setup.Init(b.Context()))
	b.Cleanup(p.drop)
	return p
}

func (p *place) try(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) drop() {
	p.try(p.setup.Close())
	conn, err := amqp.Dial(p.url)
	p.try(err)
	defer conn.Close()
	ch, err := conn.Channel()
	p.try(err)
	for _, q := range []string{p.name, p.name + ".log", p.name + ".error"} {
		_, err := ch.QueueDelete(q, false, false, false)
		p.try(err)
	}
	p.try(ch.ExchangeDelete(p.name+".topic", false, false))
}

// purge empties the quorum queue.
func (p *place) purge() {
	conn, err := amqp.Dial(p.url)
	p.try(err)
	defer conn.Close()
	ch, err := conn.Channel()
	p.try(err)
	_, err = ch.QueuePurge(p.name, false)
	p.try(err)
}

// publish publishes n events of 256 bytes, a thousand in a transaction.
func (p *place) publish(n int) {
	body := make([]byte, 256)
	for n > 0 {
		some := min(n, 1000)
		n -= some
		p.try(p.setup.Bus().Transaction(p.Context(), func(ctx context.Context, tx *harebus.Tx) error {
			for range some {
				if err := tx.Publish(ctx, "count", body, harebus.WithType("Bytes")); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

func (p *place) report(n int, begin time.Time) {
	p.ReportMetric(float64(n)/time.Since(begin).Seconds(), "msg/s")
	p.ReportMetric(0, "ns/op")
}

// BenchmarkCapture publishes to a quorum queue, with and without a stream beside it.
func BenchmarkCapture(b *testing.B) {
	for name, captured := range map[string]bool{"plain": false, "captured": true} {
		b.Run(name, func(b *testing.B) {
			p := newPlace(b, true, captured)
			p.publish(1000)
			begin := time.Now()
			b.ResetTimer()
			p.publish(b.N)
			p.report(b.N, begin)
		})
	}
}

// BenchmarkRead handles what is in a quorum queue, and in a stream.
func BenchmarkRead(b *testing.B) {
	for _, kind := range []string{"quorum", "stream"} {
		b.Run(kind, func(b *testing.B) {
			p := newPlace(b, kind == "quorum", kind == "stream")
			p.publish(b.N)
			cfg := harebus.Config{URL: p.url, Queue: p.name, QueueOptions: harebus.QueueOptions{AsFound: true}, Consume: harebus.ConsumeConfig{Concurrency: 10, Prefetch: 1000}}
			if kind == "stream" {
				cfg.Queue, cfg.QueueOptions = p.name+".log", harebus.QueueOptions{}
				cfg.Consume.Stream = &stream.Config{}
			}
			cfg.Exchanges, cfg.ErrorQueue.Name = harebus.ExchangeConfig{Topic: "amq.topic", Direct: "amq.direct"}, p.name+".error"
			s, err := harebus.New(cfg)
			p.try(err)
			var handled atomic.Int64
			done := make(chan struct{})
			s.HandleMessage("Bytes", func(context.Context, *harebus.Bus, *harebus.Message) error {
				if handled.Add(1) == int64(b.N) {
					close(done)
				}
				return nil
			})
			begin := time.Now()
			b.ResetTimer()
			p.try(s.Start(b.Context()))
			<-done
			p.report(b.N, begin)
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/1e6, "MB")
			b.StopTimer()
			p.try(s.Close())
		})
	}
}

// BenchmarkReplay replays a stream into a quorum queue: harebus replay, with what the command needs to start.
func BenchmarkReplay(b *testing.B) {
	command := filepath.Join(b.TempDir(), "harebus")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", command, "./cmd/harebus")
	build.Dir = filepath.Join("..", "..")
	if said, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, said)
	}
	p := newPlace(b, true, true)
	p.publish(b.N)
	p.purge()
	begin := time.Now()
	b.ResetTimer()
	said, err := exec.CommandContext(b.Context(), command, "replay", "-url", p.url, "-stream", p.name+".log", "-queue", p.name).CombinedOutput()
	if err != nil || !strings.Contains(string(said), fmt.Sprintf("replayed %d, passed over 0", b.N)) {
		b.Fatalf("%v: %s", err, said)
	}
	p.report(b.N, begin)
}
