package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harebus/harebus"
)

// sweep varies one thing and keeps the others.
type sweep struct {
	name   string
	axis   string // what the values are
	kinds  []string
	values []int
	at     func(kind string, value int) setting
}

// setting is one value of a sweep: a contest, and how those who take part are
// set up.
type setting struct {
	spec
	contenders []*library
	prefetched int     // messages, by all consumers together
	limit      float64 // messages a second that are possible, at most; 0 if it does not matter
}

var bothKinds = []string{"quorum", "classic"}

// handlerWait is how long a handler takes that waits for somebody, as for a
// database.
const handlerWait = 5 * time.Millisecond

func sweeps() []sweep {
	return []sweep{
		{"goroutines", "goroutines that publish", bothKinds, []int{1, 4, 16, 64, 256, 1000}, func(kind string, n int) setting {
			return publishingTo(kind, small, n, 1)
		}},
		{"queues", "queues", bothKinds, []int{1, 2, 4, 8, 16}, func(kind string, n int) setting {
			return publishingTo(kind, small, 256, n)
		}},
		{"size", "bytes of a body", bothKinds, []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}, func(kind string, n int) setting {
			return publishingTo(kind, n, 32, 1)
		}},
		{"window", "unconfirmed messages, at most", bothKinds, []int{16, 64, 256, 1000, 4000}, func(kind string, n int) setting {
			s := publishingTo(kind, small, 4000, 1)
			s.contenders = []*library{harebusTuned(harebus.PublishConfig{Window: n}, harebus.ConsumeConfig{})}
			return s
		}},
		{"consumers", "consumers of one queue", bothKinds, []int{1, 2, 4, 8, 16}, func(kind string, n int) setting {
			return consuming(kind, harebus.ConsumeConfig{Consumers: n, Concurrency: workers, Prefetch: prefetch})
		}},
		{"concurrency", "handlers at once, each waiting 5 ms", []string{"quorum"}, []int{1, 4, 16, 64, 256}, func(kind string, n int) setting {
			s := consuming(kind, harebus.ConsumeConfig{Consumers: 1, Concurrency: n, Prefetch: 5 * n})
			s.limit = float64(n) / handlerWait.Seconds()
			s.contenders = []*library{waiting(s.contenders[0], handlerWait)}
			return s
		}},
		{"prefetch", "prefetch", bothKinds, []int{1, 3, 10, 30, 100, 300, 1000, 3000}, func(kind string, n int) setting {
			s := consuming(kind, harebus.ConsumeConfig{Consumers: 1, Concurrency: min(workers, n), Prefetch: n})
			s.limit = 2500 * float64(n)
			return s
		}},
	}
}

func publishingTo(kind string, size, goroutines, queues int) setting {
	return setting{
		spec:       spec{"publish", kind, size, goroutines, queues, nil},
		contenders: []*library{harebusLibrary(), rawLibrary()},
	}
}

func consuming(kind string, consume harebus.ConsumeConfig) setting {
	return setting{
		spec:       spec{"consume", kind, small, 0, 1, nil},
		contenders: []*library{harebusTuned(harebus.PublishConfig{}, consume)},
		prefetched: consume.Consumers * consume.Prefetch,
	}
}

// waiting is a library whose handlers take some time.
func waiting(l *library, wait time.Duration) *library {
	slow := *l
	slow.consume = func(ctx context.Context, p *place, queue string, seen func(*job)) (stopper, error) {
		return l.consume(ctx, p, queue, func(j *job) {
			time.Sleep(wait)
			seen(j)
		})
	}
	return &slow
}

// paced is the pace at this setting.
func (s *setting) paced(p pace) pace {
	p.spare = 5*prefetch + s.prefetched
	if s.limit > 0 {
		const least = 20
		p.messages = max(min(p.messages, int(s.limit*p.duration.Seconds())), least)
	}
	return p
}

// ends keeps the first and the last value.
func (s *sweep) ends() { s.values = []int{s.values[0], s.values[len(s.values)-1]} }

// measure carries the sweep out.
func (s *sweep) measure(ctx context.Context, on *shapes) error {
	for _, kind := range s.kinds {
		for _, value := range s.values {
			if err := s.measureAt(ctx, on, kind, value); err != nil {
				return fmt.Errorf("bench: %s of %d: %w", s.name, value, err)
			}
		}
	}
	return nil
}

func (s *sweep) measureAt(ctx context.Context, on *shapes, kind string, value int) (err error) {
	on.say("%s %d, %s", s.name, value, kind)
	at := s.at(kind, value)
	c := &contest{spec: at.spec, place: on.server.place(kind), pace: at.paced(on.pace)}
	defer func() { err = errors.Join(err, c.finish()) }()
	if err := c.prepare(ctx); err != nil {
		return err
	}
	sizes := make([]memory, len(at.contenders))
	for i, l := range at.contenders {
		if sizes[i], err = c.memory(ctx, l); err != nil {
			return fmt.Errorf("memory of %s: %w", l.name, err)
		}
	}
	tallies, err := c.contend(ctx, at.contenders)
	if err != nil {
		return err
	}
	for i, t := range tallies {
		r := newRow(at.spec, c.place.version, t, c.pace.noise)
		if err := on.report.add(shapeRow{Shape: s.name, X: float64(value), row: r, memory: sizes[i]}); err != nil {
			return err
		}
	}
	return nil
}
