package integration_test

import (
	"context"
	"errors"
	"flag"
	"slices"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/topology"
)

var cancelled = flag.Int("cancelled", 150, "number of deferred messages that TestCancel cancels; it defers twice as many")

// Of many messages every other one is cancelled, from another connection and by a ticket that was stored. None of them
// comes, and the others are on time. An operator sees what waits, and can take a cancellation back.
func TestCancel(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	cfg := p.config("a")
	s, in := p.service(cfg)
	ctx := p.within(4*patience + time.Duration(*cancelled)*10*time.Millisecond)
	other := p.setup(p.config("")).Bus()
	first := deferOne(ctx, p, s.Bus(), cfg.Queue, time.Hour, -1) // which declares
	p.try(other.Cancel(ctx, first))
	tools := deferred.Options{Broker: access.Broker{URLs: []string{p.url}}, HeaderPrefix: "PikaBus.", Timeout: patience}
	result, err := tools.Restore(ctx, first)
	if err != nil || result != deferred.WillCome {
		t.Errorf("restored: %q, %v", result, err)
	}

	const delay = 6 * time.Second // one queue
	kept := map[string]time.Time{}
	var took, binds []time.Duration
	var gone []harebus.Ticket
	bind := p.binding()
	for n := range 2 * *cancelled {
		ticket := deferOne(ctx, p, s.Bus(), cfg.Queue, delay, n)
		if n%2 == 1 {
			kept[ticket.ID] = ticket.Due
			continue
		}
		stored, err := topology.ParseTicket(ticket.String())
		p.try(err)
		began := time.Now()
		p.try(other.Cancel(ctx, stored))
		took = append(took, time.Since(began))
		gone = append(gone, ticket)
		binds = append(binds, bind())
	}
	slices.Sort(took)
	slices.Sort(binds)
	t.Logf("cancelled %d: p50 %v, p99 %v, the slowest %v; one bare binding: p50 %v, p99 %v, the slowest %v", len(took),
		took[len(took)/2], took[len(took)*99/100], took[len(took)-1], binds[len(binds)/2], binds[len(binds)*99/100], binds[len(binds)-1])
	var listed sync.Map
	_, err = tools.List(ctx, 100_000, func(i deferred.Item) { listed.Store(i.Ticket, i.Key) })
	p.try(err)
	if key, ok := listed.Load(first.String()); !ok || key != cfg.Queue {
		t.Errorf("the list has %v for the restored message", key)
	}

	var late []time.Duration
	for _, a := range in.awaitWithin(p, *cancelled, 3*patience) {
		was, ok := kept[a.ID]
		if !ok {
			t.Errorf("message %s came, although it was cancelled", a.ID)
		}
		late = append(late, a.at.Sub(was))
	}
	slices.Sort(late)
	t.Logf("late: p50 %v, p99 %v, the earliest %v", late[len(late)/2], late[len(late)*99/100], late[0])
	if late[0] < 0 {
		t.Errorf("a message came %v early", -late[0])
	}
	p.eventually(patience, func() error { return p.broker().holds("harebus.delay.cancelled", *cancelled) })
	result, err = tools.Restore(ctx, gone[len(gone)/2])
	if err != nil || result != deferred.Sent {
		t.Errorf("restored: %q, %v", result, err)
	}
	got := in.await(p, *cancelled+1)
	if last := got[len(got)-1]; len(got) != *cancelled+1 || last.ID != gone[len(gone)/2].ID {
		t.Errorf("%d messages came, the last is %s", len(got), last.ID)
	}
	if err := other.Cancel(ctx, gone[0]); !errors.Is(err, harebus.ErrTooLate) {
		t.Errorf("cancelled after it was due: %v", err)
	}

	// Ten minutes later the next cancellation would remove the binding and pass the message on to where it is kept.
	b, queues := p.broker(), (topology.Delays{}).Cancelled().Queues
	b.publish("", queues[1].Name, amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: gone[0].ID})
	p.try(other.Cancel(ctx, first))
	p.eventually(patience, func() error { return b.holds(queues[2].Name, 1) })
}

// binding returns a function that binds a durable queue to a durable exchange under another key each time, and says how
// long that took: it is what the broker needs for a cancellation at least.
func (p *place) binding() func() time.Duration {
	p.Helper()
	b, name := p.broker(), p.queue("bound")
	b.declareQueue(name, amqp.Table{"x-queue-type": "classic"})
	b.declareExchange(name, "direct")
	ch, err := b.conn.Channel()
	p.try(err)
	return func() time.Duration {
		began := time.Now()
		p.try(ch.QueueBind(name, harebus.NewMessageID(), name, false, nil))
		return time.Since(began)
	}
}

func deferOne(ctx context.Context, p *place, bus *harebus.Bus, queue string, delay time.Duration, n int) (ticket harebus.Ticket) {
	p.Helper()
	p.try(bus.Defer(ctx, queue, delay, note{n}, harebus.WithTicket(&ticket)))
	return ticket
}
