package otelbus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/otelbus"
)

// series collects all metrics: for each series "name{attributes} value", where the value of a histogram is its count. The
// attributes that all have are left out.
func series(t *testing.T, reader sdkmetric.Reader) []string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var lines []string
	add := func(name string, attributes attribute.Set, value any) {
		var pairs []string
		for _, one := range attributes.ToSlice() {
			if one.Key != "messaging.system" {
				pairs = append(pairs, strings.TrimPrefix(string(one.Key), "messaging.")+"="+one.Value.String())
			}
		}
		lines = append(lines, fmt.Sprintf("%s{%s} %v", name, strings.Join(pairs, ","), value))
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					add(m.Name, point.Attributes, point.Value)
				}
			case metricdata.Gauge[float64]:
				for _, point := range data.DataPoints {
					add(m.Name, point.Attributes, point.Value)
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					add(m.Name, point.Attributes, point.Count)
				}
			default:
				t.Fatalf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// Every metric counts what it says, and agrees with Stats.
func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		reader := sdkmetric.NewManualReader()
		cfg := otelbus.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}
		s := r.setup("orders", cfg)
		var within []string
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
			within = series(t, reader)
			<-time.After(time.Millisecond) // so that it takes time
			if o.ID == 2 {
				return errDatabase
			}
			return bus.Publish(ctx, "orders.placed", OrderPlaced(o))
		})
		r.start(s)
		for id := range 3 {
			r.do(s.Bus().Send(r.ctx, "orders", PlaceOrder{id}))
		}
		if err := s.Bus().Send(r.ctx, "nowhere", PlaceOrder{}); err == nil {
			t.Error("sent to a queue that does not exist")
		}
		r.do(r.broker.WaitQuiet(r.ctx, "error"))
		if !slices.Contains(within, "harebus.messages.in_flight{destination.name=orders,operation.name=process} 1") {
			t.Errorf("while a handler runs: %q", within)
		}
		r.do(s.Stop(r.ctx))
		got := strings.Join(series(t, reader), "\n")
		if got != strings.TrimSpace(wantMetrics) {
			t.Errorf("got\n%s", got)
		}
		if stats := s.Stats(); stats.Handled != 2 || stats.Retried != 2 || stats.Parked != 1 {
			t.Errorf("stats %+v", stats)
		}
	})
}

const wantMetrics = `
harebus.attempts{harebus.outcome=discarded,destination.name=orders,operation.name=process} 0
harebus.attempts{harebus.outcome=handled,destination.name=orders,operation.name=process} 2
harebus.attempts{harebus.outcome=parked,destination.name=orders,operation.name=process} 1
harebus.attempts{harebus.outcome=retried,destination.name=orders,operation.name=process} 2
harebus.connections.blocked{harebus.connection=consume} 0
harebus.connections.blocked{harebus.connection=publish} 0
harebus.connections{harebus.connection=consume} 0
harebus.connections{harebus.connection=publish} 0
harebus.connects{harebus.connection=consume} 1
harebus.connects{harebus.connection=publish} 1
harebus.consumers{destination.name=orders} 0
harebus.critical_time{harebus.message.type=PlaceOrder,destination.name=orders,operation.name=process} 2
harebus.messages.in_flight{destination.name=orders,operation.name=process} 0
messaging.client.consumed.messages{destination.name=orders,operation.name=process} 5
messaging.client.operation.duration{destination.name=error,operation.name=park} 1
messaging.client.operation.duration{destination.name=orders,operation.name=retry} 2
messaging.client.operation.duration{destination.name=orders,operation.name=send} 3
messaging.client.operation.duration{error.type=returned,destination.name=nowhere,operation.name=send} 1
messaging.client.operation.duration{operation.name=commit} 2
messaging.client.sent.messages{destination.name=error,operation.name=park} 1
messaging.client.sent.messages{destination.name=orders,operation.name=retry} 2
messaging.client.sent.messages{destination.name=orders,operation.name=send} 3
messaging.client.sent.messages{error.type=returned,destination.name=nowhere,operation.name=send} 1
messaging.client.sent.messages{operation.name=commit} 2
messaging.process.duration{error.type=_OTHER,harebus.message.type=PlaceOrder,destination.name=orders,operation.name=process} 3
messaging.process.duration{harebus.message.type=PlaceOrder,destination.name=orders,operation.name=process} 2
`

