package otelbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the instruments. Only the histograms are told of each message; what is counted
// is read when somebody collects the metrics, because that costs a message much less.
type metrics struct {
	operation, process, critical metric.Float64Histogram

	sent, consumed, attempts, connects        *counter
	inFlight, connections, blocked, consumers *counter
	waiting, oldest, lag, refused             *counter
	due, late, leads                          *counter
}

// Upper bounds of histograms, in seconds: those of the conventions, and one that reaches from
// a message that is handled at once to one that was deferred for a day.
var (
	durationBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
	criticalBounds = []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600}
)

// newMetrics makes the instruments.
func newMetrics(m metric.Meter) (*metrics, error) {
	made := maker{Meter: m}
	all := &metrics{
		operation:   made.histogram("messaging.client.operation.duration", "Time until a message, or a commit of several, is confirmed.", durationBounds),
		process:     made.histogram("messaging.process.duration", "Time from the delivery until the handler has returned and what it sent is confirmed.", durationBounds),
		critical:    made.histogram("harebus.critical_time", "Time from the sending of a message until its handling was a success.", criticalBounds),
		sent:        made.sum("messaging.client.sent.messages", "{message}", "Messages sent to the broker, also those that it did not confirm."),
		consumed:    made.sum("messaging.client.consumed.messages", "{message}", "Attempts to handle a message."),
		attempts:    made.sum("harebus.attempts", "{attempt}", "Attempts to handle a message, by what became of the message."),
		connects:    made.sum("harebus.connects", "{attempt}", "Attempts to connect to a broker."),
		inFlight:    made.level("harebus.messages.in_flight", "{message}", "Messages that are being handled now."),
		connections: made.level("harebus.connections", "{connection}", "Connections that are up."),
		blocked:     made.level("harebus.connections.blocked", "{connection}", "Connections on which the broker blocks publishers."),
		consumers:   made.level("harebus.consumers", "{consumer}", "Consumers that consume now."),
		waiting:     made.level("harebus.outbox.waiting", "{message}", "Messages of an outbox that are not published yet."),
		oldest:      made.gauge("harebus.outbox.oldest", "Age of the oldest message that is not published yet."),
		lag:         made.gauge("harebus.outbox.lag", "Longest time until a message was published, since the last look."),
		refused:     made.level("harebus.outbox.refused", "{message}", "Messages of an outbox that the broker refused."),
		due:         made.sum("harebus.schedule.due", "{due time}", "Due times of schedules, by what became of them."),
		late:        made.sum("harebus.schedule.late", "{due time}", "Due times that were fired more than ten seconds late."),
		leads:       made.sum("harebus.schedule.leader_changes", "{takeover}", "How often an instance became the leader of the schedules."),
	}
	if err := errors.Join(made.errs...); err != nil {
		return nil, fmt.Errorf("otelbus: make metrics: %w", err)
	}
	return all, nil
}

// maker makes instruments and gathers what fails.
type maker struct {
	metric.Meter
	errs []error
}

func (m *maker) histogram(name, about string, bounds []float64) metric.Float64Histogram {
	made, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(about), metric.WithExplicitBucketBoundaries(bounds...))
	m.errs = append(m.errs, err)
	return made
}

// sum makes a counter that only rises.
func (m *maker) sum(name, unit, about string) *counter {
	c := &counter{}
	_, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about), metric.WithInt64Callback(c.observe))
	m.errs = append(m.errs, err)
	return c
}

// level makes a counter that rises and falls.
func (m *maker) level(name, unit, about string) *counter {
	c := &counter{}
	_, err := m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(about), metric.WithInt64Callback(c.observe))
	m.errs = append(m.errs, err)
	return c
}

// gauge makes a metric of a time, which is counted in nanoseconds and reported in seconds.
func (m *maker) gauge(name, about string) *counter {
	c := &counter{}
	_, err := m.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(about), metric.WithFloat64Callback(c.observeTime))
	m.errs = append(m.errs, err)
	return c
}

// counter is a metric that counts.
type counter struct {
	mu     sync.Mutex // guards series
	series []*count
}

// count is one series of a counter.
type count struct {
	atomic.Int64
	attributes []metric.ObserveOption
}

// with makes the series with these attributes. The caller asks for each only once.
func (c *counter) with(attributes ...attribute.KeyValue) *count {
	made := &count{attributes: []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.series = append(c.series, made)
	return made
}

// observe reports all series.
func (c *counter) observe(_ context.Context, to metric.Int64Observer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.series {
		to.Observe(one.Load(), one.attributes...)
	}
	return nil
}

// observeTime reports all series as times.
func (c *counter) observeTime(_ context.Context, to metric.Float64Observer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.series {
		to.Observe(time.Duration(one.Load()).Seconds(), one.attributes...)
	}
	return nil
}

// recorded is a set of attributes in the form in which a histogram takes it.
func recorded(attributes ...attribute.KeyValue) []metric.RecordOption {
	return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
}
