package proof_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
)

const (
	// giant is the largest body that RabbitMQ takes by default (128 MiB; 4.x takes 16 MiB unless told otherwise).
	giant = 128 << 20
	// handedOut is the prefetch: fewer than there are.
	handedOut = 2
	// slow is how long all of it may take on a busy machine.
	slow = 4 * time.Minute
)

// giants are the sizes of the large bodies.
var giants = []int{giant, giant / 2, giant, giant / 2}

// Bodies as large as the broker takes are parked as they came, undecoded, while good messages are handled around them.
// Memory is bounded by the prefetch: the body that came, the frames it came in and goes out with, for each of those in
// hand, whatever their number.
func TestGiantBodies(t *testing.T) {
	node := private(t, rabbit.Options{Config: []string{"max_message_size = 134217728"}})
	p := newPlainClient(t, node.URL())
	setup, err := harebus.New(harebus.Config{
		URL: node.URL(), Queue: "orders", QueueOptions: harebus.QueueOptions{Type: "classic"},
		Consume: harebus.ConsumeConfig{Concurrency: handedOut, Prefetch: handedOut},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := make(chan string, 100)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, _ order) error {
		good <- harebus.Incoming(ctx).ID
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	if err := setup.Init(ctx); err != nil {
		t.Fatal(err)
	}
	sendGiants(p)

	before := settled()
	peak := watchMemory(t, func() {
		if err := setup.Start(ctx); err != nil {
			t.Fatal(err)
		}
		p.untilWithin(slow, func() error {
			if s := setup.Stats(); int(s.Parked) != len(giants) || int(s.Handled) != len(giants)+1 {
				return fmt.Errorf("%d parked, %d handled", s.Parked, s.Handled)
			}
			return nil
		})
		if err := setup.Close(); err != nil {
			t.Fatal(err)
		}
	})
	stats := setup.Stats()
	if stats.Redelivered != 0 || stats.Connections > 3 || len(good) != len(giants)+1 {
		t.Errorf("%d good ones handled, counts %+v", len(good), stats)
	}
	const mib = 1 << 20
	grown, bound := peak-before, uint64(handedOut*copies*giant)
	t.Logf("%d bodies of up to %d MiB, prefetch %d: memory grew by %d MiB at most, %.1f bodies for each in hand; "+
		"bound %d MiB",
		len(giants), giant/mib, handedOut, grown/mib, float64(grown)/(handedOut*giant), bound/mib)
	if grown > bound {
		t.Errorf("memory grew by %d MiB, more than %d", grown/mib, bound/mib)
	}
	checkGiants(p)
}

// copies is how often the memory may hold a body in hand. While it comes in, the client library has it in a buffer that
// grows by steps of a quarter, and while it goes out it is there a second time; the collector lets garbage double that.
const copies = 5

// sendGiants puts giants into the queue, each between good messages.
func sendGiants(p *plainClient) {
	p.Helper()
	small := func(n int) {
		p.send("", "orders", amqp.Publishing{Type: "Order", MessageId: fmt.Sprint("good-", n), Body: []byte("{}")})
	}
	for n, size := range giants {
		small(n)
		p.send("", "orders", amqp.Publishing{Type: "Order", MessageId: fmt.Sprint(size), Body: colossus(size)})
	}
	small(len(giants))
}

// colossus is a good order of a size.
func colossus(size int) []byte { return []byte(`{"ID":"` + strings.Repeat("x", size-9) + `"}`) }

// checkGiants demands that each is in the error queue, as it was.
func checkGiants(p *plainClient) {
	p.Helper()
	sizes := map[string]int{}
	for n := range giants {
		d, ok, err := p.ch.Get("error", true)
		if err != nil || !ok {
			p.Fatalf("giant %d of %d: %t, %v", n+1, len(giants), ok, err)
		}
		sizes[d.MessageId]++
		details, _ := d.Headers["PikaBus.ErrorDetails"].(string)
		if d.MessageId != fmt.Sprint(len(d.Body)) || !strings.HasPrefix(details, "too-large: ") {
			p.Errorf("%s: %d bytes, %q", d.MessageId, len(d.Body), details)
		}
		if !bytes.Equal(d.Body, colossus(len(d.Body))) {
			p.Errorf("%s: other bytes", d.MessageId)
		}
		runtime.GC() // not to have all of them in memory
	}
	if len(sizes) != 2 {
		p.Errorf("of each size: %v", sizes)
	}
}

// settled is the memory in use when all garbage is gone.
func settled() uint64 {
	runtime.GC()
	return inUse()
}

// inUse is the memory that the process has from the system.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// watchMemory returns the most memory that was in use while fn ran.
func watchMemory(t *testing.T, fn func()) uint64 {
	t.Helper()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		most := uint64(0)
		for {
			select {
			case <-tick.C:
				most = max(most, inUse())
			case <-stop:
				peak <- most
				return
			}
		}
	}()
	fn()
	close(stop)
	return <-peak
}