// What an outbox has not published is measured; a look that failed leaves the figures as they were.
func TestBacklog(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	o := observer(t, reader)
	for _, found := range []*harebus.Backlog{
		{Name: "orders", Waiting: 9}, {Name: "orders", Waiting: 3, Oldest: 1500 * time.Millisecond, Lag: 20 * time.Millisecond, Refused: 1}, nil,
	} {
		e := harebus.Observation{Operation: harebus.OpBacklog}
		ctx := o.ObserveStart(t.Context(), e)
		e.Backlog = found
		o.ObserveEnd(ctx, e, nil)
	}
	want := []string{
		"harebus.outbox.lag{harebus.outbox=orders} 0.02", "harebus.outbox.oldest{harebus.outbox=orders} 1.5",
		"harebus.outbox.refused{harebus.outbox=orders} 1", "harebus.outbox.waiting{harebus.outbox=orders} 3",
	}
	if got := series(t, reader); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// What package schedule tells of due times and takeovers is counted for each schedule.
func TestSchedules(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	o := observer(t, reader)
	tell := func(e harebus.Observation) { o.ObserveEnd(o.ObserveStart(t.Context(), e), e, nil) }
	for _, due := range []*harebus.DueTime{
		{Schedule: "invoices"}, {Schedule: "invoices", Late: time.Minute, Missed: 2}, {Schedule: "invoices", Late: -1, Missed: 1},
		{Schedule: "invoices", Late: -1, Skipped: true}, nil,
	} {
		tell(harebus.Observation{Operation: harebus.OpDue, Queue: "shop", Due: due})
	}
	tell(harebus.Observation{Operation: harebus.OpLead, Queue: "shop"})
	want := []string{
		"harebus.schedule.due{harebus.outcome=fired,harebus.schedule=invoices} 2", "harebus.schedule.due{harebus.outcome=missed,harebus.schedule=invoices} 3",
		"harebus.schedule.due{harebus.outcome=skipped,harebus.schedule=invoices} 1", "harebus.schedule.late{harebus.schedule=invoices} 1",
		"harebus.schedule.leader_changes{destination.name=shop} 1",
	}
	if got := series(t, reader); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// Ten thousand names of topics, message types and reply queues, as the network can send them, make few series.
func TestCardinality(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	o := observer(t, reader)
	for n := range 10_000 {
		for op, name := range map[harebus.Operation]string{
			harebus.OpPublish: fmt.Sprintf("orders.%d.placed", n),
			harebus.OpReply:   fmt.Sprintf("requester-%d", n),
			harebus.OpSend:    fmt.Sprintf("orders.%012x", n),
		} {
			e := harebus.Observation{Operation: op, Exchange: "PikaBusTopic", RoutingKey: name, Headers: map[string]any{}}
			o.ObserveEnd(o.ObserveStart(t.Context(), e), e, nil)
		}
		e := harebus.Observation{Operation: harebus.OpHandle, Incoming: &harebus.Message{Queue: "orders", Type: fmt.Sprint("Type", n), RoutingKey: fmt.Sprint("topic.", n)}}
		ctx := o.ObserveStart(t.Context(), e)
		e.Outcome = harebus.AttemptParked
		o.ObserveEnd(ctx, e, &harebus.RejectError{Reason: "unknown-type"})
	}
	if all := series(t, reader); len(all) > 20 {
		t.Errorf("%d series: %q", len(all), all)
	}
}

// Also if a handler takes every type, or a program sends to thousands of queues and every error has another reason, no metric
// has more than some 200 series.
func TestMostSeries(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	o := observer(t, reader)
	for n := range 10_000 {
		e := harebus.Observation{Operation: harebus.OpSend, RoutingKey: fmt.Sprint("queue-", n), Headers: map[string]any{}}
		o.ObserveEnd(o.ObserveStart(t.Context(), e), e, &harebus.RejectError{Reason: fmt.Sprint(n)})
		e = harebus.Observation{Operation: harebus.OpHandle, Incoming: &harebus.Message{Queue: fmt.Sprint("queue-", n), Type: fmt.Sprint("Type", n)}}
		ctx := o.ObserveStart(t.Context(), e)
		e.Outcome, e.HandlingTime, e.CriticalTime = harebus.AttemptHandled, time.Second, time.Second
		o.ObserveEnd(ctx, e, &harebus.RejectError{Reason: fmt.Sprint(n)})
		e = harebus.Observation{Operation: harebus.OpConnect, Connection: fmt.Sprint("publish-", n)}
		o.ObserveEnd(o.ObserveStart(t.Context(), e), e, &harebus.RejectError{Reason: fmt.Sprint(n)})
		e = harebus.Observation{Operation: harebus.OpConsume, Queue: fmt.Sprint("queue-", n)}
		o.ObserveStart(t.Context(), e)
	}
	counts := map[string]int{}
	for _, line := range series(t, reader) {
		name, _, _ := strings.Cut(line, "{")
		counts[name]++
	}
	for name, n := range counts {
		if n > 210 {
			t.Errorf("%s has %d series", name, n)
		}
	}
	if len(counts) < 10 {
		t.Errorf("only %v", counts)
	}
}

func observer(t *testing.T, reader sdkmetric.Reader) *otelbus.Observer {
	t.Helper()
	o, err := otelbus.New(otelbus.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))})
	if err != nil {
		t.Fatal(err)
	}
	return o
}
